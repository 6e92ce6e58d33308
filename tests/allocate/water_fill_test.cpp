#include <losa/allocate/water_fill.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include <losa/core/random.hpp>

namespace {

losa::ScoreCurve curve_of(const std::vector<double>& q) {
  losa::ScoreCurve curve;
  for (double value : q) curve.add(value);
  return curve;
}

double mean_of(const std::vector<losa::ScoreCurve>& curves, const std::vector<double>& s) {
  double removed = 0;
  double weights = 0;
  for (std::size_t l = 0; l < curves.size(); ++l) {
    removed += s[l] * static_cast<double>(curves[l].size());
    weights += static_cast<double>(curves[l].size());
  }
  return removed / weights;
}

/// Scores that lie one to a bin, so that the histogram loses nothing: powers of two.
std::vector<double> octaves(std::initializer_list<int> exponents) {
  std::vector<double> q;
  for (int e : exponents) q.push_back(std::ldexp(1.0, e));
  return q;
}

}  // namespace

TEST_CASE("water-filling by hand: all of the layer whose scores are low") {
  const std::vector<losa::ScoreCurve> curves = {curve_of({1, 2, 3, 4}), curve_of({10, 20, 30, 40})};
  const auto s = losa::water_fill(curves, {}, {.target = 0.5, .max_sparsity = 1.0});
  CHECK(s == std::vector<double>{1, 0});
  CHECK(curves[0].distortion(s[0]) + curves[1].distortion(s[1]) == 10.0);
  CHECK(curves[0].distortion(0.5) + curves[1].distortion(0.5) == 33.0);  // uniform

  const auto capped = losa::water_fill(curves, {}, {.target = 0.5, .min_sparsity = 0.25, .max_sparsity = 0.75});
  CHECK(capped == std::vector<double>{0.75, 0.25});
  const std::vector<double> gains = {100, 1};  // 100 … 400 against 10 … 40
  CHECK(losa::water_fill(curves, gains, {.target = 0.5, .max_sparsity = 1.0}) == std::vector<double>{0, 1});
}

TEST_CASE("water-filling equals brute force over all counts") {
  const losa::Random random{.seed = 17};
  std::uint64_t draw = 0;
  for (int round = 0; round < 40; ++round) {
    // Exponents without repetition over both layers, so that the best counts are unique.
    std::vector<int> exponents(12);
    for (int e = 0; e < 12; ++e) exponents[static_cast<std::size_t>(e)] = 3 * e - 20;
    for (std::size_t i = 11; i > 0; --i) std::swap(exponents[i], exponents[random.below(i + 1, draw++)]);
    const std::size_t n1 = 3 + random.below(6, draw++);
    std::vector<double> q1;
    std::vector<double> q2;
    for (std::size_t i = 0; i < 12; ++i) (i < n1 ? q1 : q2).push_back(std::ldexp(1.0, exponents[i]));
    const std::vector<losa::ScoreCurve> curves = {curve_of(q1), curve_of(q2)};
    std::sort(q1.begin(), q1.end());
    std::sort(q2.begin(), q2.end());
    const double gain = round % 2 == 0 ? 1.0 : 0.5;
    const std::vector<double> gains = {1.0, gain};
    const std::size_t total = 1 + random.below(11, draw++);

    double best = std::numeric_limits<double>::infinity();
    std::size_t best1 = 0;
    for (std::size_t k1 = 0; k1 <= std::min(total, q1.size()); ++k1) {
      if (total - k1 > q2.size()) continue;
      double d = 0;
      for (std::size_t i = 0; i < k1; ++i) d += q1[i];
      for (std::size_t i = 0; i < total - k1; ++i) d += gain * q2[i];
      if (d < best) {
        best = d;
        best1 = k1;
      }
    }
    const auto s = losa::water_fill(curves, gains, {.target = static_cast<double>(total) / 12.0, .max_sparsity = 1.0});
    CAPTURE(round);
    CHECK(s[0] * static_cast<double>(q1.size()) == doctest::Approx(static_cast<double>(best1)).epsilon(1e-9));
    CHECK(s[1] * static_cast<double>(q2.size()) == doctest::Approx(static_cast<double>(total - best1)).epsilon(1e-9));
  }
}

TEST_CASE("water-filling meets the mean, keeps the bounds, and sets one threshold") {
  const losa::Random random{.seed = 18};
  std::vector<losa::ScoreCurve> curves(5);
  std::uint64_t draw = 0;
  for (std::size_t l = 0; l < curves.size(); ++l)
    for (std::size_t i = 0; i < 8000 * (l + 1); ++i)
      curves[l].add(std::exp(2 * random.normal(draw++) + static_cast<double>(l)));
  const std::vector<double> gains = {1, 2, 0.5, 4, 0.1};
  for (double target : {0.0, 0.05, 0.3, 0.5, 0.7, 0.93}) {
    const double lower = std::max(0.0, target - 0.15);
    const double upper = std::min(0.97, target + 0.15);
    const auto s = losa::water_fill(curves, gains, {.target = target, .min_sparsity = lower, .max_sparsity = upper});
    CHECK(mean_of(curves, s) == doctest::Approx(target).epsilon(1e-12));
    double least = std::numeric_limits<double>::infinity();
    double most = 0;
    for (std::size_t l = 0; l < curves.size(); ++l) {
      CHECK(s[l] >= lower);
      CHECK(s[l] <= upper);
      const double level = gains[l] * curves[l].threshold(s[l]);
      if (s[l] > lower + 1e-9 && s[l] < upper - 1e-9) {
        least = std::min(least, level);
        most = std::max(most, level);
      }
    }
    if (most > 0) CHECK(most / least < 1.02);
  }
}

TEST_CASE("water-filling of equal curves, equal scores and empty matrices") {
  const std::vector<losa::ScoreCurve> same = {curve_of({1, 2, 4, 8}), curve_of({1, 2, 4, 8}), losa::ScoreCurve{}};
  const auto s = losa::water_fill(same, {}, {.target = 0.375});
  CHECK(s[0] == doctest::Approx(0.375).epsilon(1e-12));
  CHECK(s[1] == doctest::Approx(0.375).epsilon(1e-12));
  CHECK(s[2] == 0.375);
  // Zeros only: whatever the level, the fraction is met.
  const std::vector<losa::ScoreCurve> zeros = {curve_of({0, 0, 0, 0}), curve_of({0, 0})};
  CHECK(mean_of(zeros, losa::water_fill(zeros, {}, {.target = 0.5})) == doctest::Approx(0.5).epsilon(1e-12));
  CHECK(losa::water_fill({}, {}, {.target = 0.5}).empty());
}

TEST_CASE("water-filling refuses what makes no sense") {
  const std::vector<losa::ScoreCurve> curves = {curve_of(octaves({1, 2}))};
  const std::vector<double> two = {1, 1};
  CHECK_THROWS_WITH_AS(losa::water_fill(curves, two, {.target = 0.5}), "water_fill: 1 curves need 1 gains, got 2",
                       losa::ShapeError);
  const std::vector<double> zero = {0};
  CHECK_THROWS_WITH_AS(losa::water_fill(curves, zero, {.target = 0.5}),
                       "water_fill: gain of matrix 0 must be positive and finite, got 0", losa::RangeError);
  CHECK_THROWS_AS(losa::water_fill(curves, {}, {.target = 0.5, .min_sparsity = 0.6}), losa::RangeError);
  CHECK_THROWS_AS(losa::water_fill(curves, {}, {.target = 0.995}), losa::RangeError);
  CHECK_THROWS_AS(losa::water_fill(curves, {}, {.target = std::numeric_limits<double>::quiet_NaN()}), losa::RangeError);
}

TEST_CASE("water-filling as an allocator") {
  const std::vector<losa::ScoreCurve> curves = {curve_of({1, 2, 3, 4}), curve_of({10, 20, 30, 40})};
  const losa::WaterFill reach{.below = 0.25, .above = 0.25};
  CHECK(reach({.target = 0.5, .curves = curves}) == std::vector<double>{0.75, 0.25});
  CHECK(losa::WaterFill{}({.target = 0.999, .curves = curves}) == std::vector<double>{0.999, 0.999});
  CHECK(losa::SparsityNeeds(reach.needs).curves);
}
