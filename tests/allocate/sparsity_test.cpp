#include <losa/allocate/sparsity.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <vector>

#include <losa/core/random.hpp>

namespace {

double weighted_mean(const std::vector<double>& s, const std::vector<double>& size) {
  double total = 0;
  double weights = 0;
  for (std::size_t i = 0; i < s.size(); ++i) {
    total += s[i] * (size.empty() ? 1.0 : size[i]);
    weights += size.empty() ? 1.0 : size[i];
  }
  return total / weights;
}

double objective(const std::vector<double>& importance, const std::vector<double>& s, const std::vector<double>& size) {
  double total = 0;
  for (std::size_t i = 0; i < s.size(); ++i) total += importance[i] * s[i] * (size.empty() ? 1.0 : size[i]);
  return total;
}

/// Least objective over all vertices of the box cut by the equality: every layer at a bound but one.
double brute_force(const std::vector<double>& importance, const std::vector<double>& size, double target, double lower,
                   double upper) {
  const std::size_t n = importance.size();
  double weights = 0;
  for (std::size_t i = 0; i < n; ++i) weights += size.empty() ? 1.0 : size[i];
  double best = std::numeric_limits<double>::infinity();
  for (std::size_t free = 0; free < n; ++free)
    for (std::size_t bits = 0; bits < (std::size_t{1} << n); ++bits) {
      std::vector<double> s(n);
      double rest = target * weights;
      for (std::size_t i = 0; i < n; ++i) {
        if (i == free) continue;
        s[i] = ((bits >> i) & 1u) != 0 ? upper : lower;
        rest -= s[i] * (size.empty() ? 1.0 : size[i]);
      }
      s[free] = rest / (size.empty() ? 1.0 : size[free]);
      if (s[free] < lower - 1e-12 || s[free] > upper + 1e-12) continue;
      best = std::min(best, objective(importance, s, size));
    }
  return best;
}

}  // namespace

TEST_CASE("Eq. 5 by hand") {
  const auto s = losa::allocate_sparsity(std::vector<double>{3, 1, 2, 4}, {.target = 0.5, .delta = 0.1});
  CHECK(s == std::vector<double>{0.4, 0.6, 0.6, 0.4});
  const auto odd = losa::allocate_sparsity(std::vector<double>{3, 1, 2}, {.target = 0.5, .delta = 0.1});
  CHECK(odd[0] == 0.4);
  CHECK(odd[1] == 0.6);
  CHECK(odd[2] == doctest::Approx(0.5).epsilon(1e-15));
}

TEST_CASE("Eq. 5 by size: one layer between the bounds") {
  // Box [0.4, 0.6], sizes 1, 2, 4 (7 in all), budget above 0.4: 0.7. Least important layer 2 takes 0.7 of its 0.8.
  const std::vector<double> sizes = {1, 2, 4};
  const auto s = losa::allocate_sparsity(std::vector<double>{2, 3, 1}, {.target = 0.5, .delta = 0.1, .sizes = sizes});
  CHECK(s[0] == 0.4);
  CHECK(s[1] == 0.4);
  CHECK(s[2] == doctest::Approx(0.4 + 0.7 / 4).epsilon(1e-14));
}

TEST_CASE("Eq. 5 equals the best vertex of the linear programme") {
  const losa::Random random{.seed = 11};
  std::uint64_t draw = 0;
  for (int round = 0; round < 300; ++round) {
    const std::size_t n = 1 + random.below(7, draw++);
    std::vector<double> importance(n);
    std::vector<double> size(round % 3 == 0 ? 0 : n);
    for (double& value : importance) value = random.uniform(draw++);
    for (double& value : size) value = static_cast<double>(1 + random.below(9, draw++));
    const double target = random.uniform(draw++) * 0.99;
    const double delta = random.uniform(draw++) * 0.4;
    const auto s = losa::allocate_sparsity(importance, {.target = target, .delta = delta, .sizes = size});
    const double lower = std::max(0.0, target - delta);
    const double upper = std::min(1.0, target + delta);
    CAPTURE(round);
    CHECK(weighted_mean(s, size) == doctest::Approx(target).epsilon(1e-14));
    std::size_t between = 0;
    for (double value : s) {
      CHECK(value >= lower);
      CHECK(value <= upper);
      CHECK(value < 1.0);
      between += value > lower && value < std::min(upper, 1.0 - 1e-16);
    }
    CHECK(between <= 1);
    CHECK(objective(importance, s, size) ==
          doctest::Approx(brute_force(importance, size, target, lower, upper)).epsilon(1e-12));
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j)
        if (importance[i] > importance[j]) CHECK(s[i] <= s[j]);  // more important, less sparse
  }
}

TEST_CASE("Eq. 5 sees the order of importance alone") {
  const std::vector<double> importance = {0.3, 0.9, 0.1, 0.7, 0.5};
  const losa::SparsityOptions options{.target = 0.7, .delta = 0.03};
  const auto base = losa::allocate_sparsity(importance, options);
  auto mapped = importance;
  for (double& value : mapped) value = std::exp(100 * value);
  CHECK(losa::allocate_sparsity(mapped, options) == base);
  for (double& value : mapped) value = std::log(value) - 1e6;
  CHECK(losa::allocate_sparsity(mapped, options) == base);
}

TEST_CASE("Eq. 5 makes the lower index the sparser one where importance is equal") {
  const auto s = losa::allocate_sparsity(std::vector<double>(4, 1.0), {.target = 0.5, .delta = 0.1});
  CHECK(s == std::vector<double>{0.6, 0.6, 0.4, 0.4});
}

TEST_CASE("Eq. 5 with the box cut off at 0 and 1") {
  const std::vector<double> importance = {1, 2, 3, 4};
  const auto low = losa::allocate_sparsity(importance, {.target = 0.01, .delta = 0.03});
  CHECK(low[3] == 0.0);
  CHECK(weighted_mean(low, {}) == doctest::Approx(0.01).epsilon(1e-13));
  CHECK(low[0] == doctest::Approx(0.04).epsilon(1e-13));
  const auto high = losa::allocate_sparsity(importance, {.target = 0.99, .delta = 0.03});
  CHECK(high[0] < 1.0);
  CHECK(high[0] > 1.0 - 1e-15);
  CHECK(weighted_mean(high, {}) == doctest::Approx(0.99).epsilon(1e-14));
  const auto wide = losa::allocate_sparsity(importance, {.target = 0.5, .delta = 5});
  CHECK(wide[0] < 1.0);
  CHECK(wide[3] == 0.0);
  CHECK(losa::allocate_sparsity(importance, {.target = 0, .delta = 0}) == std::vector<double>(4, 0.0));
  CHECK(losa::allocate_sparsity(importance, {.target = 0.7, .delta = 0}) == std::vector<double>(4, 0.7));
  CHECK(losa::allocate_sparsity({}, {.target = 0.7, .delta = 0.1}).empty());
}

TEST_CASE("Eq. 5 refuses what makes no sense") {
  const std::vector<double> importance = {1, 2};
  CHECK_THROWS_WITH_AS(losa::allocate_sparsity(importance, {.target = 1, .delta = 0}),
                       "allocate_sparsity: target must be in [0, 1), got 1", losa::RangeError);
  CHECK_THROWS_AS(losa::allocate_sparsity(importance, {.target = -0.1, .delta = 0}), losa::RangeError);
  CHECK_THROWS_WITH_AS(losa::allocate_sparsity(importance, {.target = 0.5, .delta = -0.1}),
                       "allocate_sparsity: delta must be at least 0 and finite, got -0.1", losa::RangeError);
  const std::vector<double> three = {1, 2, 3};
  CHECK_THROWS_WITH_AS(losa::allocate_sparsity(importance, {.target = 0.5, .delta = 0.1, .sizes = three}),
                       "allocate_sparsity: 2 layers need 2 sizes, got 3", losa::ShapeError);
  const std::vector<double> empty_layer = {1, 0};
  CHECK_THROWS_WITH_AS(losa::allocate_sparsity(importance, {.target = 0.5, .delta = 0.1, .sizes = empty_layer}),
                       "allocate_sparsity: size of layer 1 must be positive and finite, got 0", losa::RangeError);
  const std::vector<double> nan = {1, std::numeric_limits<double>::quiet_NaN()};
  CHECK_THROWS_WITH_AS(losa::allocate_sparsity(nan, {.target = 0.5, .delta = 0.1}),
                       "allocate_sparsity: importance of layer 1 is not finite", losa::RangeError);
}

TEST_CASE("RMI sparsity as an allocator") {
  const losa::RmiMatrix rmi{2, {1, 0.5, 0.5, 1}};
  const losa::RmiMatrix three{3, {1, 0.6, 0.3, 0.6, 1, 0.1, 0.3, 0.1, 1}};
  const losa::RmiSparsity allocator{.delta = 0.1};
  const std::vector<double> sizes = {10, 10, 10};
  const auto s = allocator({.target = 0.5, .sizes = sizes, .rmi = &three});
  CHECK(s[0] == 0.6);  // most redundant
  CHECK(s[2] == 0.4);
  CHECK(losa::SparsityNeeds(allocator.needs).rmi);
  CHECK(allocator({.target = 0.5, .rmi = &rmi}).size() == 2);
  CHECK_THROWS_WITH_AS(allocator({.target = 0.5}), "RmiSparsity: the evidence holds no RMI matrix", losa::RangeError);
}
