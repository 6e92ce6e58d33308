#include <losa/mask/magnitude.hpp>
#include <losa/mask/policy.hpp>
#include <losa/mask/wanda.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <span>
#include <vector>

#include "matrices.hpp"

using losa::Mask;
using losa::NofM;
using losa::select;
using losa::Unstructured;
using losa::Wanda;
using test::Matrix;

namespace {

std::vector<double> square_norms(const Matrix& x) {
  std::vector<double> sums(x.cols);
  for (std::size_t t = 0; t < x.rows; ++t)
    for (std::size_t c = 0; c < x.cols; ++c) sums[c] += static_cast<double>(x(t, c)) * x(t, c);
  return sums;
}

Wanda wanda(const std::vector<double>& sums) { return Wanda(std::span<const double>(sums)); }

// Anything with sum_squares().
struct Norms {
  std::vector<double> sums;
  std::span<const double> sum_squares() const { return sums; }
};

const std::vector<losa::Pattern> patterns{Unstructured{0.5}, Unstructured{0.7}, Unstructured{0.6, losa::Group::layer},
                                          NofM{2, 4}, NofM{4, 8}};

}  // namespace

static_assert(losa::StatisticsScore<Wanda>);
static_assert(losa::StatisticsScore<losa::Magnitude>);
static_assert(Wanda::needs.square_norms && !Wanda::needs.hessian && !Wanda::needs.moments && !Wanda::needs.gradient);
static_assert(!losa::Magnitude::needs.square_norms);

TEST_CASE("wanda: |w|·‖X_j‖ by hand") {
  const std::vector<double> sums{4, 0, 2.25};
  const Wanda score = wanda(sums);
  CHECK(score(0, 0, -3.0f) == 6.0f);
  CHECK(score(5, 1, 100.0f) == 0.0f);
  CHECK(score(1, 2, 2.0f) == 3.0f);
  CHECK(Wanda(Norms{sums})(0, 0, -3.0f) == 6.0f);
  const Wanda made = Wanda::from({.square_norms = sums});
  CHECK(made(0, 2, 2.0f) == 3.0f);
}

TEST_CASE("wanda: scaling all inputs leaves the mask") {
  const Matrix w = test::normal_matrix(20, 64, 1);
  const std::vector<double> sums = square_norms(test::normal_matrix(50, 64, 2));
  for (double factor : {1e-6, 1.0 / 50, 3.7, 1e9}) {
    std::vector<double> scaled = sums;
    for (double& s : scaled) s *= factor;
    for (const losa::Pattern& pattern : patterns)
      CHECK(select(wanda(scaled), w.view(), pattern) == select(wanda(sums), w.view(), pattern));
  }
}

TEST_CASE("wanda: scaling an input column up and its weights down leaves the mask") {
  Matrix w = test::normal_matrix(20, 64, 1);
  Matrix x = test::normal_matrix(50, 64, 2);
  std::vector<Mask> before;
  for (const losa::Pattern& pattern : patterns) before.push_back(select(wanda(square_norms(x)), w.view(), pattern));
  for (std::size_t c = 0; c < 64; ++c) {
    const float factor = std::ldexp(1.0f, static_cast<int>(c % 9) - 4);
    for (std::size_t t = 0; t < 50; ++t) x(t, c) *= factor;
    for (std::size_t r = 0; r < 20; ++r) w(r, c) /= factor;
  }
  for (std::size_t p = 0; p < patterns.size(); ++p)
    CHECK(select(wanda(square_norms(x)), w.view(), patterns[p]) == before[p]);
}

TEST_CASE("wanda: equal norms are magnitude; a column without input goes first, lower index first") {
  const Matrix w = test::normal_matrix(6, 8, 1);
  std::vector<double> sums(8, 9.0);
  CHECK(select(wanda(sums), w.view(), Unstructured{0.5}) == select(losa::Magnitude{}, w.view(), Unstructured{0.5}));
  sums[2] = sums[5] = sums[7] = 0;
  const Mask mask = select(wanda(sums), w.view(), losa::ExactZeros{12});
  for (std::size_t r = 0; r < 6; ++r)
    for (std::size_t c = 0; c < 8; ++c) CHECK(mask(r, c) == (c != 2 && c != 5));
}

TEST_CASE("wanda: norms of another width, or none, are an error") {
  const Matrix w = test::normal_matrix(2, 8, 1);
  CHECK_THROWS_WITH_AS(select(wanda({1, 2, 3}), w.view(), Unstructured{0.5}),
                       "Wanda: 3 column norms for a weight of 2 × 8", losa::ShapeError);
  CHECK_THROWS_WITH_AS(select(Wanda{}, w.view(), Unstructured{0.5}), "Wanda: 0 column norms for a weight of 2 × 8",
                       losa::ShapeError);
}

TEST_CASE("policy: a score from statistics lifts by its type and is made anew for every layer") {
  auto policy = losa::as_policy(Wanda{});
  static_assert(losa::MaskPolicy<decltype(policy)>);
  static_assert(decltype(policy)::needs.square_norms);
  Matrix w = test::normal_matrix(6, 16, 1);
  const Matrix original = w;
  for (std::uint64_t layer = 0; layer < 2; ++layer) {
    const std::vector<double> sums = square_norms(test::normal_matrix(9, 16, layer));
    const Mask mask = policy.prune(w.view(), {.square_norms = sums}, {.pattern = Unstructured{0.5}});
    CHECK(mask == select(wanda(sums), w.view(), Unstructured{0.5}));
    const Mask nested = policy.prune(w.view(), {.square_norms = sums}, {.pattern = Unstructured{0.7}, .within = &mask});
    CHECK(nested.subset_of(mask));
    CHECK(nested.zeros() == losa::zeros_target(96, 0.7));
  }
  CHECK(w.data == original.data);
  CHECK_THROWS_AS(policy.prune(w.view(), {}, {.pattern = Unstructured{0.5}}), losa::ShapeError);
}

TEST_CASE("policy: a score that knows its layer lifts by its value, a policy is itself, a rule of counts is a type") {
  const std::vector<float> importance{1, 2, 3, 4};
  struct Mine {
    std::span<const float> importance;
    float operator()(std::size_t, std::size_t col, float w) const { return std::abs(w) * importance[col]; }
  };
  auto policy = losa::as_policy(Mine{importance});
  static_assert(losa::MaskPolicy<decltype(policy)>);
  Matrix w = test::normal_matrix(3, 4, 1);
  CHECK(policy.prune(w.view(), {}, {.pattern = NofM{2, 4}}) == select(Mine{importance}, w.view(), NofM{2, 4}));

  // Reads gradients: nothing else need change for it.
  struct GradientPolicy {
    losa::StatisticsNeeds needs{.gradient = true};
    Mask prune(losa::MatrixView<float> weight, const losa::LayerStatistics& statistics, const losa::PruneTask& task) {
      return select([&](std::size_t r, std::size_t c, float v) { return std::abs(v) * statistics.gradient(r, c); },
                    weight, task.pattern, {.within = task.within, .executor = task.executor});
    }
  };
  static_assert(losa::MaskPolicy<GradientPolicy>);
  auto mine = losa::as_policy(GradientPolicy{});
  static_assert(std::is_same_v<decltype(mine), GradientPolicy>);
  const Matrix gradient = test::normal_matrix(3, 4, 9);
  CHECK(mine.prune(w.view(), {.gradient = gradient.view()}, {.pattern = NofM{1, 4}}).kept() == 3);

  struct OnePerRow {
    static std::vector<std::size_t> row_zeros(const losa::ZeroBudget&, std::size_t rows, std::size_t) {
      return std::vector<std::size_t>(rows, 1);
    }
    static std::vector<std::size_t> block_zeros(const losa::ZeroBudget&, std::size_t, std::size_t, std::size_t) {
      return {1};
    }
  };
  const losa::ScorePolicy<losa::Magnitude, OnePerRow> ruled;
  CHECK(ruled.prune(w.view(), {}, {.pattern = Unstructured{0.5}}).zeros() == 3);
  const losa::FixedScorePolicy<losa::Magnitude, OnePerRow> fixed{};
  CHECK(fixed.prune(w.view(), {}, {.pattern = Unstructured{0.5}}).zeros() == 3);
}
