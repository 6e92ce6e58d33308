#pragma once
// The portable kernels of the list format.

#include <losa/gemm/target/portable.hpp>
#if defined(LOSA_PORTABLE)

#include <cstddef>
#include <cstdint>

#include <losa/gemm/arch.hpp>
#include <losa/gemm/kernel.hpp>
#include <losa/gemm/list_layout.hpp>
#include <losa/gemm/packed_structure.hpp>
#include <losa/gemm/panel/kernel_set.hpp>
#include <losa/gemm/panel/multiply_list.hpp>
#include <losa/gemm/target/portable_panels.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH::portable {

struct ListKernels : PanelMoves {
  template <class Element>
  using FewTokens = NoFewTokens;

  /// sums[row] += value · panel[column] for the rows of a block and a range of columns in the list format.
  template <std::size_t Vectors, ListPart part, class Element>
  static void gather_list(const std::uint8_t* counts, const std::uint8_t* col_indices, const Element* values,
                          const float* panel, float* sums) noexcept {
    for (std::size_t i = 0; i < tile_rows; ++i, sums += Vectors * lanes) {
      Row<Vectors> acc = load<Vectors>(sums);
      const ListSpan span = list_span<part>(counts + 2 * i);
      col_indices += 4 * span.before;
      values += 4 * span.before;
      for (std::size_t n = 4 * span.count; n != 0; --n) {
        const Batch weight(to_float(*values++));
        const float* column = panel + std::size_t{*col_indices++} * Vectors * lanes;
#pragma GCC unroll 8
        for (std::size_t v = 0; v < Vectors; ++v)
          acc[v] = xsimd::fma(weight, Batch::load_unaligned(column + v * lanes), acc[v]);
      }
      col_indices += 4 * span.after;
      values += 4 * span.after;
#pragma GCC unroll 8
      for (std::size_t v = 0; v < Vectors; ++v) acc[v].store_unaligned(sums + v * lanes);
    }
  }

 private:
  static float to_float(std::int8_t value) noexcept { return static_cast<float>(value); }
  template <class Element>
  static float to_float(Element value) noexcept {
    return static_cast<float>(widen(value));
  }
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::portable

namespace losa::inline v0::detail {

template <class Element>
struct Kernel<portable::Target, Multiply, ListWeights<Element>> {
  using Schedule = PanelMultiplyList<portable::ListKernels, Element>;
};

}  // namespace losa::inline v0::detail
#endif
