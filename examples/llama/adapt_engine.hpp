#pragma once
// A Llama that losa::adapt can prune and train: models losa::Engine. The dense master copies of the blocks' linear
// layers are f32; the checkpoint's own weights stay reachable through the mapped file.
//
//   llama::AdaptEngine<losa::MaskedLora> engine("smollm2", calibration, training, {.seed = 1}, pool);
//   losa::adapt(engine, policy, recipe, options);
//   llama::export_model("smollm2", "out", llama::merged_weights(engine));

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <losa/adapt/engine.hpp>
#include <losa/io/adapter_file.hpp>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "blas.hpp"
#include "block.hpp"
#include "block_store.hpp"
#include "checkpoint.hpp"
#include "export.hpp"
#include "loops.hpp"
#include "loss.hpp"
#include "norm.hpp"
#include "tokens.hpp"
#include "windows.hpp"

namespace llama {

struct AdaptEngineOptions {
  std::size_t calibration_sequences = 64;  // sequence i starts at token i·⌊tokens/n⌋
  std::size_t calibration_context = 256;
  std::size_t batch = 2;
  std::size_t context = 256;
  std::uint64_t seed = 0;  // of the batches' windows
  std::string skip = {};   // ECMAScript regular expression, searched in names like "model.layers.0.mlp.up_proj"
  KeepMask keep_mask = KeepMask::stored;
  // Activations that wait from forward to backward, in bytes; those of earlier blocks are computed again, from the
  // block's input, with the same bits. The last block's are always kept.
  std::size_t activation_bytes = std::size_t{1} << 28;
  // Directory for a model larger than memory: the weights of one block at a time are in memory, the rest lies in a
  // scratch file there, and so do the calibration set's hidden states. Empty: everything is in memory.
  std::string scratch = {};
};

template <losa::Adapter A>
class AdaptEngine {
 public:
  using Adapter = A;
  using Layer = losa::AdaptedLinear<A>;

  /// Opens the model and copies its linear layers. `calibration` and `training` are token ids of its vocabulary; of a
  /// file, only what is needed at the moment is in memory.
  /// Throws losa::RangeError (sequences that do not fit into the tokens, ids outside the vocabulary, context below 2 or
  /// above the model's positions, batch 0, a bad regular expression or one that skips every layer), losa::FileError and
  /// what read_config throws.
  AdaptEngine(const std::filesystem::path& directory, Tokens calibration, Tokens training,
              const AdaptEngineOptions& options = {}, losa::ExecutorRef executor = {})
      : checkpoint_(directory),
        calibration_(std::move(calibration)),
        training_(std::move(training)),
        options_(options),
        executor_(executor),
        rope_(config().head_dim, config().rope_theta, std::max(options.context, options.calibration_context),
              config().rope_scaling),
        store_(checked(), options.skip, options.keep_mask, options.scratch, executor),
        // Adapters draw from streams that are numbered from 0.
        windows_(training_.size(), options.context, {.seed = options.seed, .stream = ~std::uint64_t{0}}) {
    if (!store_.parks()) {
      embedding_ = checkpoint_.read_embedding(executor_);
      head_ = checkpoint_.read_head(executor_);
    }
    norm_ = checkpoint_.read_final_norm();
    const std::size_t each = BlockActivations::bytes(config(), tokens_per_step());
    kept_.resize(std::clamp<std::size_t>(options.activation_bytes / each, 1, blocks()));
    inputs_.resize(blocks() - kept_.size());
  }
  AdaptEngine(const AdaptEngine&) = delete;
  AdaptEngine& operator=(const AdaptEngine&) = delete;

  // ---- losa::Engine -------------------------------------------------------------------------------------------

  std::size_t blocks() const noexcept { return config().blocks; }
  std::span<Layer> linears(std::size_t block) { return store_[block].adapted; }
  void hold(std::size_t block) { store_.hold(block); }
  /// Memory for n hidden values: in the scratch file, if there is one.
  std::shared_ptr<float[]> hidden_storage(std::size_t n) {
    return store_.parks() ? store_.scratch().template map<float>(n) : std::make_shared<float[]>(n);
  }
  std::size_t inputs(std::size_t) const noexcept { return inputs_per_block; }
  std::size_t sequences() const noexcept { return options_.calibration_sequences; }
  std::size_t context() const noexcept { return options_.calibration_context; }
  std::size_t width() const noexcept { return config().hidden; }
  losa::ExecutorRef executor() const noexcept { return executor_; }

  void embed(std::size_t sequence, losa::MatrixView<float> hidden) {
    const std::size_t start = spread_start(calibration_.size(), sequences(), sequence, context());
    embed_tokens(calibration_.read(start, hidden.rows), hidden);
  }

  template <class F>
  void observe_block(std::size_t block, losa::MatrixView<const float> hidden, std::size_t context, F&& observe) {
    struct Observed final : Multiplier {
      Observed(AdaptEngine& e, std::size_t b, F& f) : Multiplier(e, b, {}), see(f) {}
      void observe(std::size_t input, losa::MatrixView<const float> x) override { see(input, x); }
      F& see;
    };
    Observed linears(*this, block, observe);
    block_forward(shared(), linears.block.norms, linears, context, hidden, {}, scratch_);
  }

  void run_block(std::size_t block, losa::MatrixView<float> hidden, std::size_t context) {
    Multiplier linears(*this, block, {});
    block_forward(shared(), linears.block.norms, linears, context, hidden, hidden, scratch_);
  }

  void run_original_block(std::size_t block, losa::MatrixView<float> hidden, std::size_t context) {
    const auto& held = store_.hold(block);
    if (!held.original() && original_.block != block) {
      original_.weights.resize(linears_per_block);
      for (std::size_t which = 0; which < linears_per_block; ++which) {
        const auto [out, in] = linear_shape(config(), which);
        original_.weights[which].reshape(out, in);
        checkpoint_.read_linear(block, which, original_.weights[which].view(), executor_);
      }
      original_.block = block;
    }
    DenseLinears linears(held.original() ? held.weights : original_.weights, executor_);
    block_forward(shared(), held.norms, linears, context, hidden, hidden, scratch_);
  }

  double train_step(std::uint64_t step) {
    for (std::size_t b = 0; b < blocks(); ++b)
      for (Layer& layer : store_[b].adapted) layer.zero_gradients();
    batch_.resize(tokens_per_step());
    const std::vector<std::size_t> starts = window_starts(step);
    for (std::size_t i = 0; i < starts.size(); ++i)
      training_.read(starts[i], std::span(batch_).subspan(i * options_.context, options_.context));
    const losa::DropoutKey key{.step = step, .training = true};
    const std::size_t recomputed = inputs_.size();

    hidden_.reshape(tokens_per_step(), width());
    embed_tokens(batch_, hidden_.view());
    for (std::size_t b = 0; b < blocks(); ++b) {
      Multiplier linears(*this, b, key);
      if (b < recomputed) inputs_[b] = hidden_;
      block_forward(shared(), linears.block.norms, linears, options_.context, hidden_.cview(), hidden_.view(),
                    b < recomputed ? scratch_ : kept_[b - recomputed]);
    }

    normed_.reshape(hidden_.rows(), width());
    scale_.resize(hidden_.rows());
    rms_norm(hidden_.cview(), norm_, config().norm_epsilon, normed_.view(), scale_, executor_);
    const double sum = next_token_loss(head(), normed_.cview(), batch_, options_.context, normed_.view(), executor_);

    gradient_.reshape(hidden_.rows(), width());
    gradient_.fill(0.0f);
    rms_norm_backward(hidden_.cview(), norm_, scale_, normed_.cview(), gradient_.view(), executor_);
    for (std::size_t b = blocks(); b-- > 0;) {
      Multiplier linears(*this, b, key);
      if (b < recomputed)
        block_forward(shared(), linears.block.norms, linears, options_.context, inputs_[b].cview(), {}, scratch_);
      block_backward(shared(), linears.block.norms, linears, options_.context,
                     b < recomputed ? scratch_ : kept_[b - recomputed], gradient_.view(), b != 0, backward_);
    }
    return sum / static_cast<double>(options_.batch * (options_.context - 1));
  }

  // ---- beside the concept -------------------------------------------------------------------------------------

  const Config& config() const noexcept { return checkpoint_.config(); }
  const Checkpoint& checkpoint() const noexcept { return checkpoint_; }
  const std::filesystem::path& directory() const noexcept { return checkpoint_.directory(); }
  std::size_t tokens_per_step() const noexcept { return options_.batch * options_.context; }

  /// Starts of the windows of batch number `step`: the text is read in passes, each of windows that do not overlap.
  std::vector<std::size_t> window_starts(std::uint64_t step) {
    std::vector<std::size_t> starts(options_.batch);
    for (std::size_t i = 0; i < starts.size(); ++i) starts[i] = windows_.start(step * options_.batch + i);
    return starts;
  }

  /// logits (tokens, vocabulary) of one sequence with the weights as adapted so far.
  void logits(std::span<const Token> tokens, losa::MatrixView<float> out) {
    forward(tokens, tokens.size());
    multiply(normed_.cview(), head(), out, executor_);
  }

  /// Mean negative log likelihood over consecutive sequences of `context` tokens, `sequences` of them (0 = all that
  /// fit), with the weights as adapted so far. Throws losa::RangeError if the tokens hold too few.
  double mean_nll(std::span<const Token> tokens, std::size_t context, std::size_t sequences = 0) {
    const std::size_t there = context == 0 ? 0 : tokens.size() / context;
    if (sequences == 0) sequences = there;
    if (context < 2 || sequences == 0 || sequences > there)
      losa::detail::raise<losa::RangeError>("mean_nll: ", tokens.size(), " tokens hold ", there, " sequences of ",
                                            context);
    double sum = 0;
    for (std::size_t i = 0; i < sequences; i += options_.batch) {
      const auto part = tokens.subspan(i * context, std::min(options_.batch, sequences - i) * context);
      forward(part, context);
      sum += next_token_loss(head(), normed_.cview(), part, context, {}, executor_);
    }
    return sum / static_cast<double>(sequences * (context - 1));
  }

 private:
  using Store = BlockStore<A>;

  /// A block's layers as adapted so far.
  struct Multiplier : BlockLinears {
    Multiplier(AdaptEngine& e, std::size_t b, losa::DropoutKey k) : engine(e), block(e.store_.hold(b)), key(k) {}
    Layer* layer(LinearIndex which) {
      const std::size_t at = block.adapted_at[which];
      return at == Store::none ? nullptr : &block.adapted[at];
    }
    Layer* sparse_layer(LinearIndex which) {
      Layer* found = layer(which);
      return found != nullptr && found->pruned() ? found : nullptr;
    }
    void forward(LinearIndex which, losa::MatrixView<const float> x, losa::MatrixView<float> y) override {
      if (Layer* sparse = sparse_layer(which))
        sparse->forward(x, y, key, engine.executor_);
      else
        multiply(x, block.weights[which].cview(), y, engine.executor_);
    }
    void backward(LinearIndex which, losa::MatrixView<const float> x, losa::MatrixView<const float> grad_y,
                  losa::MatrixView<float> grad_x) override {
      if (Layer* sparse = sparse_layer(which)) return sparse->backward(x, grad_y, grad_x, key, engine.executor_);
      if (Layer* dense = layer(which)) dense->backward_dense(grad_y);
      if (!grad_x.empty()) multiply_transposed(grad_y, block.weights[which].cview(), grad_x, engine.executor_);
    }
    AdaptEngine& engine;
    typename Store::Block& block;
    losa::DropoutKey key;
  };

  /// The checkpoint's own layers.
  struct DenseLinears final : BlockLinears {
    DenseLinears(const std::vector<Matrix>& w, losa::ExecutorRef e) : weights(w), executor(e) {}
    void forward(LinearIndex which, losa::MatrixView<const float> x, losa::MatrixView<float> y) override {
      multiply(x, weights[which].cview(), y, executor);
    }
    void backward(LinearIndex which, losa::MatrixView<const float>, losa::MatrixView<const float> grad_y,
                  losa::MatrixView<float> grad_x) override {
      if (!grad_x.empty()) multiply_transposed(grad_y, weights[which].cview(), grad_x, executor);
    }
    const std::vector<Matrix>& weights;
    losa::ExecutorRef executor;
  };

  /// The checkpoint, once the other arguments have been checked.
  const Checkpoint& checked() const {
    using losa::detail::raise;
    const std::size_t positions = config().positions;
    if (options_.batch == 0) raise<losa::RangeError>("batch must be at least 1, got 0");
    if (options_.calibration_sequences == 0) raise<losa::RangeError>("calibration sequences must be at least 1, got 0");
    if (options_.context < 2 || options_.context > positions)
      raise<losa::RangeError>("context must be in [2, ", positions, "], got ", options_.context);
    if (options_.calibration_context < 1 || options_.calibration_context > positions)
      raise<losa::RangeError>("calibration context must be in [1, ", positions, "], got ",
                              options_.calibration_context);
    if (options_.calibration_sequences > calibration_.size())
      raise<losa::RangeError>("calibration sequences must be at most the ", calibration_.size(), " tokens, got ",
                              options_.calibration_sequences);
    spread_start(calibration_.size(), sequences(), sequences() - 1, context());  // the last one fits: all do
    calibration_.check(config().vocabulary);
    if (!training_.same_as(calibration_)) training_.check(config().vocabulary);
    return checkpoint_;
  }

  BlockContext shared() const { return {&config(), &rope_, executor_}; }
  /// The head's weights, (vocabulary, hidden); with one block at a time they are read when they are first needed.
  losa::MatrixView<const float> head() {
    Matrix& head = config().tied ? embedding_ : head_;
    if (head.rows() == 0)
      head = config().tied ? checkpoint_.read_embedding(executor_) : checkpoint_.read_head(executor_);
    return head.cview();
  }

  void embed_tokens(std::span<const Token> tokens, losa::MatrixView<float> hidden) const {
    losa::detail::expect_shape("AdaptEngine", "hidden", hidden, tokens.size(), width());
    if (embedding_.rows() == 0) return checkpoint_.read_embeddings(tokens, hidden);
    for (std::size_t t = 0; t < tokens.size(); ++t)
      std::ranges::copy(embedding_.view().row(tokens[t]), hidden.row(t).begin());
  }

  // normed_ = states after the final norm.
  void forward(std::span<const Token> tokens, std::size_t context) {
    if (context > config().positions)
      losa::detail::raise<losa::RangeError>("context must be at most ", config().positions, ", got ", context);
    for (Token token : tokens)
      if (token >= config().vocabulary)
        losa::detail::raise<losa::RangeError>("token ", token, " is outside the vocabulary of ", config().vocabulary);
    rope_.extend(context);
    hidden_.reshape(tokens.size(), width());
    embed_tokens(tokens, hidden_.view());
    for (std::size_t b = 0; b < blocks(); ++b) {
      Multiplier linears(*this, b, {});
      block_forward(shared(), linears.block.norms, linears, context, hidden_.cview(), hidden_.view(), scratch_);
    }
    normed_.reshape(hidden_.rows(), width());
    scale_.resize(hidden_.rows());
    rms_norm(hidden_.cview(), norm_, config().norm_epsilon, normed_.view(), scale_, executor_);
  }

  Checkpoint checkpoint_;
  Tokens calibration_;
  Tokens training_;
  AdaptEngineOptions options_;
  losa::ExecutorRef executor_;
  Rope rope_;
  Store store_;
  ShuffledWindows windows_;
  Matrix embedding_;  // (vocabulary, hidden); empty with one block at a time, until the head needs it
  Matrix head_;       // (vocabulary, hidden); empty if tied or not needed yet
  std::vector<float> norm_;

  struct {
    std::size_t block = Store::none;
    std::vector<Matrix> weights;
  } original_;  // the checkpoint's layers of one block

  // One training step's memory.
  std::vector<Token> batch_;
  Matrix hidden_;    // (tokens, hidden)
  Matrix normed_;    // (tokens, hidden); after the loss, its gradient
  Matrix gradient_;  // (tokens, hidden)
  std::vector<float> scale_;
  std::vector<BlockActivations> kept_;  // of the last blocks
  std::vector<Matrix> inputs_;          // of the blocks before
  BlockActivations scratch_;
  BlockGradients backward_;
};

/// The merged weights M⊙(W + σBA) of every layer of a block that has a mask.
template <losa::Adapter A>
std::vector<MergedWeight> merged_weights(AdaptEngine<A>& engine, std::size_t block) {
  std::vector<MergedWeight> merged;
  engine.hold(block);
  for (const losa::AdaptedLinear<A>& layer : engine.linears(block))
    if (layer.pruned()) merged.push_back({layer.name + ".weight", layer.merged(engine.executor())});
  return merged;
}
/// … and of every block, in model order.
template <losa::Adapter A>
std::vector<MergedWeight> merged_weights(AdaptEngine<A>& engine) {
  std::vector<MergedWeight> merged;
  for (std::size_t b = 0; b < engine.blocks(); ++b)
    for (MergedWeight& one : merged_weights(engine, b)) merged.push_back(std::move(one));
  return merged;
}

/// What losa::io::add_adapter writes of a layer: factors, scale and mask; rank 0 where there is only a mask.
template <losa::Adapter A>
losa::io::AdapterView adapter_view(const losa::AdaptedLinear<A>& layer) {
  return {.name = layer.name,
          .a = layer.has_adapter() ? layer.adapter().a() : losa::MatrixView<const float>(nullptr, 0, layer.in()),
          .bt = layer.has_adapter() ? layer.adapter().bt() : losa::MatrixView<const float>(nullptr, 0, layer.out()),
          .scale = layer.has_adapter() ? layer.adapter().scale() : 0.0,
          .mask = layer.pruned() ? &layer.mask() : nullptr};
}
/// … of every layer, in model order; for an engine that holds all blocks.
template <losa::Adapter A>
std::vector<losa::io::AdapterView> adapter_views(AdaptEngine<A>& engine) {
  std::vector<losa::io::AdapterView> views;
  for (std::size_t b = 0; b < engine.blocks(); ++b)
    for (const losa::AdaptedLinear<A>& layer : engine.linears(b)) views.push_back(adapter_view(layer));
  return views;
}

}  // namespace llama
