#pragma once
// How the published implementation shares out rank (wzhuang-xmu/LoSA, lib/prune.py allocate_ranks and the bundled
// PEFT):
//
//   r_i = clip(round(e_i/Σe · r̄ · L), 1, 16)            halves to even
//
// then one pass of ±1 over the blocks that can take it, those with the smallest error first when there is too much,
// with the largest first when there is too little. The pass visits each block once, so that the budget r̄·L may stay
// unmet: e = (1, 10⁶), r̄ = 12 gives (2, 16). The adapters are allocated with 8 rows and sliced, so that a block never
// trains more than 8 ranks whatever it was given.
//
//   auto rank = losa::published::allocate_rank(error, 6);                  // nominal
//   auto used = losa::published::effective_rank(rank);                     // what is trained

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <span>
#include <vector>

#include <losa/allocate/allocator.hpp>
#include <losa/core/error.hpp>
#include <losa/core/finite.hpp>

namespace losa::inline v0 {
namespace published {

inline constexpr std::size_t min_rank = 1;
inline constexpr std::size_t max_rank = 16;
inline constexpr std::size_t adapter_rows = 8;

/// Mean rank of schedule step t, from 1: 6, 7, 8, … (LoSA, Eq. 9).
inline std::size_t mean_rank(std::size_t step) noexcept { return 5 + step; }

namespace detail {

/// Nearest integer, halves to even, whatever the rounding mode.
inline double round_half_even(double value) noexcept {
  const double below = std::floor(value);
  const double part = value - below;
  if (part != 0.5) return part < 0.5 ? below : below + 1.0;
  return std::fmod(below, 2.0) == 0.0 ? below : below + 1.0;
}

}  // namespace detail

/// Rank per block; the sum need not be mean·blocks. Of equal errors the lower index goes first (the published sort
/// leaves that open). Throws RangeError unless the errors are finite, at least 0 and not all 0.
inline std::vector<std::size_t> allocate_rank(std::span<const double> error, std::size_t mean) {
  const std::size_t blocks = error.size();
  double sum = 0;
  for (std::size_t i = 0; i < blocks; ++i) {
    if (!(losa::detail::is_finite(error[i]) && error[i] >= 0.0))
      losa::detail::raise<RangeError>("published::allocate_rank: error of block ", i,
                                      " must be at least 0 and finite, got ", error[i]);
    sum += error[i];
  }
  if (blocks != 0 && !(sum > 0.0))
    losa::detail::raise<RangeError>("published::allocate_rank: the errors sum to 0, their shares are undefined");
  const std::size_t budget = mean * blocks;
  std::vector<std::size_t> rank(blocks);
  std::size_t given = 0;
  for (std::size_t i = 0; i < blocks; ++i) {
    const double share = error[i] / sum * static_cast<double>(mean) * static_cast<double>(blocks);
    rank[i] = static_cast<std::size_t>(
        std::clamp(detail::round_half_even(share), static_cast<double>(min_rank), static_cast<double>(max_rank)));
    given += rank[i];
  }
  const bool too_much = given > budget;
  std::vector<std::size_t> order(blocks);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return too_much ? error[a] < error[b] : error[a] > error[b]; });
  for (std::size_t i : order) {
    if (given == budget) break;
    if (rank[i] == (too_much ? min_rank : max_rank)) continue;
    rank[i] = too_much ? rank[i] - 1 : rank[i] + 1;
    given = too_much ? given - 1 : given + 1;
  }
  return rank;
}

/// min(rank, rows): what is left of the ranks after slicing adapters of `rows` rows.
inline std::vector<std::size_t> effective_rank(std::span<const std::size_t> rank, std::size_t rows = adapter_rows) {
  std::vector<std::size_t> result(rank.begin(), rank.end());
  for (std::size_t& r : result) r = std::min(r, rows);
  return result;
}

/// The same as an allocator: the ranks that are trained.
struct ErrorRank {
  std::size_t rows = adapter_rows;
  RankNeeds needs{.error = true};

  /// Throws RangeError as allocate_rank does, and unless the mean is a whole number.
  std::vector<std::size_t> operator()(const RankEvidence& evidence) const {
    if (!(losa::detail::is_finite(evidence.mean) && evidence.mean >= 0.0 && evidence.mean <= 1e9 &&
          std::floor(evidence.mean) == evidence.mean))
      losa::detail::raise<RangeError>("published::ErrorRank: mean must be a whole number, got ", evidence.mean);
    return effective_rank(allocate_rank(evidence.error, static_cast<std::size_t>(evidence.mean)), rows);
  }
};

}  // namespace published
}  // namespace losa::inline v0
