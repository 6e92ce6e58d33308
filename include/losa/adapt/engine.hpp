#pragma once
// What an engine must offer so that LoSA can adapt its model: blocks in order, the linear layers of each, running a
// block on hidden states, and one forward-backward pass over a training batch. Everything else stays the engine's.
//
// Hidden states are (tokens, width): whole calibration sequences of `context` tokens, one below the other. `context` is
// at most context(): what only a report needs is measured on the beginning of every sequence.
// The engine owns the dense master weights; it multiplies with AdaptedLinear::forward and backward where pruned(), else
// with the dense weight itself, and calls AdaptedLinear::backward_dense in the backward pass.
//
// A model larger than memory: an engine may have `hold(i)`, called before anything of block i's weights is looked at.
// It may then keep the weights of the last block held, and park the others (AdaptedLinear::park). It may also have
// `std::shared_ptr<float[]> hidden_storage(n)`, memory of its own for n hidden values, in a file for example.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

#include <losa/adapt/linear.hpp>

namespace losa::inline v0 {

namespace detail {
struct IgnoreInput {
  void operator()(std::size_t, MatrixView<const float>) const {}
};

/// Brings the weights of block i into memory, where the engine does not hold them all.
template <class EngineType>
void hold(EngineType& engine, std::size_t i) {
  if constexpr (requires { engine.hold(i); }) engine.hold(i);
}
}  // namespace detail

template <class EngineType>
concept Engine = requires(EngineType& engine, std::size_t i, std::uint64_t step, MatrixView<float> hidden,
                          MatrixView<const float> before, std::size_t context, detail::IgnoreInput observe) {
  typename EngineType::Adapter;
  requires Adapter<typename EngineType::Adapter>;
  { engine.blocks() } -> std::convertible_to<std::size_t>;
  /// The layers of block i that are pruned and adapted, always the same objects.
  { engine.linears(i) } -> std::same_as<std::span<AdaptedLinear<typename EngineType::Adapter>>>;
  /// Distinct inputs that the layers of block i read (AdaptedLinear::input is below this).
  { engine.inputs(i) } -> std::convertible_to<std::size_t>;
  /// The calibration set.
  { engine.sequences() } -> std::convertible_to<std::size_t>;
  { engine.context() } -> std::convertible_to<std::size_t>;
  { engine.width() } -> std::convertible_to<std::size_t>;
  /// Hidden states before block 0 of the first hidden.rows tokens of calibration sequence i.
  engine.embed(i, hidden);
  /// observe(input, x) sees each input of block i's layers, with the weights as adapted so far; no result is wanted.
  engine.observe_block(i, before, context, observe);
  /// Block i in place with the weights as adapted so far.
  engine.run_block(i, hidden, context);
  /// Block i in place with the checkpoint's own weights.
  engine.run_original_block(i, hidden, context);
  /// Batch number `step`, a pure function of the engine's seed: zeroes and fills `gradients` of every layer that has
  /// an adapter, and returns the mean loss per predicted token.
  { engine.train_step(step) } -> std::convertible_to<double>;
  { engine.executor() } -> std::convertible_to<ExecutorRef>;
};

}  // namespace losa::inline v0
