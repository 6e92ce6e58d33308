#include <losa/published/counts.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include <losa/core/random.hpp>
#include <losa/mask/magnitude.hpp>
#include <losa/mask/select.hpp>

static_assert(losa::CountRule<losa::published::Counts>);
static_assert(losa::MaskPolicy<losa::published::Wanda>);
static_assert(losa::MaskPolicy<losa::published::SparseGpt>);

namespace {

std::vector<float> weights(std::size_t n) {
  const losa::Random random{.seed = 31};
  std::vector<float> w(n);
  for (std::size_t i = 0; i < n; ++i) w[i] = static_cast<float>(random.normal(i));
  return w;
}

}  // namespace

TEST_CASE("published counts by hand") {
  using losa::published::Counts;
  // 10 columns at 0.55: 5 in each row, where the exact rule gives 11 in two rows.
  CHECK(Counts::row_zeros({11, 0.55}, 2, 10) == std::vector<std::size_t>{5, 5});
  CHECK(losa::ExactCounts::row_zeros({11, 0.55}, 2, 10) == std::vector<std::size_t>{5, 6});
  // Blocks of 4, 4 and 2 columns of 2 rows: 8, 8, 4 weights; ⌊n/2⌋ + 1.
  CHECK(Counts::block_zeros({10, 0.5}, 2, 10, 4) == std::vector<std::size_t>{5, 5, 3});
  CHECK(Counts::block_zeros({0, 0.0}, 2, 10, 4) == std::vector<std::size_t>{1, 1, 1});
  CHECK(Counts::block_zeros({20, 1.0}, 2, 10, 4) == std::vector<std::size_t>{8, 8, 4});
}

TEST_CASE("published counts in masks: rows fall short, SparseGPT's blocks go one over") {
  const std::size_t rows = 6;
  const std::size_t cols = 33;
  const auto w = weights(rows * cols);
  const losa::MatrixView<const float> weight(w.data(), rows, cols);
  for (double s : {0.0, 0.1, 0.5, 0.7, 0.95}) {
    const losa::Mask mask = losa::select<losa::published::Counts>(losa::Magnitude{}, weight, losa::Unstructured{s});
    for (std::size_t r = 0; r < rows; ++r)
      CHECK(cols - mask.kept_in_row(r) == static_cast<std::size_t>(std::floor(33.0 * s)));

    std::vector<double> hessian(cols * cols);
    for (std::size_t c = 0; c < cols; ++c) hessian[c * cols + c] = 1;
    auto copy = w;
    losa::published::SparseGpt policy;
    policy.block = 16;
    const losa::Mask pruned =
        policy.prune(losa::MatrixView<float>(copy.data(), rows, cols),
                     {.tokens = 1, .hessian = {hessian.data(), cols, cols}}, {.pattern = losa::Unstructured{s}});
    for (std::size_t first : {0u, 16u, 32u}) {
      const std::size_t width = std::min<std::size_t>(16, cols - first);
      std::size_t zeros = 0;
      for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t c = first; c < first + width; ++c) zeros += !pruned(r, c);
      CHECK(zeros == static_cast<std::size_t>(std::floor(static_cast<double>(rows * width) * s)) + 1);
    }
  }
}

TEST_CASE("published Wanda as a policy leaves the weights and counts by row") {
  auto w = weights(4 * 10);
  const auto before = w;
  const std::vector<double> norms(10, 1.0);
  const losa::Mask mask =
      losa::published::Wanda{}.prune(losa::MatrixView<float>(w.data(), 4, 10), {.tokens = 1, .square_norms = norms},
                                     {.pattern = losa::ExactZeros{.zeros = 22}});
  CHECK(mask.zeros() == 20);  // 22/40 of 10 is 5.5, of each of 4 rows
  CHECK(w == before);
}
