#pragma once
// Packs the kept weights of a dense matrix. Pruned weights are never read into the result, so they may hold anything.
// Cost O(out·in/64 + kept).
//
//   auto packed = losa::pack(losa::view(weight, out, in), mask);
//   auto small  = losa::pack_as<losa::bf16>(losa::view(weight, out, in), mask);

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <losa/core/executor.hpp>
#include <losa/core/mask.hpp>
#include <losa/core/types.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/packed_matrix.hpp>

namespace losa::inline v0 {

namespace detail {

/// values[k] ← weight at the k-th kept position, narrowed to Element.
template <Storage Element, Storage Source>
void gather_kept(MatrixView<const Source> weight, PackedMatrix<Element>& packed, ExecutorRef executor) {
  const PackedStructure& s = packed.structure();
  executor.parallel_for(s.row_blocks, [&](std::size_t b) {
    Element* out = packed.values().data() + s.offsets[b * s.tiles];
    for (std::size_t t = 0; t < s.tiles; ++t)
      for (std::size_t i = 0; i < tile_rows; ++i) {
        std::uint64_t word = s.words[(b * s.tiles + t) * tile_rows + i];
        if (word == 0) continue;
        const Source* from = weight.data + (b * tile_rows + i) * weight.stride + t * tile_cols;
        for (; word != 0; word &= word - 1) {
          const Source value = from[std::countr_zero(word)];
          if constexpr (std::is_same_v<Element, Source>) {
            *out++ = value;
          } else {
            *out++ = narrow<Element>(static_cast<float>(widen(value)));
          }
        }
      }
  });
}

}  // namespace detail

/// The kept weights of `weight` (out, in) stored as Element, rounded to nearest even where that is narrower.
/// Throws ShapeError unless the mask has the shape of the weight.
template <Storage Element, class Source>
PackedMatrix<Element> pack_as(MatrixView<Source> weight, const Mask& mask, ExecutorRef executor = {}) {
  detail::expect_shape("pack", "weight", weight, mask.rows(), mask.cols());
  PackedMatrix<Element> packed(mask);
  detail::gather_kept(MatrixView<const std::remove_const_t<Source>>(weight), packed, executor);
  return packed;
}

/// The kept weights of `weight` (out, in) in its own type. Throws ShapeError unless the mask has its shape.
template <class Source>
auto pack(MatrixView<Source> weight, const Mask& mask, ExecutorRef executor = {}) {
  return pack_as<std::remove_const_t<Source>>(weight, mask, executor);
}

}  // namespace losa::inline v0
