#pragma once
// The AVX-512 kernels of the list format; for few tokens and int8 those of avx512_integers.hpp.

#include <losa/gemm/target/avx512.hpp>
#if defined(LOSA_AVX512)

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <losa/gemm/arch.hpp>
#include <losa/gemm/kernel.hpp>
#include <losa/gemm/list/avx2.hpp>
#include <losa/gemm/list/avx512_integers.hpp>
#include <losa/gemm/list_layout.hpp>
#include <losa/gemm/packed_structure.hpp>
#include <losa/gemm/panel/kernel_set.hpp>
#include <losa/gemm/panel/multiply_list.hpp>
#include <losa/gemm/target/avx512_panels.hpp>

LOSA_AVX512_BEGIN

namespace losa::inline v0::detail::inline LOSA_ARCH::avx512 {

struct ListKernels : private avx2::ListKernels {
  template <class Element>
  using FewTokens = std::conditional_t<std::is_same_v<Element, std::int8_t>, list_integers::FewTokens, NoFewTokens>;
  using avx2::ListKernels::lanes;
  using avx2::ListKernels::pack_panel;
  using avx2::ListKernels::unpack_panel;

  /// sums[row] += value · panel[column] for the rows of a block and a range of columns in the list format, or half of
  /// it.
  template <std::size_t Vectors, ListPart part, class Element>
  LOSA_AVX512 static void gather_list(const std::uint8_t* counts, const std::uint8_t* col_indices,
                                      const Element* values, const float* panel, float* sums) noexcept {
    if constexpr (Vectors == 1)
      return avx2::ListKernels::gather_list<1, part>(counts, col_indices, values, panel, sums);
    constexpr std::size_t step = Vectors * lanes;
    for (std::size_t i = 0; i < tile_rows; ++i, sums += step) {
      PanelSums<Vectors> acc;
      acc.load(sums);
      const ListSpan span = list_span<part>(counts + 2 * i);
      col_indices += 4 * span.before;
      values += 4 * span.before;
      for (std::size_t n = span.count; n != 0; --n, col_indices += 4, values += 4) {
        _mm_prefetch(reinterpret_cast<const char*>(values) + 2048, _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(col_indices) + 512, _MM_HINT_T0);
        const __m512 weights = _mm512_broadcast_f32x4(avx2::load4(values));
        acc.template multiply_add<0>(weights, panel + col_indices[0] * step);
        acc.template multiply_add<1>(weights, panel + col_indices[1] * step);
        acc.template multiply_add<2>(weights, panel + col_indices[2] * step);
        acc.template multiply_add<3>(weights, panel + col_indices[3] * step);
      }
      col_indices += 4 * span.after;
      values += 4 * span.after;
      acc.store(sums);
    }
  }
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx512
LOSA_AVX512_END

namespace losa::inline v0::detail {

template <class Element>
struct Kernel<avx512::Target, Multiply, ListWeights<Element>> {
  using Schedule = PanelMultiplyList<avx512::ListKernels, Element>;
};

}  // namespace losa::inline v0::detail
#endif
