#pragma once
// What an allocator is: a small value type that turns what was measured at one schedule step into a sparsity or a rank
// per unit. It says beforehand what it needs, so that nothing else is measured. A unit is a block of the model, or a
// matrix where `needs.per_matrix` says so.
//
//   struct MyAllocator {                                                 // models SparsityAllocator
//     losa::SparsityNeeds needs{};
//     std::vector<double> operator()(const losa::SparsityEvidence& e) const { return ...; }
//   };

#include <concepts>
#include <cstddef>
#include <span>
#include <vector>

#include <losa/allocate/rmi.hpp>
#include <losa/allocate/score_curve.hpp>

namespace losa::inline v0 {

struct SparsityNeeds {
  bool rmi = false;         // mutual information between the blocks
  bool debiased = false;    // … by the unbiased estimator
  bool curves = false;      // distribution of squared scores per unit
  bool per_matrix = false;  // units are matrices, not blocks
};

/// Measured at one schedule step; what the allocator does not need may be empty.
struct SparsityEvidence {
  double target = 0;                     // S_t, the mean over all weights to be met
  std::span<const double> sizes{};       // (units) weights per unit
  const RmiMatrix* rmi = nullptr;        // (blocks, blocks)
  std::span<const ScoreCurve> curves{};  // (units)
  std::span<const double> gains{};       // (units) loss per unit of distortion; empty = 1
};

struct RankNeeds {
  bool error = false;       // Eq. 6 per block
  bool spectra = false;     // squared singular values per unit
  bool per_matrix = false;  // units are matrices, not blocks
};

struct RankEvidence {
  double mean = 0;                                 // mean rank to be met
  std::span<const double> error{};                 // (units)
  std::span<const std::vector<double>> spectra{};  // (units) falling σ²
  std::span<const double> gains{};                 // (units) loss per unit of σ²; empty = 1
  std::span<const double> costs{};                 // (units) parameters per rank, in + out
};

/// Sparsity in [0, 1) per unit, whose mean weighted by `sizes` is `target`.
template <class AllocatorType>
concept SparsityAllocator = requires(const AllocatorType& allocator, const SparsityEvidence& evidence) {
  { allocator.needs } -> std::convertible_to<SparsityNeeds>;
  { allocator(evidence) } -> std::convertible_to<std::vector<double>>;
};

/// Rank per unit.
template <class AllocatorType>
concept RankAllocator = requires(const AllocatorType& allocator, const RankEvidence& evidence) {
  { allocator.needs } -> std::convertible_to<RankNeeds>;
  { allocator(evidence) } -> std::convertible_to<std::vector<std::size_t>>;
};

}  // namespace losa::inline v0
