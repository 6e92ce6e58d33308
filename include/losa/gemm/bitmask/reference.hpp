#pragma once
// The reference kernels of the bitmask format, one phase each.
// Cost 2·kept·tokens flops and one walk over the mask per token.

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include <losa/core/types.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/arena.hpp>
#include <losa/gemm/formats.hpp>
#include <losa/gemm/kernel.hpp>
#include <losa/gemm/operation.hpp>
#include <losa/gemm/target/reference.hpp>

namespace losa::inline v0::detail::reference {

/// Calls f(column, index of the value) for every kept weight of row r.
template <class Function>
void for_each_kept(const PackedLayout& w, std::size_t r, Function&& f) noexcept {
  for (std::size_t t = 0; t < w.tiles; ++t) {
    const std::size_t tile = r / tile_rows * w.tiles + t;
    const std::uint64_t* const words = w.words + tile * tile_rows;
    std::size_t k = w.offsets[tile];
    for (std::size_t i = 0; i < r % tile_rows; ++i) k += static_cast<std::size_t>(std::popcount(words[i]));
    for (std::uint64_t word = words[r % tile_rows]; word != 0; word &= word - 1)
      f(t * tile_cols + static_cast<std::size_t>(std::countr_zero(word)), k++);
  }
}

/// A row block a task.
template <class WeightsType>
class MultiplyBlocks {
 public:
  MultiplyBlocks(const Operand<WeightsType>& operand, Shape shape) noexcept
      : w_(operand.layout), weights_(operand.weights), tokens_(shape.tokens) {}

  Needs needs() const noexcept { return {.phases = 1, .own = Arena::need<double>(tile_rows * tokens_)}; }
  std::size_t tasks(std::size_t) const noexcept { return tokens_ == 0 ? 0 : w_.row_blocks; }
  Rounding rounding() const noexcept { return {.double_sums = true}; }
  void run(std::size_t, std::size_t b, const Multiply& arguments, Workspace workspace) const noexcept {
    auto* const sums = Arena(workspace.own).take<double>(tile_rows * tokens_);  // (row, token)
    std::fill_n(sums, tile_rows * tokens_, 0.0);
    for (std::size_t t = 0; t < w_.tiles; ++t) {
      auto cursor = weights_.begin(w_, b, t);
      for (std::size_t i = 0; i < tile_rows; ++i) {
        std::size_t j = 0;
        for (std::uint64_t word = w_.words[(b * w_.tiles + t) * tile_rows + i]; word != 0; word &= word - 1, ++j)
          add(arguments.x, t * tile_cols + static_cast<std::size_t>(std::countr_zero(word)),
              static_cast<double>(cursor.at(i, j)), sums + i * tokens_);
        cursor.advance(j);
      }
    }
    store(sums, b * tile_rows, std::min(tile_rows, w_.rows - b * tile_rows), arguments);
  }

 private:
  const PackedLayout& w_;
  const WeightsType& weights_;
  std::size_t tokens_;
};

/// A token a task.
class MultiplyTokensTransposed {
 public:
  MultiplyTokensTransposed(const Operand<FloatWeights<float>>& operand, Shape shape) noexcept
      : w_(operand.layout), weights_(operand.weights), tokens_(shape.tokens) {}

  Needs needs() const noexcept { return {.phases = 1, .own = Arena::need<double>(w_.cols)}; }
  std::size_t tasks(std::size_t) const noexcept { return w_.cols == 0 ? 0 : tokens_; }
  Rounding rounding() const noexcept { return {.double_sums = true}; }
  void run(std::size_t, std::size_t t, const MultiplyTransposed& arguments, Workspace workspace) const noexcept {
    const MatrixView<float> dx = arguments.dx;
    auto* const sum = Arena(workspace.own).take<double>(w_.cols);
    std::fill_n(sum, w_.cols, 0.0);
    for (std::size_t r = 0; r < w_.rows; ++r)
      for_each_kept(w_, r, [&](std::size_t c, std::size_t k) {
        sum[c] += static_cast<double>(weights_.values[k]) * static_cast<double>(arguments.g(t, r));
      });
    for (std::size_t c = 0; c < w_.cols; ++c) {
      if (arguments.accumulate) sum[c] += static_cast<double>(dx(t, c));
      dx(t, c) = static_cast<float>(sum[c]);
    }
  }

 private:
  const PackedLayout& w_;
  const FloatWeights<float>& weights_;
  std::size_t tokens_;
};

/// A row block a task.
class SampleBlocks {
 public:
  SampleBlocks(const Operand<FloatWeights<float>>& operand, Shape shape) noexcept
      : w_(operand.layout), tokens_(shape.tokens) {}

  Needs needs() const noexcept { return {.phases = 1}; }
  std::size_t tasks(std::size_t) const noexcept { return w_.row_blocks; }
  Rounding rounding() const noexcept { return {.double_sums = true}; }
  void run(std::size_t, std::size_t b, const Sample& arguments, Workspace) const noexcept {
    for (std::size_t r = b * tile_rows; r < std::min(w_.rows, (b + 1) * tile_rows); ++r)
      for_each_kept(w_, r, [&](std::size_t c, std::size_t k) {
        double sum = 0;
        for (std::size_t t = 0; t < tokens_; ++t)
          sum += static_cast<double>(arguments.g(t, r)) * static_cast<double>(arguments.x(t, c));
        sum *= static_cast<double>(arguments.scale);
        if (!arguments.base.empty()) sum += static_cast<double>(arguments.base[k]);
        arguments.values[k] = static_cast<float>(sum);
      });
  }

 private:
  const PackedLayout& w_;
  std::size_t tokens_;
};

}  // namespace losa::inline v0::detail::reference

namespace losa::inline v0::detail {

template <BitmaskWeights WeightsType>
struct Kernel<reference::Target, Multiply, WeightsType> {
  using Schedule = reference::MultiplyBlocks<WeightsType>;
};
template <>
struct Kernel<reference::Target, MultiplyTransposed, FloatWeights<float>> {
  using Schedule = reference::MultiplyTokensTransposed;
};
template <>
struct Kernel<reference::Target, Sample, FloatWeights<float>> {
  using Schedule = reference::SampleBlocks;
};

}  // namespace losa::inline v0::detail
