#pragma once
// A Llama that losa::adapt can prune and train: models losa::Engine. The dense master copies of the block's linear
// layers are f32; the checkpoint's own weights stay reachable through the mapped file.
//
//   llama::AdaptEngine<losa::MaskedLora> engine("smollm2", calibration, training, {.seed = 1}, pool);
//   losa::adapt(engine, policy, recipe, options);
//   llama::export_model("smollm2", "out", llama::merged_weights(engine));

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <losa/adapt/engine.hpp>
#include <losa/core/random.hpp>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "block.hpp"
#include "config.hpp"
#include "export.hpp"
#include "frozen.hpp"
#include "loss.hpp"
#include "tokens.hpp"

namespace llama {

struct AdaptEngineOptions {
  std::size_t calibration_sequences = 64;
  std::size_t calibration_context = 256;
  std::size_t batch = 2;
  std::size_t context = 256;
  std::uint64_t seed = 0;  // of the batches' windows
  std::string skip;        // ECMAScript regex, searched in "model.layers.0.mlp.up_proj"
  std::size_t activation_bytes = std::size_t{1}
                                 << 28;  // activations kept from forward to backward; the rest is recomputed
};

template <losa::Adapter A>
class AdaptEngine {
 public:
  using Adapter = A;
  using Linear = losa::AdaptedLinear<A>;

  /// Opens the model and copies its linear layers. `calibration` and `training` are token ids inside the vocabulary.
  /// Throws losa::RangeError (sequences that do not fit into the tokens, context below 2 or above the model's
  /// positions, batch 0, a bad regular expression or one that skips every layer) and what FrozenModel throws.
  AdaptEngine(const std::filesystem::path& directory, std::vector<Token> calibration, std::vector<Token> training,
              const AdaptEngineOptions& options = {}, losa::ExecutorRef executor = {});
  AdaptEngine(const AdaptEngine&) = delete;
  AdaptEngine& operator=(const AdaptEngine&) = delete;

  // ---- losa::Engine -------------------------------------------------------------------------------------------
  std::size_t blocks() const noexcept { return config().blocks; }
  std::span<Linear> linears(std::size_t block) { return blocks_[block].adapted; }
  std::size_t inputs(std::size_t) const noexcept { return inputs_per_block; }
  std::size_t sequences() const noexcept { return options_.calibration_sequences; }
  std::size_t context() const noexcept { return options_.calibration_context; }
  std::size_t width() const noexcept { return config().hidden; }
  void embed(std::size_t sequence, losa::MatrixView<float> hidden);
  template <class F>
  void run_block(std::size_t block, losa::MatrixView<float> hidden, F&& observe);
  void run_original_block(std::size_t block, losa::MatrixView<float> hidden);
  double train_step(std::uint64_t step);
  losa::ExecutorRef executor() const noexcept { return executor_; }

  // ---- beside the concept -------------------------------------------------------------------------------------
  const Config& config() const noexcept { return frozen_.config(); }
  const std::filesystem::path& directory() const noexcept { return frozen_.directory(); }
  std::size_t tokens_per_step() const noexcept { return options_.batch * options_.context; }
  /// Starts of the windows of batch number `step`: Random{seed, stream}.below(tokens − context + 1, step·batch + i).
  std::vector<std::size_t> window_starts(std::uint64_t step) const;
  /// logits (tokens, vocabulary) of one sequence with the weights as adapted so far.
  void logits(std::span<const Token> tokens, losa::MatrixView<float> out);
  /// Mean negative log likelihood over consecutive sequences of `context` tokens with the weights as adapted so far;
  /// sequences = 0: all that fit.
  double mean_nll(std::span<const Token> tokens, std::size_t context, std::size_t sequences = 0);

 private:
  struct Block;
  class Multiplier;
  // Definitions follow in adapt_engine_impl.hpp.
};

/// The merged weights M⊙(W + σBA) of every adapted layer, for export_model; layers without a mask are not listed.
template <losa::Adapter A>
std::vector<MergedWeight> merged_weights(AdaptEngine<A>& engine);

}  // namespace llama
