#pragma once
// Allocators: what turns measurements of a model into sparsity per layer and rank per layer, wrapped around the
// functions of allocate/. Small types without base class; one of your own models the same concepts.
//
//   losa::RmiSparsity rule{.delta = 0.02};
//   std::vector<double> sparsity = rule({.target = 0.7, .sizes = sizes, .rmi = &rmi});     // mean 0.7

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <span>
#include <vector>

#include <losa/allocate/importance.hpp>
#include <losa/allocate/rank.hpp>
#include <losa/allocate/rmi.hpp>
#include <losa/allocate/score_curve.hpp>
#include <losa/allocate/sparsity.hpp>
#include <losa/allocate/spectral_rank.hpp>
#include <losa/allocate/uniform.hpp>
#include <losa/allocate/water_fill.hpp>

namespace losa::inline v0 {

/// What a sparsity allocator wants to have measured. Units are blocks, or matrices where `per_matrix`.
struct SparsityNeeds {
  bool rmi = false;       // mutual information between blocks
  bool debiased = false;  // … by the unbiased estimator
  bool curves = false;    // distribution of the squared scores of each unit
  bool per_matrix = false;
};

/// Measured at one schedule step; what the allocator does not need is empty.
struct SparsityEvidence {
  double target = 0;                   // S_t, the mean over all weights to be met
  std::span<const double> sizes;       // (units) weights
  const RmiMatrix* rmi = nullptr;      // (blocks, blocks)
  std::span<const ScoreCurve> curves;  // (units)
};

struct RankNeeds {
  bool spectra = false;  // squared singular values of the masked loss gradient of each unit
  bool per_matrix = false;
};

struct RankEvidence {
  double mean = 0;                               // mean rank to be met
  std::span<const double> error;                 // (blocks) reconstruction error, Eq. 6
  std::span<const std::vector<double>> spectra;  // (units) falling
  std::span<const double> costs;                 // (units) parameters per rank: Σ (in + out)
};

/// Sparsity in [0, 1) per unit; the mean weighted by size is the target.
template <class A>
concept SparsityAllocator = requires(const A& allocator, const SparsityEvidence& evidence) {
  { allocator.needs } -> std::convertible_to<SparsityNeeds>;
  { allocator(evidence) } -> std::convertible_to<std::vector<double>>;
};

/// Rank per unit.
template <class A>
concept RankAllocator = requires(const A& allocator, const RankEvidence& evidence) {
  { allocator.needs } -> std::convertible_to<RankNeeds>;
  { allocator(evidence) } -> std::convertible_to<std::vector<std::size_t>>;
};

/// The same sparsity everywhere.
struct UniformSparsity {
  static constexpr SparsityNeeds needs{};
  std::vector<double> operator()(const SparsityEvidence& evidence) const {
    return uniform_sparsity(evidence.sizes.size(), evidence.target);
  }
};

/// LoSA, Eq. 4 and 5: blocks that share more information with the others are pruned more, by at most `delta`.
struct RmiSparsity {
  double delta = 0.02;
  SparsityNeeds needs{.rmi = true};
  std::vector<double> operator()(const SparsityEvidence& evidence) const {
    return allocate_sparsity(importance(*evidence.rmi),
                             {.target = evidence.target, .delta = delta, .sizes = evidence.sizes});
  }
};

/// One threshold on the estimated damage of a weight over the whole model: matrices that lose little by it give more.
struct DamageSparsity {
  double reach = 0.15;    // a matrix stays within target ± reach
  double ceiling = 0.95;  // and below this
  static constexpr SparsityNeeds needs{.curves = true, .per_matrix = true};
  std::vector<double> operator()(const SparsityEvidence& evidence) const {
    const double target = evidence.target;
    return water_fill(evidence.curves, {},
                      {.target = target,
                       .min_sparsity = std::max(0.0, target - reach),
                       .max_sparsity = std::max(target, std::min(ceiling, target + reach))});
  }
};

/// The same rank everywhere, to ±1 where the mean is no integer.
struct UniformRank {
  static constexpr RankNeeds needs{};
  std::vector<std::size_t> operator()(const RankEvidence& evidence) const {
    return uniform_rank(evidence.error.size(), evidence.mean);
  }
};

/// LoSA, Eq. 7, with the budget met exactly: rank in proportion to the block's reconstruction error.
struct ErrorRank {
  std::size_t min = 1;
  std::size_t max = 16;
  static constexpr RankNeeds needs{};
  std::vector<std::size_t> operator()(const RankEvidence& evidence) const {
    return allocate_rank(evidence.error, {.mean = evidence.mean, .min = min, .max = max});
  }
};

/// Rank where the gradient under the mask has most to gain per parameter, at the price of uniform ranks of that mean.
struct SpectralRank {
  std::size_t min = 1;
  std::size_t max = 32;
  static constexpr RankNeeds needs{.spectra = true, .per_matrix = true};
  std::vector<std::size_t> operator()(const RankEvidence& evidence) const {
    double budget = 0;
    for (double cost : evidence.costs) budget += evidence.mean * cost;
    return spectral_ranks(evidence.spectra, {}, evidence.costs, {.budget = budget, .min = min, .max = max});
  }
};

}  // namespace losa::inline v0
