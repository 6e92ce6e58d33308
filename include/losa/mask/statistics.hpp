#pragma once
// What a mask policy may know of a layer besides its weights. The caller owns everything; what a policy did not ask for
// (see StatisticsNeeds) is left empty.
//
//   losa::LayerStatistics statistics{.tokens = norms.tokens(), .square_norms = norms.sum_squares()};

#include <any>
#include <cstddef>
#include <span>

#include <losa/core/view.hpp>

namespace losa::inline v0 {

/// Statistics of one linear layer y = x·Wᵀ, W (out, in), over `tokens` calibration inputs x (in).
struct LayerStatistics {
  std::size_t tokens = 0;
  std::span<const double> square_norms{};  // (in)       Σ x²
  std::span<const double> mean{};          // (in)
  std::span<const double> variance{};      // (in)       of the population
  MatrixView<const double> hessian{};      // (in, in)   XᵀX, symmetric
  MatrixView<const float> gradient{};      // (out, in)  root mean square of the gradient (root of the Fisher diagonal)

  /// Where a policy may keep what it derived from these statistics, for the other layers that read the same input (a
  /// factor of the Hessian, say). Whoever owns the statistics owns it, empty at first, one per input; null is allowed.
  /// A policy checks that what it finds is its own and made as it would make it, and else puts its own there. Layers
  /// that share a slot are pruned one after the other.
  std::any* derived = nullptr;
};

/// Which of them a score or policy reads, so that nothing else need be collected.
struct StatisticsNeeds {
  bool square_norms = false;
  bool moments = false;
  bool hessian = false;
  bool gradient = false;
};

}  // namespace losa::inline v0
