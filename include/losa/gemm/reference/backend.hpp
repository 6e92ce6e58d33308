#pragma once
// The products written down as their formulas, every sum in double and in order of rising index, rounded to float once
// at the end. The oracle for every other backend, and what runs where nothing else does. One phase each.
// Cost 2·kept·tokens flops and one walk over the mask per token.

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <losa/core/types.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/arena.hpp>
#include <losa/gemm/formats.hpp>
#include <losa/gemm/kernel.hpp>
#include <losa/gemm/operation.hpp>

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

/// y[t, first + i] ← [y +] sums (row, token) [+ bias] for the rows of a block.
inline void store(const double* sums, std::size_t first, std::size_t rows, const Multiply& to) noexcept {
  const std::size_t tokens = to.x.rows;
  for (std::size_t i = 0; i < rows; ++i)
    for (std::size_t token = 0; token < tokens; ++token) {
      double sum = sums[i * tokens + token];
      if (!to.bias.empty()) sum += static_cast<double>(to.bias[first + i]);
      if (to.accumulate) sum += static_cast<double>(to.y(token, first + i));
      to.y(token, first + i) = static_cast<float>(sum);
    }
}

/// A row block a task.
template <class WeightsType>
class MultiplyBlocks {
 public:
  MultiplyBlocks(const Operand<WeightsType>& operand, Shape shape) noexcept
      : w_(operand.layout), weights_(operand.weights), tokens_(shape.tokens) {}

  Needs needs() const noexcept { return {.phases = 1, .own = Arena::need<double>(tile_rows * tokens_)}; }
  std::size_t tasks(std::size_t) const noexcept { return tokens_ == 0 ? 0 : (w_.rows + tile_rows - 1) / tile_rows; }
  Rounding rounding() const noexcept { return {.double_sums = true}; }
  void run(std::size_t, std::size_t b, const Multiply& arguments, Workspace workspace) const noexcept {
    auto* const sums = Arena(workspace.own).take<double>(tile_rows * tokens_);  // (row, token)
    std::fill_n(sums, tile_rows * tokens_, 0.0);
    add(b, arguments.x, sums);
    store(sums, b * tile_rows, std::min(tile_rows, w_.rows - b * tile_rows), arguments);
  }

 private:
  void add(std::size_t b, MatrixView<const float> x, double* sums) const noexcept requires BitmaskWeights<WeightsType> {
    for (std::size_t t = 0; t < w_.tiles; ++t) {
      auto cursor = weights_.begin(w_, b, t);
      for (std::size_t i = 0; i < tile_rows; ++i) {
        std::size_t j = 0;
        for (std::uint64_t word = w_.words[(b * w_.tiles + t) * tile_rows + i]; word != 0; word &= word - 1, ++j)
          add(x, t * tile_cols + static_cast<std::size_t>(std::countr_zero(word)), static_cast<double>(cursor.at(i, j)),
              sums + i * tokens_);
        cursor.advance(j);
      }
    }
  }
  void add(std::size_t b, MatrixView<const float> x, double* sums) const noexcept {
    for (std::size_t range = 0; range < w_.ranges; ++range) {
      const std::size_t tile = b * w_.ranges + range;
      std::size_t k = w_.offsets[tile];
      for (std::size_t i = 0; i < tile_rows; ++i)
        for (std::size_t n = 4 * list_span<ListPart::whole>(w_.counts + (tile * tile_rows + i) * 2).count; n != 0;
             --n, ++k)
          add(x, range * ListLayout::range_cols + w_.col_indices[k], value(b * tile_rows + i, k), sums + i * tokens_);
    }
  }
  static void add(MatrixView<const float> x, std::size_t c, double value, double* sums) noexcept {
    for (std::size_t token = 0; token < x.rows; ++token) sums[token] += value * static_cast<double>(x(token, c));
  }
  double value(std::size_t r, std::size_t k) const noexcept {
    if constexpr (std::is_same_v<WeightsType, ListWeights<std::int8_t>>)
      return static_cast<double>(static_cast<float>(weights_.values[k]) * weights_.scales[r]);
    else
      return static_cast<double>(widen(weights_.values[k]));
  }

  const decltype(Operand<WeightsType>::layout)& w_;
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

struct Target {
  using Parent = void;
  static constexpr const char* name = "reference";
  static bool supported() noexcept { return true; }
};

}  // namespace losa::inline v0::detail::reference

namespace losa::inline v0::detail {

template <class WeightsType>
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
