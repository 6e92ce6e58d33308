#pragma once
// Sparsity per layer from importance: the published linear programme (LoSA, Eq. 5), solved exactly.
//
//   minimise Σ n_i·I_i·s_i   subject to   Σ n_i·s_i = S·Σ n_i ,   lo ≤ s_i ≤ hi ,   [lo, hi] = [S−δ, S+δ] ∩ [0, 1)
//
// n_i = weights of layer i (1 without sizes). One equality over a box: the optimum is a greedy continuous knapsack. All
// start at lo; the budget that is left raises layers to hi in rising order of importance, and at most one layer ends
// between. More important means less sparse; of equal importance the lower index is the sparser one. Only the order
// of I matters, so any increasing function of it (β, say) gives the same result. Cost O(L log L).
//
//   auto sparsity = losa::allocate_sparsity(importance, {.target = 0.7, .delta = 0.03});

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

#include <losa/allocate/allocator.hpp>
#include <losa/allocate/importance.hpp>
#include <losa/core/error.hpp>
#include <losa/core/finite.hpp>

namespace losa::inline v0 {

struct SparsityOptions {
  double target = 0;                // S, in [0, 1)
  double delta = 0;                 // δ ≥ 0, half the width of the box
  std::span<const double> sizes{};  // weights per layer; empty = all equal
};

/// Sparsity per layer; the mean, weighted by size, is the target to rounding. Throws ShapeError if sizes and importance
/// differ in length, RangeError on target outside [0, 1), negative δ, non-positive size, or importance that is not
/// finite.
inline std::vector<double> allocate_sparsity(std::span<const double> importance, const SparsityOptions& options) {
  const std::size_t layers = importance.size();
  const double target = options.target;
  if (!(detail::is_finite(target) && target >= 0.0 && target < 1.0))
    detail::raise<RangeError>("allocate_sparsity: target must be in [0, 1), got ", target);
  if (!(detail::is_finite(options.delta) && options.delta >= 0.0))
    detail::raise<RangeError>("allocate_sparsity: delta must be at least 0 and finite, got ", options.delta);
  if (!options.sizes.empty() && options.sizes.size() != layers)
    detail::raise<ShapeError>("allocate_sparsity: ", layers, " layers need ", layers, " sizes, got ",
                              options.sizes.size());
  double weights = 0;
  for (std::size_t i = 0; i < layers; ++i) {
    if (!detail::is_finite(importance[i]))
      detail::raise<RangeError>("allocate_sparsity: importance of layer ", i, " is not finite");
    const double size = options.sizes.empty() ? 1.0 : options.sizes[i];
    if (!(detail::is_finite(size) && size > 0.0))
      detail::raise<RangeError>("allocate_sparsity: size of layer ", i, " must be positive and finite, got ", size);
    weights += size;
  }

  std::vector<std::size_t> order(layers);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return importance[a] < importance[b]; });
  const double lower = std::max(target - options.delta, 0.0);
  const double upper = std::min(target + options.delta, 1.0 - std::numeric_limits<double>::epsilon() / 2);
  // What rounding leaves of a budget that is spent is not spent again.
  const double crumb = 4.0 * static_cast<double>(layers) * std::numeric_limits<double>::epsilon() * weights;
  std::vector<double> sparsity(layers, lower);
  double left = (target - lower) * weights;
  for (std::size_t i : order) {
    if (left <= crumb) break;
    const double size = options.sizes.empty() ? 1.0 : options.sizes[i];
    const double full = (upper - lower) * size;
    sparsity[i] = left >= full - crumb ? upper : std::clamp(lower + left / size, lower, upper);
    left -= full;
  }
  return sparsity;
}

/// RMI → importance → Eq. 5, as an allocator. `beta` does not change the result.
struct RmiSparsity {
  double delta = 0.03;
  double beta = 1.0;
  SparsityNeeds needs{.rmi = true};  // .debiased at will

  /// Throws RangeError if the evidence holds no RMI matrix, and as allocate_sparsity does.
  std::vector<double> operator()(const SparsityEvidence& evidence) const {
    if (evidence.rmi == nullptr) detail::raise<RangeError>("RmiSparsity: the evidence holds no RMI matrix");
    return allocate_sparsity(importance(*evidence.rmi, beta),
                             {.target = evidence.target, .delta = delta, .sizes = evidence.sizes});
  }
};

}  // namespace losa::inline v0
