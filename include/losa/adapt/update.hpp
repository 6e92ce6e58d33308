#pragma once
// One step of AdamW on the adapters of a whole model, with the gradients clipped by their norm over all of them.
//
//   losa::update_adapters<losa::MaskedLora>(layers, rate, 1.0, {.weight_decay = 0}, executor);

#include <cmath>
#include <cstddef>
#include <span>

#include <losa/adapt/linear.hpp>
#include <losa/adapter/optimizer.hpp>
#include <losa/core/executor.hpp>

namespace losa::inline v0 {

/// Steps every layer's factors by its `gradients`; each layer must have an adapter. `clip` bounds the norm over all
/// layers (infinity = no bound). Packed values follow at a layer's next product. Layers run in parallel. Throws
/// RangeError unless clip > 0, NumericError if the norm is not finite.
template <Adapter AdapterType>
void update_adapters(std::span<AdaptedLinear<AdapterType>* const> layers, double rate, double clip,
                     const AdamWOptions& adam, ExecutorRef executor = {}) {
  double squares = 0;
  for (const AdaptedLinear<AdapterType>* layer : layers)
    squares += squared_norm(layer->gradients.a) + squared_norm(layer->gradients.bt);
  const auto scale = static_cast<double>(static_cast<float>(clip_scale(std::sqrt(squares), clip)));
  executor.parallel_for(layers.size(), [&](std::size_t l) {
    AdaptedLinear<AdapterType>& layer = *layers[l];
    auto [a, bt] = layer.adapter().parameters();
    ++layer.optimizer_steps;
    adamw_step(a, layer.gradients.a, layer.moments_a, adam, rate, layer.optimizer_steps, scale);
    adamw_step(bt, layer.gradients.bt, layer.moments_bt, adam, rate, layer.optimizer_steps, scale);
    layer.refresh();
  });
}

}  // namespace losa::inline v0
