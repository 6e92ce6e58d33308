#pragma once
// The same for every unit: the control that every allocator is measured against. s_i = S; ranks differ by at most one,
// so that their sum is round(mean·L) exactly, the lower index getting the greater one.
//
//   auto sparsity = losa::uniform_sparsity(layers, 0.7);     auto rank = losa::uniform_rank(blocks, 8);

#include <cmath>
#include <cstddef>
#include <vector>

#include <losa/allocate/allocator.hpp>
#include <losa/core/error.hpp>
#include <losa/core/finite.hpp>

namespace losa::inline v0 {

/// `target` for each of `units`. Throws RangeError unless target is in [0, 1).
inline std::vector<double> uniform_sparsity(std::size_t units, const double& target) {
  if (!(detail::is_finite(target) && target >= 0.0 && target < 1.0))
    detail::raise<RangeError>("uniform_sparsity: target must be in [0, 1), got ", target);
  return std::vector<double>(units, target);
}

/// Ranks that differ by at most 1 and sum to round(mean·units). Throws RangeError unless mean ≥ 0 is finite.
inline std::vector<std::size_t> uniform_rank(std::size_t units, const double& mean) {
  if (!(detail::is_finite(mean) && mean >= 0.0 && mean <= 1e9))
    detail::raise<RangeError>("uniform_rank: mean must be in [0, 1e9], got ", mean);
  const auto total = static_cast<std::size_t>(std::llround(mean * static_cast<double>(units)));
  std::vector<std::size_t> rank(units);
  for (std::size_t i = 0; i < units; ++i) rank[i] = total / units + (i < total % units ? 1 : 0);
  return rank;
}

struct UniformSparsity {
  SparsityNeeds needs{};
  std::vector<double> operator()(const SparsityEvidence& evidence) const {
    return uniform_sparsity(evidence.sizes.size(), evidence.target);
  }
};

struct UniformRank {
  RankNeeds needs{};
  std::vector<std::size_t> operator()(const RankEvidence& evidence) const {
    return uniform_rank(evidence.costs.size(), evidence.mean);
  }
};

}  // namespace losa::inline v0
