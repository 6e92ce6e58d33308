#pragma once
// Loops over the rows of activations, the exponential that they share, and sums in a fixed order that compilers can
// still do several at a time. The loops with the exponential are compiled for AVX2 too, and chosen when the program
// starts; lanes and order are the same, and no product is fused with a sum, so the bits are the same as well.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <losa/core/executor.hpp>
#include <losa/core/view.hpp>

namespace llama {

/// Calls f(begin, end) for tiles of rows that hold about `elements` elements each; tiles depend on the shape alone.
template <class F>
void for_row_tiles(std::size_t rows, std::size_t cols, losa::ExecutorRef executor, F&& f,
                   std::size_t elements = 16384) {
  const std::size_t tile = std::max<std::size_t>(1, elements / std::max<std::size_t>(1, cols));
  executor.parallel_for((rows + tile - 1) / tile, [&](std::size_t i) { f(i * tile, std::min(rows, (i + 1) * tile)); });
}

/// e^x without branches, so that loops over it become SIMD code; error below 2 units in the last place for |x| ≤ 87,
/// other arguments count as ±87, NaN and infinities give NaN. Range reduction and polynomial: Cephes' expf.
inline float exponential(float argument) noexcept {
  // Clamped as an integer: g++ splits a loop's body at comparisons of floats and computes every part for every element,
  // and a division by the constant e^87 then makes subnormal numbers, at 12 ns each.
  const auto bits = std::bit_cast<std::uint32_t>(argument);
  const auto magnitude = static_cast<std::int32_t>(bits & 0x7fffffffu);
  constexpr auto bound = std::bit_cast<std::int32_t>(87.0f);
  const float x =
      std::bit_cast<float>(static_cast<std::uint32_t>(magnitude < bound ? magnitude : bound) | (bits & 0x80000000u));
  constexpr float shift = 12582912.0f;  // 1.5·2²³: adding it leaves the nearest integer in the low bits
  const float shifted = x * 1.44269504088896341f + shift;
  const float n = shifted - shift;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const std::uint32_t power = (std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(shift) + 127u)
                              << 23;
  return p * std::bit_cast<float>(power) + (argument - argument);
}

namespace detail {

/// f(i) for i in [0, n) summed in 8 interleaved partial sums, then pairwise.
template <class F>
float sum_of(std::size_t n, F&& f) noexcept {
  float lane[8] = {};
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (std::size_t j = 0; j < 8; ++j) lane[j] += f(i + j);
  for (; i < n; ++i) lane[i % 8] += f(i);
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

/// Largest of f(0) … f(n−1); −infinity if n = 0.
inline float largest(const float* x, std::size_t n) noexcept {
  float lane[8];
  std::fill_n(lane, 8, -INFINITY);
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (std::size_t j = 0; j < 8; ++j) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
  for (; i < n; ++i) lane[i % 8] = std::max(lane[i % 8], x[i]);
  return *std::max_element(lane, lane + 8);
}

}  // namespace detail

/// Turns scores into e^(score − largest) in place; returns their sum and, in `top`, the largest.
float exponentials(float* score, std::size_t n, float& top) noexcept;

/// x *= factor.
void scale_row(float* x, std::size_t n, float factor) noexcept;

/// Scores to probabilities e^(score − shift), gradients of probabilities to gradients of scores p·(gradient − along).
void softmax_backward_row(float* score, float* gradient, std::size_t n, float shift, float along) noexcept;

/// One token of swiglu.hpp.
void swiglu_row(const float* gate, const float* up, float* y, std::size_t n) noexcept;
void swiglu_backward_row(const float* gate, const float* up, const float* grad_y, float* grad_gate, float* grad_up,
                         std::size_t n) noexcept;

/// y += x, same shapes, contiguous.
inline void add_to(losa::MatrixView<const float> x, losa::MatrixView<float> y, losa::ExecutorRef executor) {
  for_row_tiles(y.rows, y.cols, executor, [&](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) {
      const float* from = x.row(t).data();
      float* to = y.row(t).data();
      for (std::size_t i = 0; i < y.cols; ++i) to[i] += from[i];
    }
  });
}

/// y = x, same shapes.
inline void copy_to(losa::MatrixView<const float> x, losa::MatrixView<float> y) {
  for (std::size_t t = 0; t < y.rows; ++t) std::copy_n(x.row(t).data(), y.cols, y.row(t).data());
}

}  // namespace llama
