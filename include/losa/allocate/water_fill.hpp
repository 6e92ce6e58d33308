#pragma once
// Sparsity per matrix by water-filling: with q the squared scores of the weights of matrix l, D_l(s) the sum of the
// smallest of them (convex in s) and g_l what a unit of distortion in l costs the loss,
//
//   minimise Σ g_l·D_l(s_l)   subject to   Σ n_l·s_l = S·Σ n_l ,   min ≤ s_l ≤ max
//
// has the optimum "one threshold λ for the whole model": matrix l loses the weights with g_l·q < λ (the condition of
// Karush, Kuhn and Tucker), those at a bound stay there. Eq. 5 of LoSA is its first-order form, with importance
// I_l = g_l · (score at the threshold). Cost: about 64 passes over the histograms.
//
//   auto sparsity = losa::water_fill(curves, gains, {.target = 0.7, .max_sparsity = 0.95});

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include <losa/allocate/allocator.hpp>
#include <losa/allocate/score_curve.hpp>
#include <losa/core/error.hpp>
#include <losa/core/finite.hpp>

namespace losa::inline v0 {

struct WaterFillOptions {
  double target = 0;
  double min_sparsity = 0;
  double max_sparsity = 0.99;
};

/// Sparsity per matrix; the mean, weighted by the number of weights, is the target to rounding. `gains` empty = 1.
/// Throws ShapeError if curves and gains differ in length, RangeError on a gain that is not positive and finite, or
/// unless 0 ≤ min ≤ target ≤ max ≤ 1.
inline std::vector<double> water_fill(std::span<const ScoreCurve> curves, std::span<const double> gains,
                                      const WaterFillOptions& options) {
  const std::size_t units = curves.size();
  if (!gains.empty() && gains.size() != units)
    detail::raise<ShapeError>("water_fill: ", units, " curves need ", units, " gains, got ", gains.size());
  if (!(detail::is_finite(options.min_sparsity) && detail::is_finite(options.target) &&
        detail::is_finite(options.max_sparsity) && 0.0 <= options.min_sparsity &&
        options.min_sparsity <= options.target && options.target <= options.max_sparsity &&
        options.max_sparsity <= 1.0))
    detail::raise<RangeError>("water_fill: needs 0 ≤ min_sparsity ≤ target ≤ max_sparsity ≤ 1, got min_sparsity ",
                              options.min_sparsity, ", target ", options.target, ", max_sparsity ",
                              options.max_sparsity);
  double weights = 0;
  for (std::size_t l = 0; l < units; ++l) {
    const double gain = gains.empty() ? 1.0 : gains[l];
    if (!(detail::is_finite(gain) && gain > 0.0))
      detail::raise<RangeError>("water_fill: gain of matrix ", l, " must be positive and finite, got ", gain);
    weights += static_cast<double>(curves[l].size());
  }

  const auto removed = [&](double level, std::span<double> count) {
    double total = 0;
    for (std::size_t l = 0; l < units; ++l) {
      const double size = static_cast<double>(curves[l].size());
      const double below = curves[l].count_below(level / (gains.empty() ? 1.0 : gains[l]));
      count[l] = std::clamp(below, options.min_sparsity * size, options.max_sparsity * size);
      total += count[l];
    }
    return total;
  };
  // The total never falls as λ rises: bisect the bits of λ, which order positive doubles, down to neighbours …
  std::vector<double> below(units);
  std::vector<double> above(units);
  const double budget = options.target * weights;
  std::uint64_t low = 0;
  std::uint64_t high = std::bit_cast<std::uint64_t>(std::numeric_limits<double>::max());
  while (high - low > 1) {
    const std::uint64_t middle = low + (high - low) / 2;
    (removed(std::bit_cast<double>(middle), above) < budget ? low : high) = middle;
  }
  // … and take of the jump between them (equal scores) the same fraction everywhere.
  const double under = removed(std::bit_cast<double>(low), below);
  const double over = removed(std::bit_cast<double>(high), above);
  const double part = over > under ? std::clamp((budget - under) / (over - under), 0.0, 1.0) : 0.0;
  std::vector<double> sparsity(units, options.target);
  for (std::size_t l = 0; l < units; ++l)
    if (curves[l].size() > 0)
      sparsity[l] = std::clamp((below[l] + part * (above[l] - below[l])) / static_cast<double>(curves[l].size()),
                               options.min_sparsity, options.max_sparsity);
  return sparsity;
}

/// Water-filling as an allocator, over matrices, within [S − below, S + above] and never above `limit` (unless S is).
struct WaterFill {
  double below = 1.0;
  double above = 1.0;
  double limit = 0.99;
  SparsityNeeds needs{.curves = true, .per_matrix = true};

  /// Throws as water_fill does.
  std::vector<double> operator()(const SparsityEvidence& evidence) const {
    const double target = evidence.target;
    return water_fill(evidence.curves, evidence.gains,
                      {.target = target,
                       .min_sparsity = std::max(0.0, target - below),
                       .max_sparsity = std::max(target, std::min(target + above, limit))});
  }
};

}  // namespace losa::inline v0
