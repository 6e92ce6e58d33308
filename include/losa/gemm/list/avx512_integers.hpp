#pragma once
// The AVX-512 kernel for lists of int8 weights and one to four tokens: 64 kept weights of a row find their activations
// of 8 bits (activations.hpp) among the 256 of a range, which are in four registers, and are multiplied by one
// vpdpbusd. Sums over a range are exact. Pruned positions cost nothing, so that this is faster in the cache than
// spreading them (integers.hpp); it reads 45 % more.

#include <losa/gemm/target/avx512_vector.hpp>
#if defined(LOSA_AVX512)

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include <losa/core/view.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/arena.hpp>
#include <losa/gemm/list_layout.hpp>
#include <losa/gemm/operation.hpp>
#include <losa/gemm/packed_structure.hpp>
#include <losa/gemm/target/avx512_activations.hpp>
#include <losa/gemm/target/avx512_panels.hpp>

LOSA_AVX512_BEGIN

namespace losa::inline v0::detail::inline LOSA_ARCH::avx512::list_integers {

/// A scale for each range.
using Activations = ByteActivations<ListLayout::range_cols, ListLayout::range_cols>;

/// The bytes of x at the columns; `upper` are those from 128 on.
LOSA_AVX512 inline __m512i look_up(const __m512i (&x)[4], __m512i col_indices, __mmask64 upper) noexcept {
  return _mm512_mask_mov_epi8(_mm512_permutex2var_epi8(x[0], col_indices, x[1]), upper,
                              _mm512_permutex2var_epi8(x[2], col_indices, x[3]));
}

/// totals[t] += scales[t] · Σ (a row's n weights in the range) · x[t]
template <std::size_t TokenCount>
LOSA_AVX512 inline void add_row(__m512 (&totals)[TokenCount], const std::uint8_t* col_indices,
                                const std::int8_t* values, std::size_t n, const __m512i (&x)[TokenCount][4],
                                const __m512 (&scales)[TokenCount]) noexcept {
  __m512i sums[TokenCount];
  __m512i offset = _mm512_setzero_si512();
#pragma GCC unroll 8
  for (std::size_t t = 0; t < TokenCount; ++t) sums[t] = _mm512_setzero_si512();
  for (std::size_t j = 0; j < n; j += 64) {
    // No bzhi: clang 14 cannot compile it here at -O1 with -fsanitize=address,undefined.
    const __mmask64 rest = ~std::uint64_t{0} >> (64 - std::min<std::size_t>(64, n - j));
    const __m512i weights = _mm512_maskz_loadu_epi8(rest, values + j);
    const __m512i at = _mm512_loadu_si512(col_indices + j);
    const __mmask64 upper = _mm512_movepi8_mask(at);
    offset = _mm512_dpbusd_epi32(offset, _mm512_set1_epi8(-128), weights);
#pragma GCC unroll 8
    for (std::size_t t = 0; t < TokenCount; ++t)
      sums[t] = _mm512_dpbusd_epi32(sums[t], look_up(x[t], at, upper), weights);
  }
#pragma GCC unroll 8
  for (std::size_t t = 0; t < TokenCount; ++t)
    totals[t] = _mm512_fmadd_ps(scales[t], _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[t], offset)), totals[t]);
}

template <std::size_t TokenCount>
LOSA_AVX512 inline void multiply(const ListLayout& w, const ListWeights<std::int8_t>& weights, std::size_t first,
                                 std::size_t last, const Activations& activations, MatrixView<float> y,
                                 const float* bias, bool accumulate) noexcept {
  alignas(64) float sums[tile_rows * TokenCount * 16];
  for (std::size_t b = first; b < last; ++b) {
    std::fill_n(sums, tile_rows * TokenCount * 16, 0.0f);
    for (std::size_t range = 0; range < w.ranges; ++range) {
      const std::size_t tile = b * w.ranges + range;
      const std::uint8_t* col_indices = w.col_indices + w.offsets[tile];
      const std::int8_t* values = weights.values + w.offsets[tile];
      const std::uint8_t* const from = activations.integers(range * ListLayout::range_cols);
      __m512i x[TokenCount][4];
      __m512 scales[TokenCount];
#pragma GCC unroll 8
      for (std::size_t t = 0; t < TokenCount; ++t) {
        scales[t] = _mm512_set1_ps(activations.scales(range * ListLayout::range_cols)[t]);
#pragma GCC unroll 4
        for (std::size_t j = 0; j < 4; ++j) x[t][j] = _mm512_load_si512(from + (t * 4 + j) * 64);
      }
      for (std::size_t i = 0; i < tile_rows; ++i) {
        const std::size_t n = 4 * list_span<ListPart::whole>(w.counts + (tile * tile_rows + i) * 2).count;
        _mm_prefetch(reinterpret_cast<const char*>(values) + 4096, _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(values) + 4160, _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(col_indices) + 4096, _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(col_indices) + 4160, _MM_HINT_T0);
        float* const sum = sums + i * TokenCount * 16;
        __m512 total[TokenCount];
#pragma GCC unroll 8
        for (std::size_t t = 0; t < TokenCount; ++t) total[t] = _mm512_load_ps(sum + t * 16);
        add_row<TokenCount>(total, col_indices, values, n, x, scales);
#pragma GCC unroll 8
        for (std::size_t t = 0; t < TokenCount; ++t) _mm512_store_ps(sum + t * 16, total[t]);
        col_indices += n;
        values += n;
      }
    }
    store_rows<TokenCount>(sums, weights.scales + b * tile_rows, b * tile_rows, y, bias, accumulate);
  }
}

class FewTokens {
 public:
  static constexpr std::size_t most = 4;

  template <class WeightsType>
  static Rounding rounding(std::size_t, std::size_t) noexcept {
    return {.step = byte_step, .scale_cols = ListLayout::range_cols};
  }

  static std::size_t need(std::size_t tokens, std::size_t cols) noexcept {
    return Activations::need(std::bit_ceil(tokens), cols);
  }
  FewTokens(Arena& arena, MatrixView<const float> x) noexcept
      : x_(arena, std::bit_ceil(x.rows), x.cols), packed_(x_.pack(x)) {}

  /// y[t, r] ← [y +] ⟨W[r], x[t]⟩ [+ bias[r]] for the rows of the row blocks from `first` to `last`. False if the
  /// tokens have to stay floats, which this cannot multiply.
  bool multiply(const ListLayout& w, const ListWeights<std::int8_t>& weights, std::size_t first, std::size_t last,
                MatrixView<float> y, const float* bias, bool accumulate) const noexcept {
    if (!packed_) return false;
    switch (x_.tokens()) {
      case 1:
        list_integers::multiply<1>(w, weights, first, last, x_, y, bias, accumulate);
        break;
      case 2:
        list_integers::multiply<2>(w, weights, first, last, x_, y, bias, accumulate);
        break;
      default:
        list_integers::multiply<4>(w, weights, first, last, x_, y, bias, accumulate);
    }
    return true;
  }

 private:
  Activations x_;
  bool packed_;
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx512::list_integers
LOSA_AVX512_END
#endif
