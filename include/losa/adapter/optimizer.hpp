#pragma once
// AdamW (Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, Algorithm 2), clipping by the global
// norm (Pascanu et al., 2013), and a linear warm-up followed by a linear decay of the learning rate.
//
//   p ← p − lr·λ·p
//   m ← β₁m + (1−β₁)g,  v ← β₂v + (1−β₂)g²,  p ← p − lr · (m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + ε)
//
// Parameters and moments are float, each element is updated in double; O(1) per parameter, no allocation after the
// first step.
//
//   double norm = std::sqrt(losa::squared_norm(gradients.a) + losa::squared_norm(gradients.bt));
//   losa::adamw_step(parameters, gradients.a, moments, options, rate(step), step, losa::clip_scale(norm, 1.0));

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/core/finite.hpp>

namespace losa::inline v0 {

struct AdamWOptions {
  double lr = 2e-4;  // the peak rate, for a schedule to read; adamw_step is told the rate of its step
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
};

/// What AdamW remembers of one parameter array; empty before the first step.
struct Moments {
  std::vector<float> m;  // running mean of the gradient
  std::vector<float> v;  // running mean of its square

  template <class Visitor>
  void visit(Visitor& visitor) {
    visitor("m", m);
    visitor("v", v);
  }
};

/// One AdamW step on `p` with gradient `grad_scale`·g, at learning rate `lr`. `step` counts from 1 and drives the bias
/// correction. Empty moments start at zero. Throws ShapeError on unequal lengths, RangeError if step is 0 or an option
/// is outside its range.
inline void adamw_step(std::span<float> p, std::span<const float> g, Moments& moments, const AdamWOptions& options,
                       double lr, std::uint64_t step, double grad_scale = 1.0) {
  if (g.size() != p.size())
    detail::raise<ShapeError>("adamw_step: gradient must have ", p.size(), " elements, got ", g.size());
  if (moments.m.empty() && moments.v.empty()) {
    moments.m.assign(p.size(), 0.0f);
    moments.v.assign(p.size(), 0.0f);
  }
  if (moments.m.size() != p.size() || moments.v.size() != p.size())
    detail::raise<ShapeError>("adamw_step: moments must have ", p.size(), " elements, got ", moments.m.size(), " and ",
                              moments.v.size());
  if (step == 0) detail::raise<RangeError>("adamw_step: step counts from 1, got 0");
  if (!(detail::is_finite(options.beta1) && options.beta1 >= 0 && options.beta1 < 1))
    detail::raise<RangeError>("adamw_step: beta1 must be in [0, 1), got ", options.beta1);
  if (!(detail::is_finite(options.beta2) && options.beta2 >= 0 && options.beta2 < 1))
    detail::raise<RangeError>("adamw_step: beta2 must be in [0, 1), got ", options.beta2);

  const double t = static_cast<double>(step);
  const double rate = lr / (1.0 - std::pow(options.beta1, t));
  const double correction = 1.0 / (1.0 - std::pow(options.beta2, t));
  const double keep = 1.0 - lr * options.weight_decay;
  for (std::size_t i = 0; i < p.size(); ++i) {
    const double grad = grad_scale * static_cast<double>(g[i]);
    const double m = options.beta1 * static_cast<double>(moments.m[i]) + (1.0 - options.beta1) * grad;
    const double v = options.beta2 * static_cast<double>(moments.v[i]) + (1.0 - options.beta2) * grad * grad;
    moments.m[i] = static_cast<float>(m);
    moments.v[i] = static_cast<float>(v);
    p[i] = static_cast<float>(keep * static_cast<double>(p[i]) - rate * m / (std::sqrt(v * correction) + options.eps));
  }
}

/// Σ g², in double and in one fixed order.
inline double squared_norm(std::span<const float> g) noexcept {
  double sum = 0;
  for (float value : g) sum += static_cast<double>(value) * static_cast<double>(value);
  return sum;
}

/// What to multiply every gradient with so that their joint norm is at most `max_norm`: min(1, max_norm / total_norm).
/// Infinity clips nothing. Throws RangeError unless max_norm > 0, NumericError if total_norm is not finite.
inline double clip_scale(const double& total_norm, const double& max_norm) {
  if (detail::is_nan(max_norm) || !(max_norm > 0))
    detail::raise<RangeError>("clip_scale: max_norm must be positive, got ", max_norm);
  if (!detail::is_finite(total_norm))
    detail::raise<NumericError>("clip_scale: the norm of the gradients is not finite, got ", total_norm);
  return total_norm > max_norm ? max_norm / total_norm : 1.0;
}

/// Learning rate of step 1 … total: rises linearly to `peak` at step max(1, warmup), then falls linearly and would be 0
/// at step total + 1, so that no step is lost at either end. 0 at step 0 and after `total`.
struct LinearWarmupDecay {
  double peak = 2e-4;
  std::uint64_t warmup = 0;
  std::uint64_t total = 1;

  double operator()(std::uint64_t step) const noexcept {
    if (step == 0 || step > total) return 0.0;
    const std::uint64_t top = warmup == 0 ? 1 : warmup;
    if (step < top) return peak * static_cast<double>(step) / static_cast<double>(top);
    return peak * static_cast<double>(total + 1 - step) / static_cast<double>(total + 1 - top);
  }
};

}  // namespace losa::inline v0
