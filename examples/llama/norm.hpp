#pragma once
// RMSNorm (Zhang and Sennrich, 2019): y = w ∘ x·r with r = (mean(x²) + ε)^−½ per token.
//
//   ∂ℓ/∂x = r·(w∘g) − x·r³/d·Σ(g∘w∘x)          the weight w is not trained
//
//   llama::rms_norm(x, weight, 1e-5, y, scale, executor);

#include <cstddef>
#include <losa/core/executor.hpp>
#include <losa/core/view.hpp>
#include <span>

namespace llama {

/// y (tokens, d) from x (tokens, d); scale (tokens) receives r of every token.
void rms_norm(losa::MatrixView<const float> x, std::span<const float> weight, double epsilon, losa::MatrixView<float> y,
              std::span<float> scale, losa::ExecutorRef executor = {});

/// Adds ∂ℓ/∂x (tokens, d) to grad_x, from grad_y (tokens, d) and what rms_norm was given and left in `scale`.
void rms_norm_backward(losa::MatrixView<const float> x, std::span<const float> weight, std::span<const float> scale,
                       losa::MatrixView<const float> grad_y, losa::MatrixView<float> grad_x,
                       losa::ExecutorRef executor = {});

}  // namespace llama
