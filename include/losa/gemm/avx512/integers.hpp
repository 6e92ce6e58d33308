#pragma once
// The AVX-512 kernel for int8 and int4 weights and one to eight tokens: a row of a tile is spread to its 64 columns
// by one vpexpandb, made 16-bit, and multiplied by vpdpwssd with activations of 16 bits. Sums over a tile are exact.
//
//   x = scale · q,  q = round(x / scale),  scale = max |x| / 32767  over the 64 columns of a tile, token by token
//
// An activation is off by at most max |x| / 65534 of its tile. If one is not finite, or a tile's largest is outside
// 1e-30 … 1e30, the call's tokens stay in float (expand.hpp).

#include <losa/gemm/avx512/vector.hpp>
#if defined(LOSA_AVX512)

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <type_traits>

#include <losa/core/view.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/avx512/expand.hpp>
#include <losa/gemm/packed_structure.hpp>
#include <losa/gemm/scratch.hpp>
#include <losa/gemm/weights.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH::avx512::integers {

LOSA_AVX512_BEGIN

inline constexpr float largest = 32767;

/// 64 columns of a token, 0 from the n-th on.
LOSA_AVX512 inline void load_columns(const float* x, std::size_t n, __m512 (&to)[4]) noexcept {
#pragma GCC unroll 4
  for (std::size_t i = 0; i < 4; ++i)
    to[i] = _mm512_maskz_loadu_ps(first_lanes16(n > 16 * i ? n - 16 * i : 0), x + 16 * i);
}

/// max |x| as the bits of a float: without its sign, one that is not finite is the largest integer.
LOSA_AVX512 inline std::uint32_t magnitude(const __m512 (&x)[4]) noexcept {
  __m512i most = _mm512_setzero_si512();
#pragma GCC unroll 4
  for (std::size_t i = 0; i < 4; ++i)
    most = _mm512_max_epu32(most, _mm512_and_si512(_mm512_castps_si512(x[i]), _mm512_set1_epi32(0x7fffffff)));
  return _mm512_reduce_max_epu32(most);
}

/// 32 integers of 16 bits ← round(factor · x).
LOSA_AVX512 inline __m512i quantize32(__m512 low, __m512 high, __m512 factor) noexcept {
  const __m256i a = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(low, factor)));
  const __m256i b = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(high, factor)));
  return _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
}

/// x as integers: dst (tile, token, 64), even columns of a tile first; scales (tile, token). Zero past the last token
/// and column. False if the tokens have to stay in float.
LOSA_AVX512 inline bool pack(MatrixView<const float> x, std::size_t n, std::size_t tiles, std::int16_t* dst,
                             float* scales) noexcept {
  alignas(64) static constexpr auto even = [] {
    std::array<std::int16_t, 32> each{};
    for (std::size_t i = 0; i < 32; ++i) each[i] = static_cast<std::int16_t>(2 * i);
    return each;
  }();
  const __m512i evens = _mm512_load_si512(even.data());
  const __m512i odds = _mm512_add_epi16(evens, _mm512_set1_epi16(1));
  std::fill_n(dst, tiles * n * tile_cols, std::int16_t{0});
  std::fill_n(scales, tiles * n, 0.0f);
  for (std::size_t t = 0; t < std::min(n, x.rows); ++t)
    for (std::size_t tile = 0; tile < tiles; ++tile) {
      __m512 columns[4];
      load_columns(x.data + t * x.stride + tile * tile_cols, x.cols - tile * tile_cols, columns);
      const std::uint32_t most = magnitude(columns);  // compared as bits: -ffast-math takes no float for a NaN
      if (most == 0) continue;
      if (most < std::bit_cast<std::uint32_t>(1e-30f) || most > std::bit_cast<std::uint32_t>(1e30f)) return false;
      scales[tile * n + t] = std::bit_cast<float>(most) / largest;
      const __m512 factor = _mm512_set1_ps(largest / std::bit_cast<float>(most));
      const __m512i first = quantize32(columns[0], columns[1], factor);
      const __m512i second = quantize32(columns[2], columns[3], factor);
      std::int16_t* const to = dst + (tile * n + t) * tile_cols;
      _mm512_store_si512(to, _mm512_permutex2var_epi16(first, evens, second));
      _mm512_store_si512(to + 32, _mm512_permutex2var_epi16(first, odds, second));
    }
  return true;
}

LOSA_AVX512 inline __m512i row(const Int8Weights::Cursor& from) noexcept { return _mm512_loadu_si512(from.p); }
LOSA_AVX512 inline __m512i row(const Int4Weights::Cursor& from) noexcept { return nibbles64(from.p); }

/// sums[t] += (a row of a tile) · x[t], and the cursor to the next row; `bits` is its mask word.
template <std::size_t N, class C>
LOSA_AVX512 inline void multiply_row(__m512i (&sums)[N], C& cursor, const std::uint64_t* bits,
                                     const std::int16_t* x) noexcept {
  // 1 KiB ahead of the values and of the mask.
  _mm_prefetch(reinterpret_cast<const char*>(cursor.p) + 1024, _MM_HINT_T0);
  _mm_prefetch(reinterpret_cast<const char*>(bits) + 1024, _MM_HINT_T0);
  const __m512i bytes = expand_bytes(*bits, row(cursor));
  const __m512i even = _mm512_srai_epi16(_mm512_slli_epi16(bytes, 8), 8);
  const __m512i odd = _mm512_srai_epi16(bytes, 8);
#pragma GCC unroll 8
  for (std::size_t t = 0; t < N; ++t) {
    sums[t] = _mm512_dpwssd_epi32(sums[t], even, _mm512_load_si512(x + t * tile_cols));
    sums[t] = _mm512_dpwssd_epi32(sums[t], odd, _mm512_load_si512(x + t * tile_cols + 32));
  }
  cursor.advance(static_cast<std::size_t>(_mm_popcnt_u64(*bits)));
}

/// Tiles side by side, for which a row's sums are loaded and stored once.
inline constexpr std::size_t span = 4;

/// to[t · 32 + i] ← [scale of row i of the tile ·] scale of token t.
template <std::size_t N, class C>
LOSA_AVX512 inline void tile_scales(const C& weights, const float* x_scales, float* to) noexcept {
  for (std::size_t half = 0; half < tile_rows; half += 16) {
    __m512 scales = _mm512_set1_ps(1);
    if constexpr (std::is_same_v<C, Int4Weights::Cursor>) scales = load16(weights.scales + half);
    for (std::size_t t = 0; t < N; ++t)
      _mm512_store_ps(to + t * tile_rows + half, _mm512_mul_ps(scales, _mm512_set1_ps(x_scales[t])));
  }
}

template <std::size_t N, class W>
LOSA_AVX512 inline void multiply(const PackedLayout& w, const W& weights, std::size_t first, std::size_t last,
                                 const std::int16_t* x, const float* x_scales, MatrixView<float> y, const float* bias,
                                 bool accumulate) noexcept {
  alignas(64) float sums[tile_rows * N * 16];
  alignas(64) float scales[span][N * tile_rows];
  for (std::size_t b = first; b < last; ++b) {
    std::fill_n(sums, tile_rows * N * 16, 0.0f);
    for (std::size_t t = 0; t < w.tiles; t += span) {
      const std::size_t tiles = std::min(span, w.tiles - t);
      const std::uint64_t* const words = w.words + (b * w.tiles + t) * tile_rows;
      const std::int16_t* const activations = x + t * tile_cols * N;
      typename W::Cursor cursors[span];
      for (std::size_t j = 0; j < tiles; ++j) {
        cursors[j] = weights.begin(w, b, t + j);
        tile_scales<N>(cursors[j], x_scales + (t + j) * N, scales[j]);
      }
      for (std::size_t i = 0; i < tile_rows; ++i) {
        float* const sum = sums + i * N * 16;
        __m512 total[N];
#pragma GCC unroll 8
        for (std::size_t k = 0; k < N; ++k) total[k] = _mm512_load_ps(sum + k * 16);
        for (std::size_t j = 0; j < tiles; ++j) {
          __m512i acc[N];
#pragma GCC unroll 8
          for (std::size_t k = 0; k < N; ++k) acc[k] = _mm512_setzero_si512();
          multiply_row<N>(acc, cursors[j], words + j * tile_rows + i, activations + j * tile_cols * N);
#pragma GCC unroll 8
          for (std::size_t k = 0; k < N; ++k)
            total[k] =
                _mm512_fmadd_ps(_mm512_set1_ps(scales[j][k * tile_rows + i]), _mm512_cvtepi32_ps(acc[k]), total[k]);
        }
#pragma GCC unroll 8
        for (std::size_t k = 0; k < N; ++k) _mm512_store_ps(sum + k * 16, total[k]);
      }
    }
    const float* row_scales = nullptr;
    if constexpr (std::is_same_v<W, Int8Weights>) row_scales = weights.scales + b * tile_rows;
    expand::store<N>(sums, row_scales, b * tile_rows, y, bias, accumulate);
  }
}

/// Up to 8 tokens, as integers where they can be. 16 are slower than in panels: int8 5.8 against 4.6 ms, int4 7.0
/// against 5.1 (4096 × 4096 at 70 %, one thread of Zen 4).
class FewTokens {
 public:
  static constexpr std::size_t most = 8;

  static std::size_t need(std::size_t tokens, std::size_t tiles) noexcept {
    return Scratch::need<float>(tiles * std::bit_ceil(tokens)) +
           Scratch::need<std::int16_t>(tiles * tile_cols * std::bit_ceil(tokens)) +
           expand::FewTokens::need(tokens, tiles);
  }
  FewTokens(Scratch& scratch, MatrixView<const float> x, std::size_t tiles) noexcept
      : count_(std::bit_ceil(x.rows)),
        scales_(scratch.take<float>(tiles * count_)),
        integers_(scratch.take<std::int16_t>(tiles * tile_cols * count_)) {
    if (!pack(x, count_, tiles, integers_, scales_)) floats_.emplace(scratch, x, tiles);
  }
  /// y[t, r] ← [y +] ⟨W[r], x[t]⟩ [+ bias[r]] for the rows of the row blocks from `first` to `last`.
  template <class W>
  void multiply(const PackedLayout& w, const W& weights, std::size_t first, std::size_t last, MatrixView<float> y,
                const float* bias, bool accumulate) const noexcept {
    if (floats_) return floats_->multiply(w, weights, first, last, y, bias, accumulate);
    switch (count_) {
      case 1:
        return integers::multiply<1>(w, weights, first, last, integers_, scales_, y, bias, accumulate);
      case 2:
        return integers::multiply<2>(w, weights, first, last, integers_, scales_, y, bias, accumulate);
      case 4:
        return integers::multiply<4>(w, weights, first, last, integers_, scales_, y, bias, accumulate);
      default:
        return integers::multiply<8>(w, weights, first, last, integers_, scales_, y, bias, accumulate);
    }
  }

 private:
  std::size_t count_;
  float* scales_;
  std::int16_t* integers_;
  std::optional<expand::FewTokens> floats_;
};

LOSA_AVX512_END

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx512::integers
#endif
