#include <losa/mask/magnitude.hpp>
#include <losa/mask/sparsegpt.hpp>
#include <losa/mask/wanda.hpp>

#include <doctest/doctest.h>

#include <Eigen/Dense>
#include <algorithm>
#include <any>
#include <cmath>
#include <limits>
#include <utility>
#include <variant>
#include <vector>

#include "matrices.hpp"

using losa::ExactZeros;
using losa::GivenMask;
using losa::Group;
using losa::Mask;
using losa::NofM;
using losa::SparseGpt;
using losa::Unstructured;
using test::Matrix;

static_assert(losa::MaskPolicy<SparseGpt>);
static_assert(SparseGpt::needs.hessian && !SparseGpt::needs.square_norms);

namespace {

using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

losa::LayerStatistics statistics(const std::vector<double>& h) {
  const auto n = static_cast<std::size_t>(std::lround(std::sqrt(static_cast<double>(h.size()))));
  return {.hessian = losa::view(h.data(), n, n)};
}

std::vector<double> diagonal(const std::vector<double>& entries) {
  std::vector<double> h(entries.size() * entries.size());
  for (std::size_t i = 0; i < entries.size(); ++i) h[i * entries.size() + i] = entries[i];
  return h;
}

Eigen::MatrixXd eigen(const std::vector<double>& h) {
  const auto n = static_cast<Eigen::Index>(std::lround(std::sqrt(static_cast<double>(h.size()))));
  return Eigen::Map<const RowMajor>(h.data(), n, n);
}

// δᵀHδ summed over rows: the squared output error of replacing `before` by the masked `after`.
double output_error(const Matrix& before, const Matrix& after, const Mask& mask, const Eigen::MatrixXd& h) {
  double sum = 0;
  for (std::size_t r = 0; r < before.rows; ++r) {
    Eigen::VectorXd d(h.rows());
    for (std::size_t c = 0; c < before.cols; ++c)
      d(static_cast<Eigen::Index>(c)) = before(r, c) - (mask(r, c) ? static_cast<double>(after(r, c)) : 0.0);
    sum += d.dot(h * d);
  }
  return sum;
}

// One row, column by column, each removal spread over the columns to its right by least squares: with w_j → 0 and
// columns before j fixed, the update of columns R = {j+1, …} minimises δᵀHδ, that is H_RR·δ_R = −H_Rj·δ_j.
std::vector<double> by_least_squares(std::vector<double> w, const std::vector<bool>& keep, const Eigen::MatrixXd& h) {
  const Eigen::Index n = h.rows();
  for (Eigen::Index j = 0; j < n; ++j) {
    if (keep[static_cast<std::size_t>(j)]) continue;
    const double removed = -w[static_cast<std::size_t>(j)];
    w[static_cast<std::size_t>(j)] = 0;
    const Eigen::Index rest = n - j - 1;
    if (rest == 0) continue;
    const Eigen::VectorXd update = h.bottomRightCorner(rest, rest).ldlt().solve(-h.block(j + 1, j, rest, 1) * removed);
    for (Eigen::Index k = 0; k < rest; ++k) w[static_cast<std::size_t>(j + 1 + k)] += update(k);
  }
  return w;
}

struct Swept {
  Mask mask;
  std::vector<double> weights;  // (rows, cols)
};

// SparseGPT by its definition, one column after another over the whole width; `block` is a multiple of M.
Swept by_columns(const Matrix& before, const std::vector<double>& h, const losa::Pattern& pattern, std::size_t block) {
  const std::size_t cols = before.cols;
  const auto u = losa::inverse_factor(losa::view(h.data(), cols, cols));
  Swept swept{Mask::full(before.rows, cols), std::vector<double>(before.rows * cols)};
  std::vector<double>& w = swept.weights;
  for (std::size_t r = 0; r < before.rows; ++r)
    for (std::size_t c = 0; c < cols; ++c) w[r * cols + c] = before(r, c);
  // Prunes the lowest of the scores in a rectangle.
  const auto prune = [&](std::size_t r0, std::size_t r1, std::size_t c0, std::size_t c1, std::size_t zeros) {
    std::vector<std::pair<double, std::size_t>> order;
    for (std::size_t r = r0; r < r1; ++r)
      for (std::size_t c = c0; c < c1; ++c) order.emplace_back(std::pow(w[r * cols + c] / u(c, c), 2), r * cols + c);
    std::sort(order.begin(), order.end());
    for (std::size_t i = 0; i < zeros; ++i) swept.mask.set(order[i].second / cols, order[i].second % cols, false);
  };
  const auto* groups = std::get_if<NofM>(&pattern);
  std::vector<std::size_t> zeros;
  if (groups == nullptr)
    zeros = losa::ExactCounts::block_zeros(losa::budget_of(pattern, before.rows, cols), before.rows, cols, block);
  for (std::size_t c = 0; c < cols; ++c) {
    if (groups != nullptr && c % groups->m == 0)
      for (std::size_t r = 0; r < before.rows; ++r) prune(r, r + 1, c, c + groups->m, groups->m - groups->n);
    if (groups == nullptr && c % block == 0) {
      const std::size_t last = std::min(cols, c + block);
      prune(0, before.rows, c, last, zeros[c / block]);
    }
    for (std::size_t r = 0; r < before.rows; ++r) {
      if (swept.mask(r, c)) continue;
      const double error = w[r * cols + c] / u(c, c);
      for (std::size_t k = c; k < cols; ++k) w[r * cols + k] -= error * u(c, k);
    }
  }
  return swept;
}

std::size_t zeros_in(const Mask& mask, std::size_t first, std::size_t last) {
  std::size_t zeros = 0;
  for (std::size_t r = 0; r < mask.rows(); ++r)
    for (std::size_t c = first; c < last; ++c) zeros += !mask(r, c);
  return zeros;
}

}  // namespace

TEST_CASE("sparsegpt: two weights by hand") {
  const std::vector<double> h{2, 1, 1, 2};
  Matrix w(1, 2);
  w.data = {1, 1};
  Mask mask(1, 2);
  mask.set(0, 1, true);
  const Matrix before = w;
  SparseGpt policy{.damping = 0};
  CHECK(policy.prune(w.view(), statistics(h), {.pattern = GivenMask{&mask}}) == mask);
  CHECK(w(0, 1) == 1.5f);
  CHECK(w(0, 0) == 1.0f);  // what is pruned keeps what it held
  CHECK(output_error(before, w, mask, eigen(h)) / 2 == doctest::Approx(0.75));
  CHECK(policy.damping_used() == 0);
  CHECK(policy.report.raises == 0);
}

TEST_CASE("sparsegpt: a diagonal Hessian chooses as Wanda does and updates nothing") {
  const Matrix original = test::normal_matrix(12, 40, 1);
  std::vector<double> norms(40);
  for (std::size_t c = 0; c < 40; ++c) norms[c] = 0.5 + losa::Random{.seed = 3}.uniform(c);
  const losa::Wanda wanda{std::span<const double>(norms)};
  // Without damping; damping would add the same to every diagonal element and so change their ratios.
  for (const auto& [pattern, group] :
       {std::pair<losa::Pattern, losa::Pattern>{Unstructured{0.6}, Unstructured{0.6, Group::column_block, 16}},
        std::pair<losa::Pattern, losa::Pattern>{ExactZeros{77}, ExactZeros{77, Group::column_block, 16}},
        std::pair<losa::Pattern, losa::Pattern>{NofM{2, 4}, NofM{2, 4}}}) {
    Matrix w = original;
    SparseGpt policy{.damping = 0, .block = 16};
    const Mask mask = policy.prune(w.view(), statistics(diagonal(norms)), {.pattern = pattern});
    CHECK(mask == losa::select(wanda, original.view(), group));
    CHECK(w.data == original.data);
  }
}

TEST_CASE("sparsegpt: with H = I it is magnitude, damped or not; scaling H changes nothing") {
  const Matrix original = test::normal_matrix(9, 20, 2);
  const Mask expected = losa::select(losa::Magnitude{}, original.view(), Unstructured{0.5, Group::layer});
  for (double damping : {0.0, 0.01, 0.1}) {
    Matrix w = original;
    SparseGpt policy{.damping = damping};
    CHECK(policy.prune(w.view(), statistics(diagonal(std::vector<double>(20, 1.0))), {.pattern = Unstructured{0.5}}) ==
          expected);
    CHECK(w.data == original.data);
  }
  const std::vector<double> h = test::random_hessian(20, 50, 4);
  std::vector<double> scaled = h;
  for (double& value : scaled) value *= 0.125;
  Matrix a = original;
  Matrix b = original;
  SparseGpt policy;
  CHECK(policy.prune(a.view(), statistics(h), {.pattern = Unstructured{0.5}}) ==
        policy.prune(b.view(), statistics(scaled), {.pattern = Unstructured{0.5}}));
  for (std::size_t i = 0; i < a.data.size(); ++i) CHECK(a.data[i] == doctest::Approx(b.data[i]).epsilon(1e-6));
}

TEST_CASE("sparsegpt: values are least squares over the columns to the right, and no better than the optimum") {
  for (std::size_t n = 2; n <= 10; ++n)
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
      const std::vector<double> h = test::random_hessian(n, 3 * n, 10 * n + seed);
      const Matrix before = test::normal_matrix(1, n, seed);
      Matrix w = before;
      SparseGpt policy{.damping = 0.01};
      const Mask mask = policy.prune(w.view(), statistics(h), {.pattern = Unstructured{0.5}});
      CHECK(mask.zeros() == losa::zeros_target(n, 0.5));

      Eigen::MatrixXd damped = eigen(h);
      damped.diagonal().array() += 0.01 * eigen(h).diagonal().mean();
      std::vector<bool> keep(n);
      for (std::size_t c = 0; c < n; ++c) keep[c] = mask(0, c);
      const std::vector<double> expected =
          by_least_squares(std::vector<double>(before.data.begin(), before.data.end()), keep, damped);
      for (std::size_t c = 0; c < n; ++c)
        if (keep[c]) CHECK(w(0, c) == doctest::Approx(expected[c]).epsilon(1e-5));

      // The optimum on the same support: columns K kept, H_KK·δ_K = −H_KP·δ_P.
      std::vector<Eigen::Index> kept;
      std::vector<Eigen::Index> pruned;
      for (std::size_t c = 0; c < n; ++c) (keep[c] ? kept : pruned).push_back(static_cast<Eigen::Index>(c));
      Eigen::VectorXd delta = Eigen::VectorXd::Zero(static_cast<Eigen::Index>(n));
      for (Eigen::Index p : pruned) delta(p) = -static_cast<double>(before.data[static_cast<std::size_t>(p)]);
      const Eigen::MatrixXd h_kk = damped(kept, kept);
      const Eigen::VectorXd rhs = -damped(kept, pruned) * delta(pruned);
      const Eigen::VectorXd shift = h_kk.ldlt().solve(rhs);
      delta(kept) = shift;
      const double best = delta.dot(damped * delta);
      CHECK(output_error(before, w, mask, damped) >= best * (1 - 1e-5));
    }
}

TEST_CASE("sparsegpt: column by column by its definition, whatever the shape, the block and the group") {
  const auto check = [](std::size_t rows, std::size_t cols, const losa::Pattern& pattern, std::size_t block) {
    CAPTURE(rows);
    CAPTURE(cols);
    CAPTURE(block);
    const std::vector<double> h = test::random_hessian(cols, 2 * cols, cols);
    const Matrix before = test::normal_matrix(rows, cols, rows, 1);
    const Swept expected = by_columns(before, h, pattern, block);
    Matrix w = before;
    SparseGpt policy{.block = block};
    CHECK(policy.prune(w.view(), statistics(h), {.pattern = pattern}) == expected.mask);
    std::size_t wrong = 0;
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < cols; ++c)
        if (expected.mask(r, c)) wrong += !(std::abs(w(r, c) - expected.weights[r * cols + c]) < 1e-5);
    CHECK(wrong == 0);
  };
  // Rows around a strip and a task, columns around strips; blocks that begin inside a strip.
  for (std::size_t rows : {1u, 23u, 25u, 97u})
    for (std::size_t block : {1u, 7u, 24u, 48u, 100u, 128u}) {
      check(rows, 23, Unstructured{0.5}, block);
      check(rows, 144, Unstructured{0.6}, block);
      check(rows, 210, Unstructured{0.7}, block);
    }
  for (const NofM pattern : {NofM{2, 4}, NofM{2, 5}, NofM{3, 7}, NofM{10, 30}, NofM{30, 70}, NofM{100, 210}})
    for (std::size_t rows : {1u, 50u, 97u}) check(rows, pattern.m == 4 ? 212 : 210, pattern, 128);
}

TEST_CASE("sparsegpt: layers that read the same input share one factor, and prune as without") {
  const std::size_t n = 90;
  const std::vector<double> h = test::random_hessian(n, 200, 1);
  std::any slot;
  losa::LayerStatistics seen = statistics(h);
  seen.tokens = 200;
  losa::LayerStatistics shared = seen;
  shared.derived = &slot;
  SparseGpt policy;
  const auto same_as_unshared = [&](const losa::LayerStatistics& with, std::size_t rows) {
    losa::LayerStatistics without = with;
    without.derived = nullptr;
    Matrix a = test::normal_matrix(rows, n, rows);
    Matrix b = a;
    CHECK(policy.prune(a.view(), with, {.pattern = Unstructured{0.6}}) ==
          policy.prune(b.view(), without, {.pattern = Unstructured{0.6}}));
    CHECK(a.data == b.data);
    return std::any_cast<losa::detail::SharedFactor>(slot).factor.get();
  };
  const auto* first = same_as_unshared(shared, 40);
  CHECK(same_as_unshared(shared, 17) == first);
  CHECK(policy.damping_used() == 0.01);

  // What the slot holds is made with other options, of other numbers, or somebody else's.
  policy.damping = 0.1;
  const auto* second = same_as_unshared(shared, 40);
  CHECK(std::any_cast<losa::detail::SharedFactor>(slot).options.damping == 0.1);
  CHECK(policy.damping_used() == 0.1);
  CHECK(same_as_unshared(shared, 41) == second);
  policy.max_raises = 5;
  same_as_unshared(shared, 40);
  CHECK(std::any_cast<losa::detail::SharedFactor>(slot).options.max_raises == 5);
  const std::vector<double> other = test::random_hessian(n, 200, 2);
  losa::LayerStatistics moved = shared;
  moved.hessian = losa::view(other.data(), n, n);
  same_as_unshared(moved, 40);
  moved.tokens = 300;  // more was seen since
  same_as_unshared(moved, 40);
  CHECK(std::any_cast<losa::detail::SharedFactor>(slot).tokens == 300);
  slot = 3.5f;
  same_as_unshared(shared, 40);
}

TEST_CASE("sparsegpt: less output error than Wanda on correlated inputs") {
  const std::size_t n = 96;
  const Matrix before = test::normal_matrix(32, n, 1);
  const std::vector<double> h = test::random_hessian(n, 400, 2);
  std::vector<double> norms(n);
  for (std::size_t c = 0; c < n; ++c) norms[c] = h[c * n + c];
  for (const losa::Pattern& pattern : {losa::Pattern(Unstructured{0.5}), losa::Pattern(Unstructured{0.7}),
                                       losa::Pattern(NofM{2, 4}), losa::Pattern(NofM{4, 8})}) {
    Matrix w = before;
    SparseGpt policy{.block = 32};
    const Mask mask = policy.prune(w.view(), statistics(h), {.pattern = pattern});
    const Mask wanda = losa::select(losa::Wanda{std::span<const double>(norms)}, before.view(), pattern);
    CHECK(output_error(before, w, mask, eigen(h)) < 0.9 * output_error(before, before, wanda, eigen(h)));
  }
}

TEST_CASE("sparsegpt: counts are exact, blocks share zeros by width") {
  const std::size_t n = 50;
  const std::vector<double> h = test::random_hessian(n, 150, 6);
  for (std::size_t block : {1u, 7u, 16u, 50u, 128u})
    for (std::size_t zeros : {0u, 1u, 137u, 333u, 549u, 550u}) {
      Matrix w = test::normal_matrix(11, n, 7);
      SparseGpt policy{.block = block};
      const Mask mask = policy.prune(w.view(), statistics(h), {.pattern = ExactZeros{zeros}});
      CHECK(mask.zeros() == zeros);
      for (std::size_t c = 0; c < n; c += block) {
        const std::size_t last = std::min(n, c + block);
        const double share = static_cast<double>(zeros * (last - c)) / static_cast<double>(n);
        CHECK(std::abs(static_cast<double>(zeros_in(mask, c, last)) - share) < 1.0);
      }
    }
}

TEST_CASE("sparsegpt: N:M in every group, also where M does not divide the block") {
  const std::vector<double> h = test::random_hessian(30, 90, 6);
  for (const NofM pattern : {NofM{1, 2}, NofM{2, 3}, NofM{2, 5}, NofM{3, 6}, NofM{0, 3}, NofM{5, 15}})
    for (std::size_t block : {1u, 7u, 128u}) {
      Matrix w = test::normal_matrix(40, 30, 7, 2);
      SparseGpt policy{.block = block};
      const Mask mask = policy.prune(w.view(), statistics(h), {.pattern = pattern});
      for (std::size_t r = 0; r < 40; ++r)
        for (std::size_t c = 0; c < 30; c += pattern.m) {
          std::size_t kept = 0;
          for (std::size_t k = 0; k < pattern.m; ++k) kept += mask(r, c + k);
          CHECK(kept == pattern.n);
        }
    }
}

TEST_CASE("sparsegpt: with a given mask the width of blocks makes no difference") {
  const std::size_t n = 70;
  const std::vector<double> h = test::random_hessian(n, 200, 1);
  const Matrix before = test::normal_matrix(40, n, 2, 5);
  const Mask mask = test::random_mask(40, n, 0.4, 3);
  Matrix expected = before;
  SparseGpt whole{.block = n};
  CHECK(whole.prune(expected.view(), statistics(h), {.pattern = GivenMask{&mask}}) == mask);
  double change = 0;
  for (std::size_t r = 0; r < 40; ++r)
    for (std::size_t c = 0; c < n; ++c) {
      change += std::abs(expected(r, c) - before(r, c));
      if (!mask(r, c)) CHECK(expected(r, c) == before(r, c));
    }
  CHECK(change > 1);
  for (std::size_t block : {1u, 3u, 16u, 64u, 1000u}) {
    Matrix w = before;
    SparseGpt policy{.block = block};
    CHECK(policy.prune(w.view(), statistics(h), {.pattern = GivenMask{&mask}}) == mask);
    for (std::size_t r = 0; r < 40; ++r)
      for (std::size_t c = 0; c < n; ++c) CHECK(w(r, c) == doctest::Approx(expected(r, c)).epsilon(1e-6));
  }
}

TEST_CASE("sparsegpt: N:M chooses the same in blocks of any width that holds whole groups") {
  const std::vector<double> h = test::random_hessian(64, 200, 1);
  const Matrix before = test::normal_matrix(20, 64, 2);
  Matrix expected = before;
  SparseGpt whole{.block = 64};
  const Mask mask = whole.prune(expected.view(), statistics(h), {.pattern = NofM{2, 4}});
  for (std::size_t block : {4u, 16u, 18u}) {
    Matrix w = before;
    SparseGpt policy{.block = block};
    CHECK(policy.prune(w.view(), statistics(h), {.pattern = NofM{2, 4}}) == mask);
    for (std::size_t i = 0; i < w.data.size(); ++i) CHECK(w.data[i] == doctest::Approx(expected.data[i]).epsilon(1e-6));
  }
}

TEST_CASE("sparsegpt: within a mask") {
  const std::size_t n = 24;
  const std::vector<double> h = test::random_hessian(n, 100, 1);
  const Matrix before = test::normal_matrix(5, n, 2);
  for (std::size_t first = 0; first <= 120; first += 8) {
    Matrix w = before;
    SparseGpt policy{.block = 7};
    const Mask outer = policy.prune(w.view(), statistics(h), {.pattern = ExactZeros{first}});
    for (std::size_t second = first; second <= 120; second += 4) {
      Matrix again = w;
      const Mask inner = policy.prune(again.view(), statistics(h), {.pattern = ExactZeros{second}, .within = &outer});
      CHECK(inner.subset_of(outer));
      CHECK(inner.zeros() == second);
      if (second == first) {
        // Nothing more is removed, so nothing changes: what `within` prunes is gone already.
        CHECK(inner == outer);
        CHECK(again.data == w.data);
      }
      for (std::size_t r = 0; r < 5; ++r)
        for (std::size_t c = 0; c < n; ++c)
          if (!inner(r, c)) CHECK(again(r, c) == w(r, c));
    }
  }
  // Whatever stands outside `within` has no influence.
  Mask within = test::random_mask(5, n, 0.8, 5);
  Matrix a = before;
  Matrix b = before;
  for (std::size_t r = 0; r < 5; ++r)
    for (std::size_t c = 0; c < n; ++c)
      if (!within(r, c)) b(r, c) = 100;
  SparseGpt policy{.block = 8};
  const losa::PruneTask task{.pattern = Unstructured{0.6}, .within = &within};
  const Mask mask = policy.prune(a.view(), statistics(h), task);
  CHECK(policy.prune(b.view(), statistics(h), task) == mask);
  for (std::size_t r = 0; r < 5; ++r)
    for (std::size_t c = 0; c < n; ++c)
      if (mask(r, c)) CHECK(a(r, c) == b(r, c));
}

TEST_CASE("sparsegpt: N:M within a mask") {
  const std::vector<double> h = test::random_hessian(16, 100, 1);
  Matrix w = test::normal_matrix(6, 16, 2);
  SparseGpt policy;
  const Mask outer = policy.prune(w.view(), statistics(h), {.pattern = NofM{3, 4}});
  const Mask inner = policy.prune(w.view(), statistics(h), {.pattern = NofM{1, 4}, .within = &outer});
  CHECK(inner.subset_of(outer));
  CHECK(inner.kept() == 24);
  CHECK_THROWS_WITH_AS(policy.prune(w.view(), statistics(h), {.pattern = NofM{2, 4}, .within = &inner}),
                       "SparseGpt: `within` keeps 1 of the 4 columns from 0 in row 0, pattern 2:4 needs 2",
                       losa::RangeError);
}

TEST_CASE("sparsegpt: dead columns go first and pass nothing on; of equal scores the lower index") {
  const std::size_t n = 12;
  std::vector<double> h = test::random_hessian(n, 60, 1);
  for (std::size_t dead : {3u, 8u})
    for (std::size_t c = 0; c < n; ++c) h[dead * n + c] = h[c * n + dead] = 0;
  const Matrix before = test::normal_matrix(4, n, 2);
  Matrix w = before;
  SparseGpt policy;
  const Mask mask = policy.prune(w.view(), statistics(h), {.pattern = ExactZeros{6}});
  CHECK(policy.report.dead_columns == 2);
  // Eight weights have score 0; the first six of them in row-major order go.
  for (std::size_t r = 0; r < 4; ++r)
    for (std::size_t c = 0; c < n; ++c) CHECK(mask(r, c) == !((c == 3 || c == 8) && r < 3));
  CHECK(w.data == before.data);
}

TEST_CASE("sparsegpt: damping rises and is told, or the error says what happened") {
  const std::vector<double> ones(16, 1.0);
  Matrix w = test::normal_matrix(2, 4, 1);
  SparseGpt policy{.damping = 0};
  CHECK(policy.prune(w.view(), statistics(ones), {.pattern = Unstructured{0.5}}).zeros() == 4);
  CHECK(policy.damping_used() == 1e-6);
  CHECK(policy.report.raises == 1);
  // All inputs are the same number, so one weight can take over for all: the output hardly changes.
  std::vector<double> better(16, 1.0);
  CHECK(policy.prune(w.view(), statistics(better), {.pattern = NofM{1, 4}}).kept() == 2);
  SparseGpt strict{.damping = 0, .max_raises = 0};
  CHECK_THROWS_WITH_AS(strict.prune(w.view(), statistics(ones), {.pattern = Unstructured{0.5}}),
                       "SparseGpt: the Hessian is not positive definite even with damping 0", losa::NumericError);
}

TEST_CASE("sparsegpt: same bits for every executor") {
  const std::size_t n = 150;
  const std::vector<double> h = test::random_hessian(n, 300, 1);
  const Matrix before = test::normal_matrix(100, n, 2);
  const Mask given = test::random_mask(100, n, 0.5, 2);
  for (const losa::Pattern& pattern :
       {losa::Pattern(Unstructured{0.57}), losa::Pattern(NofM{2, 5}), losa::Pattern(GivenMask{&given})}) {
    Matrix expected = before;
    SparseGpt policy{.block = 64};
    const Mask mask = policy.prune(expected.view(), statistics(h), {.pattern = pattern});
    test::with_executors([&](losa::ExecutorRef executor) {
      Matrix w = before;
      CHECK(policy.prune(w.view(), statistics(h), {.pattern = pattern, .executor = executor}) == mask);
      CHECK(w.data == expected.data);
    });
  }
}

TEST_CASE("sparsegpt: another rule of counts is another type") {
  struct FivePerBlock {
    static std::vector<std::size_t> row_zeros(const losa::ZeroBudget&, std::size_t, std::size_t) { return {}; }
    static std::vector<std::size_t> block_zeros(const losa::ZeroBudget&, std::size_t, std::size_t cols,
                                                std::size_t block) {
      return std::vector<std::size_t>((cols + block - 1) / block, 5);
    }
  };
  const std::vector<double> h = test::random_hessian(20, 100, 1);
  Matrix w = test::normal_matrix(4, 20, 2);
  losa::BasicSparseGpt<FivePerBlock> policy{.block = 8};
  static_assert(losa::MaskPolicy<decltype(policy)>);
  const Mask mask = policy.prune(w.view(), statistics(h), {.pattern = Unstructured{0.5}});
  CHECK(zeros_in(mask, 0, 8) == 5);
  CHECK(zeros_in(mask, 8, 16) == 5);
  CHECK(zeros_in(mask, 16, 20) == 5);
}

TEST_CASE("sparsegpt: empty matrices") {
  Matrix none(0, 4);
  const std::vector<double> h = diagonal({1, 1, 1, 1});
  SparseGpt policy;
  CHECK(policy.prune(none.view(), statistics(h), {.pattern = Unstructured{0.5}}).size() == 0);
  CHECK(policy.prune(none.view(), statistics(h), {.pattern = NofM{2, 4}}).cols() == 4);
  Matrix narrow(4, 0);
  CHECK(policy.prune(narrow.view(), {}, {.pattern = Unstructured{0.5}}).rows() == 4);
}

TEST_CASE("sparsegpt: mistakes in one sentence each") {
  Matrix w = test::normal_matrix(2, 4, 1);
  const std::vector<double> h = test::random_hessian(4, 10, 1);
  const std::vector<double> small = test::random_hessian(3, 10, 1);
  SparseGpt policy;
  const losa::PruneTask half{.pattern = Unstructured{0.5}};
  CHECK_THROWS_WITH_AS(policy.prune(w.view(), {}, half), "SparseGpt: hessian must be 4 × 4, got 0 × 0",
                       losa::ShapeError);
  CHECK_THROWS_AS(policy.prune(w.view(), statistics(small), half), losa::ShapeError);
  CHECK_THROWS_WITH_AS(policy.prune(w.view(), statistics(h), {.pattern = Unstructured{1}}),
                       "SparseGpt: sparsity must be in [0, 1), got 1", losa::RangeError);
  CHECK_THROWS_WITH_AS(policy.prune(w.view(), statistics(h), {.pattern = NofM{1, 3}}),
                       "SparseGpt: mask pattern 1:3 needs `in` to be a multiple of 3, got weight 2 × 4",
                       losa::ShapeError);
  const Mask wide = Mask::full(2, 5);
  CHECK_THROWS_WITH_AS(policy.prune(w.view(), statistics(h), {.pattern = Unstructured{0.5}, .within = &wide}),
                       "SparseGpt: `within` is 2 × 5, the weight 2 × 4", losa::ShapeError);
  const Mask none(2, 4);
  CHECK_THROWS_WITH_AS(policy.prune(w.view(), statistics(h), {.pattern = Unstructured{0.5}, .within = &none}),
                       "SparseGpt: `within` has 8 zeros already, more than the 4 wanted", losa::RangeError);
  const Mask full = Mask::full(2, 4);
  CHECK_THROWS_WITH_AS(policy.prune(w.view(), statistics(h), {.pattern = GivenMask{&full}, .within = &none}),
                       "SparseGpt: the given mask keeps weights that `within` prunes", losa::RangeError);
  SparseGpt no_block{.block = 0};
  CHECK_THROWS_WITH_AS(no_block.prune(w.view(), statistics(h), half),
                       "SparseGpt: a column block must have at least one column, got 0", losa::RangeError);
  SparseGpt negative{.damping = -0.5};
  CHECK_THROWS_WITH_AS(negative.prune(w.view(), statistics(h), half),
                       "SparseGpt: damping must be finite and not negative, got -0.5", losa::RangeError);
  w(1, 2) = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_WITH_AS(policy.prune(w.view(), statistics(h), half), "SparseGpt: weight (1, 2) is not finite",
                       losa::NumericError);
}
