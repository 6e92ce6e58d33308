#include <losa/allocate/score_curve.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <vector>

#include <losa/core/random.hpp>

namespace {

std::vector<double> random_scores(std::size_t n, std::uint64_t stream) {
  const losa::Random random{.seed = 3, .stream = stream};
  std::vector<double> q(n);
  for (std::size_t i = 0; i < n; ++i) q[i] = std::pow(random.normal(i), 2);
  return q;
}

losa::ScoreCurve curve_of(const std::vector<double>& q) {
  losa::ScoreCurve curve;
  for (double value : q) curve.add(value);
  return curve;
}

struct Score {
  float operator()(std::size_t r, std::size_t c, float w) const {
    return std::abs(w) * static_cast<float>(1 + r * 2 + c);
  }
};

}  // namespace

TEST_CASE("score curve: distortion and threshold within a bin of the sorted scores") {
  auto q = random_scores(5000, 1);
  q.push_back(0.0);
  const losa::ScoreCurve curve = curve_of(q);
  REQUIRE(curve.size() == q.size());
  std::sort(q.begin(), q.end());
  double total = 0;
  for (std::size_t k = 1; k <= q.size(); ++k) {
    total += q[k - 1];
    if (k % 97 != 0) continue;
    const double s = static_cast<double>(k) / static_cast<double>(q.size());
    CHECK(curve.threshold(s) == doctest::Approx(q[k - 1]).epsilon(0.07));
    CHECK(curve.distortion(s) == doctest::Approx(total).epsilon(0.05));
    CHECK(std::abs(curve.count_below(curve.threshold(s)) - static_cast<double>(k)) < 1e-6);
  }
  CHECK(curve.distortion(1.0) == doctest::Approx(total).epsilon(1e-12));
  CHECK(curve.distortion(0.0) == 0.0);
  CHECK(curve.threshold(1.0) >= q.back());
}

TEST_CASE("score curve: distortion is convex, threshold and count never fall") {
  const losa::ScoreCurve curve = curve_of(random_scores(3000, 2));
  double last_slope = 0;
  double last_threshold = 0;
  for (int i = 1; i <= 1000; ++i) {
    const double slope = curve.distortion(i / 1000.0) - curve.distortion((i - 1) / 1000.0);
    CHECK(slope >= last_slope - 1e-9);
    last_slope = slope;
    CHECK(curve.threshold(i / 1000.0) >= last_threshold);
    last_threshold = curve.threshold(i / 1000.0);
  }
  double last = 0;
  for (double x = 1e-12; x < 100; x *= 1.01) {
    CHECK(curve.count_below(x) >= last);
    last = curve.count_below(x);
  }
  CHECK(last == 3000.0);
}

TEST_CASE("score curve: shards merge to the whole") {
  const auto q = random_scores(1000, 3);
  losa::ScoreCurve a = curve_of({q.begin(), q.begin() + 300});
  a.merge(curve_of({q.begin() + 300, q.end()}));
  const losa::ScoreCurve whole = curve_of(q);
  CHECK(a.size() == whole.size());
  for (double s : {0.1, 0.5, 0.93}) {
    CHECK(a.threshold(s) == whole.threshold(s));
    CHECK(a.distortion(s) == doctest::Approx(whole.distortion(s)).epsilon(1e-14));
  }
}

TEST_CASE("score curve: a score over a weight") {
  const std::vector<float> w = {1, -2, 3, 0};
  losa::ScoreCurve curve;
  curve.add(Score{}, losa::MatrixView<const float>(w.data(), 2, 2));
  CHECK(curve.size() == 4);
  CHECK(curve.distortion(1.0) == 1.0 + 16.0 + 81.0);  // (1·1)², (2·2)², (3·3)², 0
  CHECK(curve.distortion(0.5) == 1.0);
}

TEST_CASE("score curve: zeros, tiny and huge scores are kept apart") {
  losa::ScoreCurve curve = curve_of({0, 0, 1e-300, 1e300, 1});
  CHECK(curve.count_below(0.0) == 0.0);
  CHECK(curve.count_below(-1.0) == 0.0);
  CHECK(curve.count_below(0.5) == 3.0);
  CHECK(curve.count_below(2.0) == 4.0);
  CHECK(curve.count_below(std::numeric_limits<double>::max()) == 5.0);
  CHECK(curve.threshold(0.3) == 0.0);
  CHECK(losa::ScoreCurve{}.distortion(0.5) == 0.0);
  CHECK(losa::ScoreCurve{}.size() == 0);
}

TEST_CASE("score curve refuses what is no score") {
  losa::ScoreCurve curve;
  CHECK_THROWS_AS(curve.add(-1.0), losa::NumericError);
  CHECK_THROWS_AS(curve.add(std::numeric_limits<double>::infinity()), losa::NumericError);
  CHECK_THROWS_WITH_AS(curve.add(-0.5), "ScoreCurve: a squared score must be at least 0 and finite, got -0.5",
                       losa::NumericError);
  CHECK_THROWS_AS(curve.add(std::numeric_limits<double>::quiet_NaN()), losa::NumericError);
}
