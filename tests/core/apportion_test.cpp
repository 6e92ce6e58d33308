#include <losa/core/apportion.hpp>
#include <losa/core/random.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

using losa::apportion;
using Counts = std::vector<std::size_t>;

namespace {

double distance(const Counts& counts, const std::vector<double>& wanted) {
  double sum = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const double d = static_cast<double>(counts[i]) - wanted[i];
    sum += d * d;
  }
  return sum;
}

// Least distance of all counts within the bounds that sum to total.
double best_distance(const std::vector<double>& wanted, std::size_t total, const Counts& lower, const Counts& upper) {
  double best = std::numeric_limits<double>::infinity();
  Counts counts = lower;
  for (;;) {
    if (std::accumulate(counts.begin(), counts.end(), std::size_t{0}) == total)
      best = std::min(best, distance(counts, wanted));
    std::size_t i = 0;
    while (i < counts.size() && counts[i] == upper[i]) {
      counts[i] = lower[i];
      ++i;
    }
    if (i == counts.size()) return best;
    ++counts[i];
  }
}

}  // namespace

TEST_CASE("zeros_target: rounds half away from zero; kept is the rest") {
  CHECK(losa::zeros_target(1000, 0.7) == 700);
  CHECK(losa::zeros_target(5, 0.5) == 3);
  CHECK(losa::zeros_target(0, 0.5) == 0);
  CHECK(losa::kept_target(5, 0.5) == 2);
  CHECK(losa::kept_target(1000, 0.0) == 1000);
  CHECK_THROWS_WITH_AS(losa::zeros_target(10, 1.0), "zeros_target: sparsity must be in [0, 1), got 1",
                       losa::RangeError);
  CHECK_THROWS_AS(losa::kept_target(10, -0.1), losa::RangeError);
}

TEST_CASE("zeros_in_row: sums to Z, differs by at most one, equals the formula") {
  for (std::size_t rows = 1; rows <= 13; ++rows)
    for (std::size_t zeros = 0; zeros <= 5 * rows; ++zeros) {
      std::size_t sum = 0;
      for (std::size_t r = 0; r < rows; ++r) {
        const std::size_t got = losa::zeros_in_row(zeros, rows, r);
        CHECK(got == (r + 1) * zeros / rows - r * zeros / rows);
        CHECK(got >= zeros / rows);
        CHECK(got <= (zeros + rows - 1) / rows);
        sum += got;
      }
      CHECK(sum == zeros);
    }
  // r·Z does not fit into 64 bits here.
  const std::size_t many = std::size_t{1} << 60;
  std::size_t sum = 0;
  for (std::size_t r = 0; r < 4099; ++r) sum += losa::zeros_in_row(many, 4099, r);
  CHECK(sum == many);
}

TEST_CASE("apportion: no counts within the bounds are closer (brute force)") {
  const losa::Random random{.seed = 7};
  std::uint64_t at = 0;
  std::size_t tried = 0;
  for (int round = 0; round < 3000; ++round) {
    const std::size_t n = 1 + random.below(4, at++);
    std::vector<double> wanted(n);
    Counts lower(n);
    Counts upper(n);
    for (std::size_t i = 0; i < n; ++i) {
      wanted[i] = random.uniform(at++) * 9 - 1;
      if (round % 2 == 0) wanted[i] = std::round(wanted[i] * 2) / 2;  // ties
      lower[i] = random.below(4, at++);
      upper[i] = lower[i] + random.below(6, at++);
    }
    const std::size_t least = std::accumulate(lower.begin(), lower.end(), std::size_t{0});
    const std::size_t most = std::accumulate(upper.begin(), upper.end(), std::size_t{0});
    const std::size_t total = least + random.below(most - least + 1, at++);
    const Counts got = apportion(wanted, total, lower, upper);
    REQUIRE(got.size() == n);
    CHECK(std::accumulate(got.begin(), got.end(), std::size_t{0}) == total);
    for (std::size_t i = 0; i < n; ++i) {
      CHECK(got[i] >= lower[i]);
      CHECK(got[i] <= upper[i]);
    }
    CHECK(distance(got, wanted) <= best_distance(wanted, total, lower, upper) + 1e-9);
    tried += n > 1;
  }
  CHECK(tried > 2000);
}

TEST_CASE("apportion: largest remainder, of equal remainders the lower index") {
  const Counts none(3, 0);
  const Counts all(3, 100);
  CHECK(apportion(std::vector{1.2, 1.5, 1.3}, 4, none, all) == Counts{1, 2, 1});
  CHECK(apportion(std::vector{1.5, 1.5, 1.0}, 4, none, all) == Counts{2, 1, 1});
  CHECK(apportion(std::vector{1.0, 2.0, 3.0}, 6, none, all) == Counts{1, 2, 3});
  CHECK(apportion(std::vector{0.0, 0.0, 0.0}, 7, none, all) == Counts{3, 2, 2});
  CHECK(apportion(std::vector{10.0, 10.0, 10.0}, 4, none, all) == Counts{2, 1, 1});
  CHECK(apportion(std::vector{50.0, 1.0, 1.0}, 52, none, Counts{40, 100, 100}) == Counts{40, 6, 6});
  // A share that its lower bound has already lifted above its wish is not served by its remainder.
  CHECK(apportion(std::vector{0.9, 1.5}, 3, Counts{1, 0}, Counts{9, 9}) == Counts{1, 2});
  CHECK(apportion(std::vector<double>{}, 0, Counts{}, Counts{}).empty());
}

TEST_CASE("apportion: large budgets, far from what was wanted") {
  const std::size_t n = 210;
  std::vector<double> wanted(n);
  Counts lower(n, 0);
  Counts upper(n, 900000);
  for (std::size_t i = 0; i < n; ++i) wanted[i] = static_cast<double>(i) * 1000.25;
  const std::size_t total = 100'000'007;
  const Counts got = apportion(wanted, total, lower, upper);
  CHECK(std::accumulate(got.begin(), got.end(), std::size_t{0}) == total);
  // No bound binds, so every share is shifted by the same amount, to within one unit.
  const double shift = static_cast<double>(got[0]) - wanted[0];
  for (std::size_t i = 0; i < n; ++i) CHECK(std::abs(static_cast<double>(got[i]) - wanted[i] - shift) <= 1.0);
}

TEST_CASE("apportion: mistakes in one sentence each") {
  const std::vector<double> wanted{1, 2};
  CHECK_THROWS_WITH_AS(apportion(wanted, 3, Counts{0}, Counts{9, 9}),
                       "apportion: 2 shares need 2 bounds, got 1 lower and 2 upper", losa::ShapeError);
  CHECK_THROWS_WITH_AS(apportion(wanted, 3, Counts{0, 5}, Counts{9, 4}),
                       "apportion: bounds of share 1 run backwards: [5, 4]", losa::RangeError);
  CHECK_THROWS_WITH_AS(apportion(wanted, 19, Counts{1, 1}, Counts{9, 9}),
                       "apportion: total 19 is outside [2, 18], the sums of the lower and upper bounds",
                       losa::RangeError);
  CHECK_THROWS_AS(apportion(wanted, 1, Counts{1, 1}, Counts{9, 9}), losa::RangeError);
  CHECK_THROWS_WITH_AS(
      apportion(std::vector{1.0, std::numeric_limits<double>::infinity()}, 3, Counts{0, 0}, Counts{9, 9}),
      "apportion: share 1 is not finite", losa::RangeError);
}
