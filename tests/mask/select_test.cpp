#include <losa/mask/magnitude.hpp>
#include <losa/mask/select.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "matrices.hpp"

using losa::ExactZeros;
using losa::GivenMask;
using losa::Group;
using losa::Magnitude;
using losa::Mask;
using losa::NofM;
using losa::select;
using losa::Unstructured;
using test::Matrix;

namespace {

using Positions = std::vector<std::pair<std::size_t, std::size_t>>;

// Prunes the `count` lowest |w| of a group by sorting all of it; `group` is in row-major order.
void prune_lowest(Mask& mask, const Matrix& w, Positions group, std::size_t count) {
  std::stable_sort(group.begin(), group.end(), [&](const auto& a, const auto& b) {
    return std::abs(w(a.first, a.second)) < std::abs(w(b.first, b.second));
  });
  for (std::size_t i = 0; i < count; ++i) mask.set(group[i].first, group[i].second, false);
}

Positions rectangle(std::size_t r0, std::size_t r1, std::size_t c0, std::size_t c1) {
  Positions positions;
  for (std::size_t r = r0; r < r1; ++r)
    for (std::size_t c = c0; c < c1; ++c) positions.emplace_back(r, c);
  return positions;
}

Mask sorted_rows(const Matrix& w, std::size_t zeros) {
  Mask mask = Mask::full(w.rows, w.cols);
  for (std::size_t r = 0; r < w.rows; ++r)
    prune_lowest(mask, w, rectangle(r, r + 1, 0, w.cols), losa::zeros_in_row(zeros, w.rows, r));
  return mask;
}

Mask sorted_layer(const Matrix& w, std::size_t zeros) {
  Mask mask = Mask::full(w.rows, w.cols);
  prune_lowest(mask, w, rectangle(0, w.rows, 0, w.cols), zeros);
  return mask;
}

Mask sorted_groups(const Matrix& w, std::size_t n, std::size_t m) {
  Mask mask = Mask::full(w.rows, w.cols);
  for (std::size_t r = 0; r < w.rows; ++r)
    for (std::size_t c = 0; c < w.cols; c += m) prune_lowest(mask, w, rectangle(r, r + 1, c, c + m), m - n);
  return mask;
}

std::size_t zeros_in(const Mask& mask, std::size_t first, std::size_t last) {
  std::size_t zeros = 0;
  for (std::size_t r = 0; r < mask.rows(); ++r)
    for (std::size_t c = first; c < last; ++c) zeros += !mask(r, c);
  return zeros;
}

}  // namespace

TEST_CASE("select_lowest: the lowest by score, then by index, for every count") {
  const std::vector<float> scores{2, 1, 2, -1, 2, 1, 0, -0.0f, std::numeric_limits<float>::infinity()};
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] < scores[b]; });
  std::vector<float> scratch;
  for (std::size_t count = 0; count <= scores.size(); ++count) {
    std::vector<std::size_t> expected(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count));
    std::sort(expected.begin(), expected.end());
    std::vector<std::size_t> got;
    losa::select_lowest(std::span<const float>(scores), count, scratch, [&](std::size_t i) { got.push_back(i); });
    CHECK(got == expected);
  }
}

TEST_CASE("select: equals sorting, with and without ties, for every pattern") {
  for (bool tied : {false, true})
    for (std::size_t rows : {1u, 3u, 35u})
      for (std::size_t cols : {8u, 72u, 136u}) {
        const Matrix w = tied ? test::tied_matrix(rows, cols, rows + cols) : test::normal_matrix(rows, cols, cols, 3);
        for (double sparsity : {0.0, 0.013, 0.5, 0.61, 0.99}) {
          const std::size_t zeros = losa::zeros_target(rows * cols, sparsity);
          CHECK(select(Magnitude{}, w.view(), Unstructured{sparsity}) == sorted_rows(w, zeros));
          CHECK(select(Magnitude{}, w.view(), ExactZeros{zeros}) == sorted_rows(w, zeros));
          CHECK(select(Magnitude{}, w.view(), Unstructured{sparsity, Group::layer}) == sorted_layer(w, zeros));
          CHECK(select(Magnitude{}, w.view(), ExactZeros{zeros, Group::layer}) == sorted_layer(w, zeros));
          CHECK(select(Magnitude{}, w.view(), Unstructured{sparsity, Group::column_block, cols}) ==
                sorted_layer(w, zeros));
        }
        for (const NofM pattern : {NofM{2, 4}, NofM{1, 4}, NofM{4, 8}, NofM{0, 2}, NofM{8, 8}, NofM{1, 1}})
          CHECK(select(Magnitude{}, w.view(), pattern) == sorted_groups(w, pattern.n, pattern.m));
      }
}

TEST_CASE("select: column blocks share zeros by width and choose over all rows") {
  const Matrix w = test::normal_matrix(10, 100, 4);
  for (std::size_t block : {1u, 7u, 32u, 64u, 99u, 100u, 128u})
    for (double sparsity : {0.0, 0.137, 0.5, 0.733}) {
      const std::size_t zeros = losa::zeros_target(1000, sparsity);
      const Mask mask = select(Magnitude{}, w.view(), Unstructured{sparsity, Group::column_block, block});
      CHECK(mask.zeros() == zeros);
      Mask expected = Mask::full(10, 100);
      for (std::size_t c = 0; c < 100; c += block) {
        const std::size_t last = std::min<std::size_t>(100, c + block);
        const std::size_t got = zeros_in(mask, c, last);
        CHECK(std::abs(static_cast<double>(got) - static_cast<double>(zeros * (last - c)) / 100) < 1.0);
        prune_lowest(expected, w, rectangle(0, 10, c, last), got);
      }
      CHECK(mask == expected);
    }
}

TEST_CASE("select: exact count in every row, also where zeros do not divide evenly") {
  const Matrix w = test::normal_matrix(13, 40, 1);
  for (std::size_t zeros = 0; zeros <= 520; zeros += 7) {
    const Mask mask = select(Magnitude{}, w.view(), ExactZeros{zeros});
    CHECK(mask.zeros() == zeros);
    for (std::size_t r = 0; r < 13; ++r) CHECK(40 - mask.kept_in_row(r) == (r + 1) * zeros / 13 - r * zeros / 13);
  }
}

TEST_CASE("select: within the last mask for every pair of rising targets, total exact") {
  // Five rows: from 2 zeros to 3 row 2 would have to give one back; it keeps it, and another row takes one less.
  const Matrix w = test::normal_matrix(5, 12, 3);
  for (Group group : {Group::row, Group::layer, Group::column_block})
    for (std::size_t first = 0; first <= 60; ++first) {
      const Mask before = select(Magnitude{}, w.view(), ExactZeros{first, group, 5});
      for (std::size_t second = first; second <= 60; ++second) {
        const Mask after = select(Magnitude{}, w.view(), ExactZeros{second, group, 5}, {.within = &before});
        REQUIRE(after.subset_of(before));
        REQUIRE(after.zeros() == second);
        if (second == first) REQUIRE(after == before);
        if (group == Group::layer) REQUIRE(after == select(Magnitude{}, w.view(), ExactZeros{second, group}));
      }
    }
}

TEST_CASE("select: rows that are emptier than their share keep it, the others take less, evenly") {
  const Matrix w = test::normal_matrix(4, 10, 8);
  Mask within = Mask::full(4, 10);
  for (std::size_t c = 0; c < 9; ++c) within.set(1, c, false);  // nine zeros in row 1
  const Mask mask = select(Magnitude{}, w.view(), ExactZeros{20}, {.within = &within});
  CHECK(mask.subset_of(within));
  CHECK(mask.zeros() == 20);
  CHECK(mask.kept_in_row(1) == 1);
  for (std::size_t r : {0u, 2u, 3u}) {
    CHECK(mask.kept_in_row(r) >= 6);
    CHECK(mask.kept_in_row(r) <= 7);
  }
  // Among the others the lowest still go.
  const Mask alone = select(Magnitude{}, w.view(), ExactZeros{4 * (10 - mask.kept_in_row(0))});
  for (std::size_t c = 0; c < 10; ++c) CHECK(mask(0, c) == alone(0, c));
}

TEST_CASE("select: what within prunes goes first, whatever its score") {
  Matrix w(1, 4);
  w.data = {9, 1, 2, 3};
  Mask within = Mask::full(1, 4);
  within.set(0, 0, false);
  const Mask mask = select(Magnitude{}, w.view(), ExactZeros{2}, {.within = &within});
  CHECK_FALSE(mask(0, 0));
  CHECK_FALSE(mask(0, 1));
  CHECK(mask.kept() == 2);
  const Mask groups = select(Magnitude{}, w.view(), NofM{2, 4}, {.within = &within});
  CHECK(groups == mask);
}

TEST_CASE("select: a given mask is returned as it is") {
  const Matrix w = test::normal_matrix(3, 70, 1);
  const Mask given = test::random_mask(3, 70, 0.5, 2);
  CHECK(select(Magnitude{}, w.view(), GivenMask{&given}) == given);
  const Mask all = Mask::full(3, 70);
  CHECK(select(Magnitude{}, w.view(), GivenMask{&given}, {.within = &all}) == given);
}

TEST_CASE("select: a score of one's own, a lambda, and one that checks shapes") {
  const Matrix w = test::normal_matrix(4, 8, 5);
  // Prefers to prune the last columns.
  const Mask mask = select([](std::size_t, std::size_t col, float) { return -static_cast<float>(col); }, w.view(),
                           Unstructured{0.25});
  for (std::size_t r = 0; r < 4; ++r)
    for (std::size_t c = 0; c < 8; ++c) CHECK(mask(r, c) == (c < 6));
  struct Picky {
    float operator()(std::size_t, std::size_t, float) const { return 0; }
    void validate(std::size_t rows, std::size_t cols) const {
      if (cols != 9) losa::detail::raise<losa::ShapeError>("Picky: wants 9 columns, got ", rows, " × ", cols);
    }
  };
  CHECK_THROWS_WITH_AS(select(Picky{}, w.view(), Unstructured{0.5}), "Picky: wants 9 columns, got 4 × 8",
                       losa::ShapeError);
  // Scores see row, column and weight.
  std::size_t wrong = 0;
  static_cast<void>(select(
      [&](std::size_t r, std::size_t c, float value) {
        wrong += value != w(r, c);
        return value;
      },
      w.view(), Unstructured{0.5}));
  CHECK(wrong == 0);
}

TEST_CASE("select: infinite scores are never first choice, NaN is an error") {
  Matrix w(1, 4);
  w.data = {std::numeric_limits<float>::infinity(), 5, -std::numeric_limits<float>::infinity(), 4};
  const Mask mask = select(Magnitude{}, w.view(), Unstructured{0.5});
  CHECK(mask(0, 0));
  CHECK(mask(0, 2));
  w.data[3] = std::numeric_limits<float>::quiet_NaN();
  for (const losa::Pattern& pattern :
       {losa::Pattern(Unstructured{0.5}), losa::Pattern(Unstructured{0.5, Group::layer}), losa::Pattern(NofM{2, 4})})
    CHECK_THROWS_WITH_AS(select(Magnitude{}, w.view(), pattern), "select: the score of weight (0, 3) is not a number",
                         losa::NumericError);
}

TEST_CASE("select: empty matrices") {
  const Matrix none(0, 4);
  CHECK(select(Magnitude{}, none.view(), Unstructured{0.5}).size() == 0);
  CHECK(select(Magnitude{}, none.view(), Unstructured{0.5, Group::layer}).rows() == 0);
  CHECK(select(Magnitude{}, none.view(), NofM{2, 4}).cols() == 4);
  const Matrix narrow(4, 0);
  CHECK(select(Magnitude{}, narrow.view(), Unstructured{0.5, Group::column_block}).rows() == 4);
}

TEST_CASE("select: same mask for every executor") {
  const Matrix w = test::tied_matrix(70, 130, 2);
  for (Group group : {Group::row, Group::layer, Group::column_block}) {
    const Mask expected = select(Magnitude{}, w.view(), Unstructured{0.57, group, 30});
    test::with_executors([&](losa::ExecutorRef executor) {
      CHECK(select(Magnitude{}, w.view(), Unstructured{0.57, group, 30}, {.executor = executor}) == expected);
    });
  }
  const Mask expected = select(Magnitude{}, w.view(), NofM{3, 5});
  test::with_executors([&](losa::ExecutorRef executor) {
    CHECK(select(Magnitude{}, w.view(), NofM{3, 5}, {.executor = executor}) == expected);
  });
}

TEST_CASE("select: another rule of counts is another type") {
  // Two zeros in every row and three in every block, whatever was asked for.
  struct TwoAndThree {
    static std::vector<std::size_t> row_zeros(const losa::ZeroBudget& budget, std::size_t rows, std::size_t) {
      CHECK(budget.zeros == 16);
      CHECK(budget.sparsity == 0.5);
      return std::vector<std::size_t>(rows, 2);
    }
    static std::vector<std::size_t> block_zeros(const losa::ZeroBudget&, std::size_t, std::size_t cols,
                                                std::size_t block) {
      return std::vector<std::size_t>((cols + block - 1) / block, 3);
    }
  };
  static_assert(losa::CountRule<TwoAndThree>);
  static_assert(losa::CountRule<losa::ExactCounts>);
  const Matrix w = test::normal_matrix(4, 8, 5);
  const Mask rows = select<TwoAndThree>(Magnitude{}, w.view(), Unstructured{0.5});
  for (std::size_t r = 0; r < 4; ++r) CHECK(rows.kept_in_row(r) == 6);
  const Mask blocks = select<TwoAndThree>(Magnitude{}, w.view(), ExactZeros{16, Group::column_block, 4});
  CHECK(zeros_in(blocks, 0, 4) == 3);
  CHECK(zeros_in(blocks, 4, 8) == 3);
  CHECK(select<TwoAndThree>(Magnitude{}, w.view(), Unstructured{0.5, Group::layer}).zeros() == 3);
  CHECK_THROWS_AS(losa::budget_of(NofM{2, 4}, 4, 8), losa::RangeError);
}

TEST_CASE("select: mistakes in one sentence each") {
  const Matrix w = test::normal_matrix(4, 8, 5);
  const Mask small(3, 8);
  const Mask full = Mask::full(4, 8);
  const Mask none(4, 8);
  CHECK_THROWS_WITH_AS(select(Magnitude{}, w.view(), Unstructured{1.5}), "select: sparsity must be in [0, 1), got 1.5",
                       losa::RangeError);
  CHECK_THROWS_WITH_AS(select(Magnitude{}, w.view(), NofM{2, 3}),
                       "select: mask pattern 2:3 needs `in` to be a multiple of 3, got weight 4 × 8", losa::ShapeError);
  CHECK_THROWS_WITH_AS(select(Magnitude{}, w.view(), Unstructured{0.5}, {.within = &small}),
                       "select: `within` is 3 × 8, the weight 4 × 8", losa::ShapeError);
  for (Group group : {Group::row, Group::layer, Group::column_block})
    CHECK_THROWS_WITH_AS(select(Magnitude{}, w.view(), ExactZeros{20, group, 3}, {.within = &none}),
                         "select: `within` has 32 zeros already, more than the 20 wanted", losa::RangeError);
  CHECK_THROWS_WITH_AS(select(Magnitude{}, w.view(), NofM{2, 4}, {.within = &none}),
                       "select: `within` keeps 0 of the 4 columns from 0 in row 0, pattern 2:4 needs 2",
                       losa::RangeError);
  CHECK_THROWS_WITH_AS(select(Magnitude{}, w.view(), GivenMask{&full}, {.within = &none}),
                       "select: the given mask keeps weights that `within` prunes", losa::RangeError);
  CHECK_THROWS_WITH_AS(select(Magnitude{}, w.view(), Unstructured{0.5, Group::column_block, 0}),
                       "select: a column block must have at least one column, got 0", losa::RangeError);
}
