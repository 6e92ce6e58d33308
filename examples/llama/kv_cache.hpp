#pragma once
// Keys and values of the tokens that a model has seen, per block, for decoding one token at a time.

#include <cstddef>
#include <losa/core/error.hpp>
#include <vector>

#include "config.hpp"
#include "matrix.hpp"

namespace llama {

class KvCache {
 public:
  /// Room for `capacity` tokens. Throws losa::RangeError if that is more than config.positions.
  KvCache(const Config& config, std::size_t capacity) : capacity_(capacity) {
    if (capacity > config.positions)
      losa::detail::raise<losa::RangeError>("KvCache: ", capacity, " tokens exceed max_position_embeddings ",
                                            config.positions);
    for (std::size_t b = 0; b < config.blocks; ++b) {
      keys_.emplace_back(capacity, config.kv_width());
      values_.emplace_back(capacity, config.kv_width());
    }
  }

  std::size_t capacity() const noexcept { return capacity_; }
  /// Tokens seen.
  std::size_t size() const noexcept { return size_; }
  void clear() noexcept { size_ = 0; }
  /// Forgets all but the first `tokens` (at most size()).
  void rewind(std::size_t tokens) noexcept { size_ = tokens; }
  /// Called by the model once every block has appended.
  void advance(std::size_t tokens) noexcept { size_ += tokens; }
  std::size_t bytes() const noexcept { return keys_.size() * 2 * (keys_.empty() ? 0 : keys_[0].bytes()); }

  /// Rows [0, tokens) of a block's keys and values, (tokens, kv_width).
  losa::MatrixView<float> keys(std::size_t block, std::size_t tokens) { return rows(keys_[block], tokens); }
  losa::MatrixView<float> values(std::size_t block, std::size_t tokens) { return rows(values_[block], tokens); }

 private:
  static losa::MatrixView<float> rows(Matrix& m, std::size_t tokens) { return m.view().block(0, 0, tokens, m.cols()); }

  std::size_t capacity_ = 0;
  std::size_t size_ = 0;
  std::vector<Matrix> keys_;    // per block (capacity, kv_width)
  std::vector<Matrix> values_;  // per block (capacity, kv_width)
};

}  // namespace llama
