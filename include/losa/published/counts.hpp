#pragma once
// How the published implementation counts zeros (wzhuang-xmu/LoSA, lib/prune.py and lib/sparsegpt.py; the same as in
// the code of Wanda and SparseGPT): every output row loses ⌊in·s⌋ weights, so that rows of any matrix fall short of the
// target by up to one weight each; SparseGPT prunes every score up to and including the ⌊n·s⌋-th of a block of n
// weights, counted from 0, which is one weight more than ⌊n·s⌋ (and all that equal it, which we do not imitate).
//
//   losa::Mask mask = losa::select<losa::published::Counts>(losa::Wanda{norms}, weight, losa::Unstructured{0.7});
//   losa::published::SparseGpt policy{.block = 128};

#include <algorithm>
#include <cstddef>
#include <vector>

#include <losa/mask/counts.hpp>
#include <losa/mask/policy.hpp>
#include <losa/mask/sparsegpt.hpp>
#include <losa/mask/wanda.hpp>

namespace losa::inline v0 {
namespace published {

/// Models CountRule. Totals are what the rule gives, not what was asked for.
struct Counts {
  /// ⌊in·s⌋ in every row.
  static std::vector<std::size_t> row_zeros(const ZeroBudget& budget, std::size_t rows, std::size_t cols) {
    return std::vector<std::size_t>(rows, floor_of(cols, budget.sparsity));
  }
  /// ⌊n·s⌋ + 1 in every block of n weights.
  static std::vector<std::size_t> block_zeros(const ZeroBudget& budget, std::size_t rows, std::size_t cols,
                                              std::size_t block) {
    std::vector<std::size_t> zeros;
    for (std::size_t c = 0; c < cols; c += block) {
      const std::size_t size = rows * std::min(block, cols - c);
      zeros.push_back(std::min(floor_of(size, budget.sparsity) + 1, size));
    }
    return zeros;
  }

 private:
  static std::size_t floor_of(std::size_t size, double sparsity) noexcept {
    return static_cast<std::size_t>(static_cast<double>(size) * sparsity);
  }
};

using Wanda = ScorePolicy<losa::Wanda, Counts>;
using SparseGpt = BasicSparseGpt<Counts>;

}  // namespace published
}  // namespace losa::inline v0
