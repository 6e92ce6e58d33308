#pragma once
// Rank per block in proportion to its reconstruction error (LoSA, Eq. 7), with a budget that is met exactly:
//
//   r_i ∝ e_i ,   min ≤ r_i ≤ max ,   Σ r_i = round(mean·L)
//
// Every block starts at min; each further rank goes to the block with the largest e_i / (2·r_i + 1) that is below max
// (Sainte-Laguë's divisor method, which minimises Σ (r_i − q_i)² / e_i over the quotas q_i = e_i·Σr / Σe). Unlike the
// largest remainders it is monotone: a larger budget never takes a rank from a block. Of equal claims the smaller rank
// goes first, then the lower index. Cost O(Σr · log L).
//
//   auto rank = losa::allocate_rank(reconstruction_error, {.mean = 8, .min = 1, .max = 16});

#include <cstddef>
#include <queue>
#include <span>
#include <vector>

#include <losa/allocate/allocator.hpp>
#include <losa/core/error.hpp>
#include <losa/core/finite.hpp>

namespace losa::inline v0 {

struct RankOptions {
  double mean = 8;
  std::size_t min = 1;
  std::size_t max = 16;
};

namespace detail {

/// round(mean·units), checked against the caps. Throws RangeError that names `where`.
inline std::size_t rank_budget(const char* where, std::size_t units, const RankOptions& options) {
  if (options.min > options.max) raise<RangeError>(where, ": min ", options.min, " is greater than max ", options.max);
  if (!(is_finite(options.mean) && options.mean >= 0.0 && options.mean <= 1e9))
    raise<RangeError>(where, ": mean must be in [0, 1e9], got ", options.mean);
  const auto total = static_cast<std::size_t>(std::llround(options.mean * static_cast<double>(units)));
  if (total > options.max * units)
    raise<RangeError>(where, ": mean ", options.mean, " over ", units, " layers needs ", total, ", but max ",
                      options.max, " allows at most ", options.max * units);
  if (total < options.min * units)
    raise<RangeError>(where, ": mean ", options.mean, " over ", units, " layers gives ", total, ", but min ",
                      options.min, " needs at least ", options.min * units);
  return total;
}

}  // namespace detail

/// Ranks whose sum is round(mean · layers) exactly. Where every error is 0 they are as equal as integers allow.
/// Throws RangeError if an error is negative or not finite, or if the budget cannot be met within [min, max].
inline std::vector<std::size_t> allocate_rank(std::span<const double> error, const RankOptions& options = {}) {
  const std::size_t layers = error.size();
  for (std::size_t i = 0; i < layers; ++i)
    if (!(detail::is_finite(error[i]) && error[i] >= 0.0))
      detail::raise<RangeError>("allocate_rank: error of layer ", i, " must be at least 0 and finite, got ", error[i]);
  const std::size_t total = detail::rank_budget("allocate_rank", layers, options);

  struct Claim {
    double error;
    std::size_t rank;
    std::size_t layer;
  };
  const auto weaker = [](const Claim& a, const Claim& b) {
    const double priority_a = a.error / static_cast<double>(2 * a.rank + 1);
    const double priority_b = b.error / static_cast<double>(2 * b.rank + 1);
    if (priority_a != priority_b) return priority_a < priority_b;
    return a.rank != b.rank ? a.rank > b.rank : a.layer > b.layer;
  };
  std::vector<std::size_t> rank(layers, options.min);
  std::priority_queue<Claim, std::vector<Claim>, decltype(weaker)> claims(weaker);
  if (options.min < options.max)
    for (std::size_t i = 0; i < layers; ++i) claims.push({error[i], options.min, i});
  for (std::size_t given = options.min * layers; given < total; ++given) {
    Claim claim = claims.top();
    claims.pop();
    rank[claim.layer] = ++claim.rank;
    if (claim.rank < options.max) claims.push(claim);
  }
  return rank;
}

/// Eq. 7 as an allocator.
struct ErrorRank {
  std::size_t min = 1;
  std::size_t max = 16;
  RankNeeds needs{.error = true};

  /// Throws RangeError as allocate_rank does.
  std::vector<std::size_t> operator()(const RankEvidence& evidence) const {
    return allocate_rank(evidence.error, {.mean = evidence.mean, .min = min, .max = max});
  }
};

}  // namespace losa::inline v0
