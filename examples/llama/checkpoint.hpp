#pragma once
// The weights of a Llama in a Hugging Face directory, checked against its config.json when opened and read as f32.
//
//   llama::Checkpoint checkpoint("smollm2");
//   checkpoint.read_linear(3, llama::gate, weight.view(), pool);

#include <cstddef>
#include <filesystem>
#include <losa/core/executor.hpp>
#include <losa/gemm.hpp>
#include <losa/io/compressed.hpp>
#include <losa/io/sharded_checkpoint.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "block.hpp"
#include "config.hpp"
#include "matrix.hpp"
#include "tokens.hpp"

namespace llama {

/// What stands before "layers.0...." and "embed_tokens.weight" in the files' names: "model." as a rule, nothing where
/// the model was saved without its head, "model.model." out of a module that called it `model`. transformers loads all.
std::string base_prefix(const losa::io::ShardedCheckpoint& files);
/// What stands before "lm_head.weight": nothing as a rule, "model." out of such a module.
std::string head_prefix(const losa::io::ShardedCheckpoint& files);
/// A name of the files as it is where these two are "model." and nothing.
std::string usual_name(const std::string& name, const std::string& prefix, const std::string& head);

class Checkpoint {
 public:
  /// Reads config.json, maps the files, and checks that every tensor of the architecture is there in the right shape,
  /// dense or compressed, and that no block holds one that would change the result and that the architecture does not
  /// know. Nothing is read of the values yet, but where a head stands beside a tied embedding. Throws losa::FileError,
  /// and what read_config throws.
  explicit Checkpoint(const std::filesystem::path& directory);

  /// As read, but for `tied`: a head of its own in the file, with other values than the embedding, is used as such.
  const Config& config() const noexcept { return config_; }
  const std::filesystem::path& directory() const noexcept { return directory_; }
  const losa::io::ShardedCheckpoint& files() const noexcept { return files_; }

  /// Values widened to f32; of what was read of matrices, the file's pages leave the memory. All throw losa::FileError
  /// on NaN, Inf, or a type that is no float.
  Matrix read_embedding(losa::ExecutorRef executor = {}) const;  // (vocabulary, hidden)
  Matrix read_head(losa::ExecutorRef executor = {}) const;       // (vocabulary, hidden); empty if tied
  std::vector<float> read_final_norm() const;                    // (hidden)
  BlockNorms read_norms(std::size_t block) const;                // with the biases of the linear layers
  /// A linear layer as a dense matrix (out, in), however it is stored.
  void read_linear(std::size_t block, std::size_t which, losa::MatrixView<float> into,
                   losa::ExecutorRef executor = {}) const;
  /// Rows of the embedding, one per token id: into (tokens, hidden).
  void read_embeddings(std::span<const Token> tokens, losa::MatrixView<float> into) const;
  /// True if the linear layer is stored compressed, that is, with its mask.
  bool compressed(std::size_t block, std::size_t which) const;
  /// A compressed linear layer, packed without a dense copy. Kept weights that are 0 stay kept.
  losa::PackedMatrix<float> read_packed(std::size_t block, std::size_t which) const;
  /// Which weights of a linear layer are kept: the mask that is stored, else those that are not 0.
  losa::Mask read_mask(std::size_t block, std::size_t which, losa::ExecutorRef executor = {}) const;
  /// Zeros of read_mask, counted without a copy of the weights.
  std::size_t zeros(std::size_t block, std::size_t which, losa::ExecutorRef executor = {}) const;
  /// The tensor that holds a linear layer's values: dense, or the kept ones if compressed.
  const losa::io::Tensor& linear_values(std::size_t block, std::size_t which) const;

 private:
  /// One of the architecture's tensors: dense, or the parts of a compressed one.
  struct Stored {
    const losa::io::Tensor* dense = nullptr;
    losa::io::CompressedWeight parts{};

    const losa::io::Tensor& values() const { return dense != nullptr ? *dense : *parts.values; }
    void read(losa::MatrixView<float> into, std::size_t first_row) const;
  };
  Stored stored(std::string_view name) const;
  std::string in_file(std::string_view name) const;
  bool holds(std::string_view name) const;
  void expect(std::string_view name, std::vector<std::size_t> shape) const;
  void check_shapes() const;
  void check_names() const;
  void tie();
  [[noreturn]] void missing(std::string_view name) const;
  void read_rows(const Stored& stored, losa::MatrixView<float> into, losa::ExecutorRef executor) const;
  Matrix read_matrix(std::string_view name, losa::ExecutorRef executor) const;
  std::vector<float> read_vector(std::string_view name, std::size_t size) const;

  std::filesystem::path directory_;
  Config config_;
  losa::io::ShardedCheckpoint files_;
  std::string prefix_;
  std::string head_prefix_;
  std::string embedding_;  // the tensor that is the embedding: of a tied model perhaps the head's
};

}  // namespace llama
