#pragma once
// The AVX2 kernels of the list format.

#include <losa/gemm/target/avx2.hpp>
#if defined(LOSA_AVX2)

#include <cstddef>
#include <cstdint>

#include <losa/gemm/arch.hpp>
#include <losa/gemm/kernel.hpp>
#include <losa/gemm/list_layout.hpp>
#include <losa/gemm/packed_structure.hpp>
#include <losa/gemm/panel/kernel_set.hpp>
#include <losa/gemm/panel/multiply_list.hpp>
#include <losa/gemm/target/avx2_panels.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH::avx2 {

struct ListKernels : PanelMoves {
  template <class Element>
  using FewTokens = NoFewTokens;

  /// sums[row] += value · panel[column] for the rows of a block and a range of columns in the list format, or half of
  /// it.
  template <std::size_t Vectors, ListPart part, class Element>
  LOSA_AVX2 static void gather_list(const std::uint8_t* counts, const std::uint8_t* col_indices, const Element* values,
                                    const float* panel, float* sums) noexcept {
    constexpr std::size_t chains = Vectors >= 8 ? 1 : Vectors == 4 ? 2 : 4;
    constexpr std::size_t step = Vectors * lanes;
    for (std::size_t i = 0; i < tile_rows; ++i, sums += step) {
      __m256 acc[chains][Vectors];
#pragma GCC unroll 8
      for (std::size_t v = 0; v < Vectors; ++v) acc[0][v] = _mm256_load_ps(sums + v * lanes);
#pragma GCC unroll 4
      for (std::size_t k = 1; k < chains; ++k)
#pragma GCC unroll 8
        for (std::size_t v = 0; v < Vectors; ++v) acc[k][v] = _mm256_setzero_ps();
      const ListSpan span = list_span<part>(counts + 2 * i);
      col_indices += 4 * span.before;
      values += 4 * span.before;
      for (std::size_t n = span.count; n != 0; --n, col_indices += 4, values += 4) {
        _mm_prefetch(reinterpret_cast<const char*>(values) + 2048, _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(col_indices) + 512, _MM_HINT_T0);
        const __m256 weights = twice(load4(values));
        multiply_add<Vectors, 0>(acc, splat<0>(weights), panel + col_indices[0] * step);
        multiply_add<Vectors, 1>(acc, splat<1>(weights), panel + col_indices[1] * step);
        multiply_add<Vectors, 2>(acc, splat<2>(weights), panel + col_indices[2] * step);
        multiply_add<Vectors, 3>(acc, splat<3>(weights), panel + col_indices[3] * step);
      }
      col_indices += 4 * span.after;
      values += 4 * span.after;
#pragma GCC unroll 4
      for (std::size_t k = 1; k < chains; ++k)
#pragma GCC unroll 8
        for (std::size_t v = 0; v < Vectors; ++v) acc[0][v] = _mm256_add_ps(acc[0][v], acc[k][v]);
#pragma GCC unroll 8
      for (std::size_t v = 0; v < Vectors; ++v) _mm256_store_ps(sums + v * lanes, acc[0][v]);
    }
  }
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx2

namespace losa::inline v0::detail {

template <class Element>
struct Kernel<avx2::Target, Multiply, ListWeights<Element>> {
  using Schedule = PanelMultiplyList<avx2::ListKernels, Element>;
};

}  // namespace losa::inline v0::detail
#endif
