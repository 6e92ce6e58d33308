#pragma once
// How the published implementation shares out sparsity (wzhuang-xmu/LoSA, lib/prune.py): Eq. 5 with blocks unweighted,
// by SciPy's SLSQP from the start x = 1, tolerance 10⁻⁶. What it returns has two forms:
//
//   Σ (I_i − Ī)² < 10⁻⁶   s_i = S − (I_i − Ī)   It stops after its first step, of unit length down the projected
//                                               gradient, for a second one promises less than the tolerance.
//   else                  the optimum           of the linear programme, up to the tolerance
//
// The importance that goes with Wanda (β = 1) is of the second kind. The one that goes with SparseGPT (β = 100) is of
// order e⁻¹⁰⁰ᐟᴸ: of the first kind for any model of less than about a dozen blocks, and then as good as uniform.
//
//   auto sparsity = losa::published::allocate_sparsity(importance, 0.7, 0.03);

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include <losa/allocate/allocator.hpp>
#include <losa/allocate/importance.hpp>
#include <losa/allocate/sparsity.hpp>
#include <losa/core/error.hpp>

namespace losa::inline v0 {
namespace published {

inline constexpr double beta_wanda = 1.0;
inline constexpr double beta_sparsegpt = 100.0;
inline constexpr double solver_tolerance = 1e-6;

/// δ that goes with the sparsity of a step: 0.01 up to 0.5, 0.02 up to 0.6, 0.03 up to 0.7; above that the one of the
/// step before stays, which is 0.03 unless given (the published code fails if there was none).
inline double delta(double sparsity, double previous = 0.03) noexcept {
  if (sparsity <= 0.5) return 0.01;
  if (sparsity <= 0.6) return 0.02;
  return sparsity <= 0.7 ? 0.03 : previous;
}

/// Sparsity per block, mean S. Throws RangeError as losa::allocate_sparsity does.
inline std::vector<double> allocate_sparsity(std::span<const double> importance, double target, double box) {
  std::vector<double> optimum = losa::allocate_sparsity(importance, {.target = target, .delta = box});
  double mean = 0;
  for (double value : importance) mean += value / static_cast<double>(importance.size());
  double squares = 0;
  for (double value : importance) squares += (value - mean) * (value - mean);
  if (squares >= solver_tolerance) return optimum;
  std::vector<double> step(importance.size());
  for (std::size_t i = 0; i < step.size(); ++i)
    step[i] = std::max(0.0, std::clamp(target - (importance[i] - mean), target - box, target + box));
  return step;
}

/// The same as an allocator over blocks, whose sizes it does not look at.
struct RmiSparsity {
  double beta = beta_wanda;
  SparsityNeeds needs{.rmi = true};

  /// Throws RangeError if the evidence holds no RMI matrix, and as allocate_sparsity does.
  std::vector<double> operator()(const SparsityEvidence& evidence) const {
    if (evidence.rmi == nullptr)
      losa::detail::raise<RangeError>("published::RmiSparsity: the evidence holds no RMI matrix");
    return allocate_sparsity(importance(*evidence.rmi, beta), evidence.target, delta(evidence.target));
  }
};

}  // namespace published
}  // namespace losa::inline v0
