#pragma once
// The weights of a Llama in a Hugging Face directory, checked against its config.json when opened and read as f32.
//
//   llama::Checkpoint checkpoint("smollm2");
//   checkpoint.read_linear(3, llama::gate, weight.view(), pool);

#include <cstddef>
#include <filesystem>
#include <losa/core/executor.hpp>
#include <losa/gemm.hpp>
#include <losa/io/sharded_checkpoint.hpp>
#include <span>
#include <string_view>
#include <vector>

#include "block.hpp"
#include "config.hpp"
#include "matrix.hpp"
#include "tokens.hpp"

namespace llama {

class Checkpoint {
 public:
  /// Reads config.json, maps the files, and checks that every tensor of the architecture is there in the right shape
  /// and that no block holds one that the architecture does not know. Nothing is read of the values yet. Throws
  /// losa::FileError, and what read_config throws.
  explicit Checkpoint(const std::filesystem::path& directory);

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
  /// True if the linear layer is stored compressed.
  bool compressed(std::size_t block, std::size_t which) const;
  /// A compressed linear layer, packed without a dense copy; values that are 0 are dropped.
  losa::PackedMatrix<float> read_packed(std::size_t block, std::size_t which) const;
  /// The tensor that holds a linear layer's values: dense, or the kept ones if compressed.
  const losa::io::Tensor& linear_values(std::size_t block, std::size_t which) const;

 private:
  void check_shapes() const;
  void check_names() const;
  Matrix read_matrix(std::string_view name, std::size_t rows, std::size_t cols, losa::ExecutorRef executor) const;
  std::vector<float> read_vector(std::string_view name, std::size_t size) const;

  std::filesystem::path directory_;
  Config config_;
  losa::io::ShardedCheckpoint files_;
};

}  // namespace llama
