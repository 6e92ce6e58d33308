#pragma once
// Rotary position embedding (Su et al., 2021) in the layout of Hugging Face: channel i of a head is paired with channel
// i + head_dim/2, and at position p the pair turns by the angle p·θ^(−2i/head_dim). The scores of queries and keys so
// turned depend on the distance of their positions alone.
//
// Scaling changes the frequencies f = θ^(−2i/head_dim), as in transformers. "linear": f/factor. "llama3": with
// turns = first_context·f/2π, how often a pair turned round within the context of the first training, f/factor where
// turns < low_frequency, f where turns > high_frequency, and between them the mean of the two with weights that change
// linearly in turns.
//
//   llama::Rope rope(32, 10000.0, 512);
//   rope.apply(q, 0, 256, executor);               // rows are tokens of sequences of 256

#include <cstddef>
#include <losa/core/executor.hpp>
#include <losa/core/view.hpp>
#include <vector>

#include "config.hpp"

namespace llama {

class Rope {
 public:
  Rope() = default;
  /// Angles for positions 0 … positions−1 of heads of `head_dim` (even) channels.
  Rope(std::size_t head_dim, double theta, std::size_t positions, const RopeScaling& scaling = {});

  std::size_t positions() const noexcept { return positions_; }
  /// Makes angles for at least this many positions.
  void extend(std::size_t positions);

  /// Turns x (tokens, heads·head_dim) in place; token t stands at position first + t mod sequence.
  /// Throws losa::RangeError if a position is not below positions().
  void apply(losa::MatrixView<float> x, std::size_t first, std::size_t sequence,
             losa::ExecutorRef executor = {}) const {
    turn(x, first, sequence, 1.0f, executor);
  }
  /// The inverse, which is the transpose: what a gradient needs.
  void apply_inverse(losa::MatrixView<float> x, std::size_t first, std::size_t sequence,
                     losa::ExecutorRef executor = {}) const {
    turn(x, first, sequence, -1.0f, executor);
  }

 private:
  void turn(losa::MatrixView<float> x, std::size_t first, std::size_t sequence, float direction,
            losa::ExecutorRef executor) const;

  double theta_ = 0;
  RopeScaling scaling_;
  std::size_t half_ = 0;
  std::size_t positions_ = 0;
  std::vector<float> cosine_;  // (positions, half)
  std::vector<float> sine_;    // (positions, half)
};

}  // namespace llama
