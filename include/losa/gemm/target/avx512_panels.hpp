#pragma once
// The sums of a row over a panel's vectors, which the AVX-512 kernels share. Transposition is AVX2's.

#include <losa/gemm/target/avx512_vector.hpp>
#if defined(LOSA_AVX512)

#include <algorithm>
#include <cstddef>

#include <losa/core/view.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/packed_structure.hpp>

LOSA_AVX512_BEGIN

namespace losa::inline v0::detail::inline LOSA_ARCH::avx512 {

/// The sums of a row. Narrow panels take several weights at once in accumulators of their own: an addition takes 4
/// cycles, and one or two start in every one.
template <std::size_t Vectors>
struct PanelSums {
  static constexpr std::size_t registers = std::max<std::size_t>(1, Vectors / 2);
  static constexpr std::size_t chains = registers >= 4 ? 2 : 4;
  __m512 acc[chains][registers];

  LOSA_AVX512 void load(const float* from) noexcept {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < registers; ++v) acc[0][v] = _mm512_load_ps(from + v * 16);
#pragma GCC unroll 4
    for (std::size_t k = 1; k < chains; ++k)
#pragma GCC unroll 8
      for (std::size_t v = 0; v < registers; ++v) acc[k][v] = _mm512_setzero_ps();
  }
  /// + weights[Lane] · column.
  template <std::size_t Lane>
  LOSA_AVX512 void multiply_add(__m512 weights, const float* column) noexcept {
    const __m512 weight =
        _mm512_permute_ps(weights, Lane * 0x55);  // a load of its own for each is 3–6 % slower (Zen 4)
#pragma GCC unroll 8
    for (std::size_t v = 0; v < registers; ++v)
      acc[Lane % chains][v] = _mm512_fmadd_ps(weight, _mm512_load_ps(column + v * 16), acc[Lane % chains][v]);
  }
  LOSA_AVX512 void store(float* to) noexcept {
#pragma GCC unroll 4
    for (std::size_t k = 1; k < chains; ++k)
#pragma GCC unroll 8
      for (std::size_t v = 0; v < registers; ++v) acc[0][v] = _mm512_add_ps(acc[0][v], acc[k][v]);
#pragma GCC unroll 8
    for (std::size_t v = 0; v < registers; ++v) _mm512_store_ps(to + v * 16, acc[0][v]);
  }
};

/// y[t, r] ← [y +] [scales[i] ·] sums (row, TokenCount, 16) [+ bias[r]] for the rows of a block.
template <std::size_t TokenCount>
LOSA_AVX512 inline void store_rows(const float* sums, const float* scales, std::size_t first_row, MatrixView<float> y,
                                   const float* bias, bool accumulate) noexcept {
  const std::size_t rows = std::min(tile_rows, y.cols - first_row);
  for (std::size_t t = 0; t < std::min(TokenCount, y.rows); ++t)
    for (std::size_t i = 0; i < rows; i += 4) {
      const float* from = sums + (i * TokenCount + t) * 16;
      __m128 total = sum4(_mm512_load_ps(from), _mm512_load_ps(from + TokenCount * 16),
                          _mm512_load_ps(from + 2 * TokenCount * 16), _mm512_load_ps(from + 3 * TokenCount * 16));
      const auto inside = static_cast<__mmask8>((1u << std::min<std::size_t>(4, rows - i)) - 1);
      float* const out = y.data + t * y.stride + first_row + i;
      if (scales != nullptr) total = _mm_mul_ps(total, _mm_loadu_ps(scales + i));
      if (bias != nullptr) total = _mm_add_ps(total, _mm_maskz_loadu_ps(inside, bias + first_row + i));
      if (accumulate) total = _mm_add_ps(total, _mm_maskz_loadu_ps(inside, out));
      _mm_mask_storeu_ps(out, inside, total);
    }
}

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx512
LOSA_AVX512_END
#endif
