#pragma once
// The reference kernel of the list format, one phase.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <losa/core/types.hpp>
#include <losa/gemm/arena.hpp>
#include <losa/gemm/formats.hpp>
#include <losa/gemm/kernel.hpp>
#include <losa/gemm/list_layout.hpp>
#include <losa/gemm/operation.hpp>
#include <losa/gemm/target/reference.hpp>

namespace losa::inline v0::detail::reference {

/// A row block a task.
template <class Element>
class MultiplyListBlocks {
 public:
  MultiplyListBlocks(const Operand<ListWeights<Element>>& operand, Shape shape) noexcept
      : w_(operand.layout), weights_(operand.weights), tokens_(shape.tokens) {}

  Needs needs() const noexcept { return {.phases = 1, .own = Arena::need<double>(tile_rows * tokens_)}; }
  std::size_t tasks(std::size_t) const noexcept { return tokens_ == 0 ? 0 : (w_.rows + tile_rows - 1) / tile_rows; }
  Rounding rounding() const noexcept { return {.double_sums = true}; }
  void run(std::size_t, std::size_t b, const Multiply& arguments, Workspace workspace) const noexcept {
    auto* const sums = Arena(workspace.own).take<double>(tile_rows * tokens_);  // (row, token)
    std::fill_n(sums, tile_rows * tokens_, 0.0);
    for (std::size_t range = 0; range < w_.ranges; ++range) {
      const std::size_t tile = b * w_.ranges + range;
      std::size_t k = w_.offsets[tile];
      for (std::size_t i = 0; i < tile_rows; ++i)
        for (std::size_t n = 4 * list_span<ListPart::whole>(w_.counts + (tile * tile_rows + i) * 2).count; n != 0;
             --n, ++k)
          add(arguments.x, range * ListLayout::range_cols + w_.col_indices[k], value(b * tile_rows + i, k),
              sums + i * tokens_);
    }
    store(sums, b * tile_rows, std::min(tile_rows, w_.rows - b * tile_rows), arguments);
  }

 private:
  double value(std::size_t r, std::size_t k) const noexcept {
    if constexpr (std::is_same_v<Element, std::int8_t>)
      return static_cast<double>(static_cast<float>(weights_.values[k]) * weights_.scales[r]);
    else
      return static_cast<double>(widen(weights_.values[k]));
  }

  const ListLayout& w_;
  const ListWeights<Element>& weights_;
  std::size_t tokens_;
};

}  // namespace losa::inline v0::detail::reference

namespace losa::inline v0::detail {

template <class Element>
struct Kernel<reference::Target, Multiply, ListWeights<Element>> {
  using Schedule = reference::MultiplyListBlocks<Element>;
};

}  // namespace losa::inline v0::detail
