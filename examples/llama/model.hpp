#pragma once
// A Llama loaded for inference: from a Hugging Face directory whose linear layers are stored dense, merged (dense with
// zeros) or compressed (sparse-bitmask), held in memory dense or packed.
//
//   auto model = llama::Model::load("smollm2-70", {.weights = llama::Weights::sparse}, pool);
//   model.forward(tokens, 512, hidden);              // whole sequences
//   model.decode(tokens, cache, hidden);             // tokens that follow those in the cache

#include <cstddef>
#include <filesystem>
#include <losa/core/executor.hpp>
#include <losa/gemm.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "block.hpp"
#include "config.hpp"
#include "kv_cache.hpp"
#include "matrix.hpp"
#include "tokens.hpp"

namespace llama {

/// How linear layers are held in memory.
enum class Weights {
  automatic,  // as they are stored: compressed ones packed, others dense
  dense,
  sparse,  // packed wherever at least a tenth of the weights is zero; stored dense, the zeros are those of the file
};

struct ModelOptions {
  Weights weights = Weights::automatic;
};

/// A linear layer for inference: exactly one of the two is there.
struct Linear {
  std::optional<Matrix> dense;                      // (out, in)
  std::optional<losa::PackedMatrix<float>> packed;  // (out, in)
  std::size_t zeros = 0;  // pruned by the mask that is stored with it; without one, weights that are 0

  std::size_t bytes() const { return dense ? dense->bytes() : packed->bytes(); }
  /// y (tokens, out) = x (tokens, in) · Wᵀ.
  void forward(losa::MatrixView<const float> x, losa::MatrixView<float> y, losa::ExecutorRef executor) const;
};

/// From this share of zeros on, a layer counts as sparse already: its zeros are worth keeping, and worth packing.
inline constexpr double notable_sparsity = 0.1;

/// What `inspect` tells of one linear layer, read from the stored values.
struct LinearSummary {
  std::string name;   // "model.layers.0.mlp.up_proj"
  std::string dtype;  // as the file spells it
  std::size_t out = 0;
  std::size_t in = 0;
  std::size_t zeros = 0;       // pruned by the stored mask; without one, weights that are 0
  std::size_t kept_zeros = 0;  // weights that the stored mask keeps and that are 0
  bool compressed = false;     // stored with its mask
};

/// Products and their scratch are the model's own: one call at a time.
class Model {
 public:
  /// Reads config.json and every weight. Throws losa::FileError (missing tensor or file, wrong shape or type, NaN or
  /// Inf in a weight) and what read_config throws.
  static Model load(const std::filesystem::path& directory, const ModelOptions& options = {},
                    losa::ExecutorRef executor = {});

  const Config& config() const noexcept { return config_; }
  losa::ExecutorRef executor() const noexcept { return executor_; }
  void set_executor(losa::ExecutorRef executor) noexcept { executor_ = executor; }
  const Linear& linear(std::size_t block, std::size_t which) const { return blocks_[block].linears[which]; }

  /// Bytes of all weights held; of the blocks' linear layers alone; the weights and zeros of the latter.
  std::size_t bytes() const;
  std::size_t linear_bytes() const;
  std::size_t linear_weights() const;
  std::size_t linear_zeros() const;

  /// Whole sequences of `context` tokens: hidden (tokens, hidden) after the final norm. tokens.size() must be a
  /// multiple of context, context at most config().positions; else losa::RangeError.
  void forward(std::span<const Token> tokens, std::size_t context, Matrix& hidden) const;
  /// Tokens that follow those in the cache: hidden (tokens, hidden) after the final norm.
  /// Throws losa::RangeError if they exceed the cache's capacity.
  void decode(std::span<const Token> tokens, KvCache& cache, Matrix& hidden) const;
  /// logits (tokens, vocabulary) of final hidden states (tokens, hidden).
  void head(losa::MatrixView<const float> hidden, losa::MatrixView<float> logits) const;
  losa::MatrixView<const float> head_weight() const noexcept { return (config_.tied ? embedding_ : head_).view(); }

 private:
  struct Block {
    BlockNorms norms;
    std::vector<Linear> linears;
  };
  void embed(std::span<const Token> tokens, Matrix& hidden) const;
  void finish(Matrix& hidden) const;

  Config config_;
  losa::ExecutorRef executor_;
  mutable Rope rope_;
  mutable BlockActivations scratch_;
  Matrix embedding_;  // (vocabulary, hidden)
  Matrix head_;       // (vocabulary, hidden), empty if tied
  std::vector<float> norm_;
  std::vector<Block> blocks_;
};

/// The linear layers of a directory's blocks in model order. Throws what Checkpoint throws.
std::vector<LinearSummary> inspect(const std::filesystem::path& directory, losa::ExecutorRef executor = {});

}  // namespace llama
