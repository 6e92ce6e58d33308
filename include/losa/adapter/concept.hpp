#pragma once
// What an adapter of a sparse linear layer must offer, so that training (losa/adapt) and merging work with it.
//
//   y = x·(packed weights)ᵀ + whatever the adapter adds        x (tokens, in) → y (tokens, out)
//
// The packed weights are shared and const during products; `refresh` rewrites them after the factors have changed. An
// adapter is const during products too: scratch memory is the caller's, one LoraWorkspace per layer (or per layer and
// thread that multiplies), so that no product allocates after the first of its size.

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <losa/adapter/dropout.hpp>
#include <losa/adapter/gradients.hpp>
#include <losa/adapter/resize.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/mask.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/packed_matrix.hpp>

namespace losa::inline v0 {

/// Scratch of forward and backward, kept by the caller between calls to spare allocations. Holds nothing that outlives
/// a call; one may serve layers of different shapes, at the price of allocating again.
struct LoraWorkspace {
  PackedMatrix<float> weight_gradient;  // Ĝ = (GᵀX)⊙M
  PackedMatrix<float> factor_a;         // A and Bᵀ with every position kept, for the dense products of plain LoRA
  PackedMatrix<float> factor_bt;
  std::vector<float> tokens_in;     // (tokens, in)
  std::vector<float> tokens_rank;   // (tokens, rank)
  std::vector<float> tokens_rank2;  // (tokens, rank)
  std::vector<float> factor;        // (rank, max(in, out))
};

template <class AdapterType>
concept Adapter = requires(AdapterType& adapter, const AdapterType& fixed, PackedMatrix<float>& packed,
                           const PackedMatrix<float>& weights, std::span<const float> base, MatrixView<const float> x,
                           MatrixView<float> y, LoraGradients& gradients, DropoutKey key, ExecutorRef executor,
                           LoraWorkspace& workspace, std::size_t n, std::span<float> row, const Mask& mask,
                           std::uint64_t stream) {
  /// True if the model with merged weights computes the same function as the one with the adapter beside them.
  { AdapterType::mergeable } -> std::convertible_to<bool>;
  { fixed.rank() } -> std::convertible_to<std::size_t>;
  { fixed.in() } -> std::convertible_to<std::size_t>;
  { fixed.out() } -> std::convertible_to<std::size_t>;
  /// Writes the values that forward multiplies with; `base` holds W at the kept positions in packed order.
  adapter.refresh(packed, base, executor);
  /// y (tokens, out) from x (tokens, in); `weights` as refresh left them.
  fixed.forward(weights, x, y, key, executor, workspace);
  /// Adds to the gradients of the factors; writes grad_x (tokens, in) unless it is an empty view.
  fixed.backward(weights, x, x, gradients, y, key, executor, workspace);
  /// What position (r, ·) would gain, pruned columns too.
  fixed.delta_row(n, row);
  /// packed = W + ΔW at the kept positions: the merged weights.
  fixed.add_to(packed, base, executor);
  { adapter.resize(n, y, mask, stream) } -> std::same_as<RankChange>;
  { adapter.parameters() } -> std::same_as<std::array<std::span<float>, 2>>;
};

namespace detail {

/// A (rows, cols) view of the first elements of a buffer that only ever grows.
inline MatrixView<float> scratch(std::vector<float>& buffer, std::size_t rows, std::size_t cols) {
  if (buffer.size() < rows * cols) buffer.resize(rows * cols);
  return {buffer.data(), rows, cols};
}

/// Tasks of the token-wise loops: a fixed number of rows each, whatever the number of threads.
inline constexpr std::size_t token_tile = 32;

/// Calls f(first, count) for every tile of at most `tile` of n, as tasks of the executor.
template <class Function>
void for_tiles(std::size_t n, std::size_t tile, ExecutorRef executor, Function&& f) {
  executor.parallel_for((n + tile - 1) / tile, [&](std::size_t i) { f(i * tile, std::min(tile, n - i * tile)); });
}

/// target = f(multiplier of dropout, source, target) element by element, (tokens, in).
template <class Function>
void with_dropout(const Dropout& dropout, DropoutKey key, MatrixView<const float> source, MatrixView<float> target,
                  ExecutorRef executor, Function&& f) {
  for_tiles(source.rows, token_tile, executor, [&](std::size_t first, std::size_t count) {
    std::vector<float> d(source.cols);
    for (std::size_t t = first; t < first + count; ++t) {
      dropout.multipliers(key, t, d);
      const float* from = source.row(t).data();
      float* to = target.row(t).data();
      for (std::size_t c = 0; c < d.size(); ++c) to[c] = f(d[c], from[c], to[c]);
    }
  });
}

/// to += scale · from
inline void add_scaled(std::vector<float>& to, MatrixView<const float> from, float scale) {
  for (std::size_t r = 0; r < from.rows; ++r)
    for (std::size_t c = 0; c < from.cols; ++c) to[r * from.cols + c] += scale * from(r, c);
}

}  // namespace detail
}  // namespace losa::inline v0
