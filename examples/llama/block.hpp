#pragma once
// One decoder block:
//
//   h = norm(x)          q, k, v = h·Wqᵀ, h·Wkᵀ, h·Wvᵀ       a = attention(rope(q), rope(k), v)      m = x + a·Woᵀ
//   n = norm(m)          s = silu(n·Wgᵀ)∘(n·Wuᵀ)             y = m + s·Wdᵀ
//
// What multiplies the linear layers (dense, packed, adapted) is behind BlockLinears, so that this is the only block
// there is. A linear layer may add a bias to its product. Norms and biases are never trained; gradients of adapters are
// the linear layers' own business.

#include <array>
#include <cstddef>
#include <losa/core/executor.hpp>
#include <losa/core/view.hpp>
#include <span>
#include <vector>

#include "config.hpp"
#include "kv_cache.hpp"
#include "matrix.hpp"
#include "rope.hpp"

namespace llama {

/// The seven linear layers of one block.
class BlockLinears {
 public:
  virtual ~BlockLinears() = default;
  /// y (tokens, out) = x (tokens, in) · Wᵀ of linear layer `which`.
  virtual void forward(LinearIndex which, losa::MatrixView<const float> x, losa::MatrixView<float> y) = 0;
  /// grad_x (tokens, in; overwritten; empty = not wanted) from grad_y (tokens, out), and the layer's own gradients.
  virtual void backward(LinearIndex which, losa::MatrixView<const float> x, losa::MatrixView<const float> grad_y,
                        losa::MatrixView<float> grad_x) = 0;
  /// Called with each of the block's distinct inputs (linear_input) before it is multiplied.
  virtual void observe(std::size_t /*input*/, losa::MatrixView<const float> /*x*/) {}
};

/// The vectors of a block.
struct BlockNorms {
  std::vector<float> attention;                                // input_layernorm
  std::vector<float> mlp;                                      // post_attention_layernorm
  std::array<std::vector<float>, linears_per_block> biases{};  // of each linear layer; empty where it has none
};

/// Everything of a block's forward pass that its backward pass reads. Buffers grow once and are used again.
struct BlockActivations {
  Matrix x, h, q, k, v, a, m, n, g, u, s;  // (tokens, …), named as above
  std::vector<float> scale_x, scale_m;     // (tokens) of the norms
  std::vector<float> log_sum;              // (sequences·heads·context) of the attention

  /// Bytes that `tokens` tokens need.
  static std::size_t bytes(const Config& config, std::size_t tokens);
};

/// Scratch of a backward pass.
struct BlockGradients {
  Matrix wide_a, wide_b, wide_s;  // (tokens, intermediate)
  Matrix hidden_a, hidden_b;      // (tokens, hidden)
  Matrix q, k, v, a;              // as the activations of these names
};

/// What is the same for every block of a model.
struct BlockContext {
  const Config* config = nullptr;
  const Rope* rope = nullptr;
  losa::ExecutorRef executor{};
};

/// Runs a block on whole sequences of `context` tokens: y (tokens, hidden) from x (tokens, hidden); y may be x.
/// Leaves in `saved` what block_backward needs; with an empty y, that alone is computed.
void block_forward(const BlockContext& c, const BlockNorms& norms, BlockLinears& linears, std::size_t context,
                   losa::MatrixView<const float> x, losa::MatrixView<float> y, BlockActivations& saved);

/// grad (tokens, hidden): in, the gradient of the block's result; out, that of its input. With input_wanted = false
/// (block 0, since embeddings are not trained) what leads to the input alone is skipped and `grad` holds nothing of
/// use.
void block_backward(const BlockContext& c, const BlockNorms& norms, BlockLinears& linears, std::size_t context,
                    const BlockActivations& saved, losa::MatrixView<float> grad, bool input_wanted,
                    BlockGradients& scratch);

/// Runs a block on tokens that follow those in the cache, and appends their keys and values to it.
void block_decode(const BlockContext& c, const BlockNorms& norms, BlockLinears& linears, KvCache& cache,
                  std::size_t block, losa::MatrixView<float> hidden, BlockActivations& scratch);

}  // namespace llama
