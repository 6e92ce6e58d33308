#pragma once
// The AVX-512 kernel for int8 and int4 weights and one to sixteen tokens: a row of a tile is spread to its 64 columns
// by one vpexpandb, made 16-bit, and multiplied by vpdpwssd with activations of 16 bits, whose sums are exact.
//
//   x[t] = scale[t] · q,  q = round(x[t] / scale[t]),  scale[t] = max |x[t]| / 32767
//
// An activation is off by at most max |x[t]| / 65534. Tokens that are not finite, and those whose scale would
// underflow, are multiplied in float (expand.hpp). int4 sums are scaled tile by tile; int8 sums stay integers for as
// many columns as cannot overflow.

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
/// Column tiles whose products fit in 32 bits: 128 · 4 products a lane · 127 · 32767 < 2³¹.
inline constexpr std::size_t exact_tiles = 128;

/// max |x|; not finite if an x is not.
LOSA_AVX512 inline float magnitude(const float* x, std::size_t n) noexcept {
  __m512i most = _mm512_setzero_si512();  // without its sign, a float that is not finite is the largest integer
  const __m512i without_sign = _mm512_set1_epi32(0x7fffffff);
  for (std::size_t c = 0; c < n; c += 16) {
    const __m512 v = _mm512_maskz_loadu_ps(first_lanes16(n - c), x + c);
    most = _mm512_max_epi32(most, _mm512_and_si512(_mm512_castps_si512(v), without_sign));
  }
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(_mm512_reduce_max_epi32(most))));
}

/// 32 integers of 16 bits ← round(factor · x), 0 past the n-th.
LOSA_AVX512 inline __m512i quantize32(const float* x, std::size_t n, __m512 factor) noexcept {
  const __m512 low = _mm512_maskz_loadu_ps(first_lanes16(n), x);
  const __m512 high = _mm512_maskz_loadu_ps(first_lanes16(n > 16 ? n - 16 : 0), x + 16);
  const __m256i a = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(low, factor)));
  const __m256i b = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(high, factor)));
  return _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
}

/// x as integers: (tile, token, 64), even columns of a tile first; scales (n). False if a token has to stay in float.
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
  for (std::size_t t = 0; t < n; ++t) {
    scales[t] = 0;
    if (t >= x.rows) continue;
    const float* const row = x.data + t * x.stride;
    const float most = magnitude(row, x.cols);
    if (most == 0) continue;
    if (!(most > 1e-30f && most < 1e30f)) return false;
    scales[t] = most / largest;
    const __m512 factor = _mm512_set1_ps(largest / most);
    for (std::size_t c = 0; c < x.cols; c += tile_cols) {
      const __m512i first = quantize32(row + c, x.cols - c, factor);
      const __m512i second =
          x.cols - c > 32 ? quantize32(row + c + 32, x.cols - c - 32, factor) : _mm512_setzero_si512();
      std::int16_t* const to = dst + c * n + t * tile_cols;
      _mm512_store_si512(to, _mm512_permutex2var_epi16(first, evens, second));
      _mm512_store_si512(to + 32, _mm512_permutex2var_epi16(first, odds, second));
    }
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
#pragma GCC unroll 16
  for (std::size_t t = 0; t < N; ++t) {
    sums[t] = _mm512_dpwssd_epi32(sums[t], even, _mm512_load_si512(x + t * tile_cols));
    sums[t] = _mm512_dpwssd_epi32(sums[t], odd, _mm512_load_si512(x + t * tile_cols + 32));
  }
  cursor.advance(static_cast<std::size_t>(_mm_popcnt_u64(*bits)));
}

/// A row's products with some tiles side by side: one load and one store of its sums for all of them.
inline constexpr std::size_t span = 4;

template <std::size_t N, class W>
LOSA_AVX512 inline void multiply(const PackedLayout& w, const W& weights, std::size_t first, std::size_t last,
                                 const std::int16_t* x, const float* x_scales, MatrixView<float> y, const float* bias,
                                 bool accumulate) noexcept {
  constexpr bool grouped = std::is_same_v<W, Int4Weights>;
  constexpr std::size_t numbers = tile_rows * N * 16;
  alignas(64) float sums[numbers];
  alignas(64) std::int32_t exact[grouped ? 1 : numbers];
  alignas(64) float group_scales[span][tile_rows];
  for (std::size_t b = first; b < last; ++b) {
    std::fill_n(sums, numbers, 0.0f);
    if constexpr (!grouped) std::fill_n(exact, numbers, 0);
    for (std::size_t t = 0; t < w.tiles; t += span) {
      const std::size_t tiles = std::min(span, w.tiles - t);
      const std::uint64_t* const words = w.words + (b * w.tiles + t) * tile_rows;
      const std::int16_t* const activations = x + t * tile_cols * N;
      typename W::Cursor cursors[span];
      for (std::size_t j = 0; j < tiles; ++j) {
        cursors[j] = weights.begin(w, b, t + j);
        if constexpr (grouped) {
          _mm512_store_ps(group_scales[j], load16(cursors[j].scales));
          _mm512_store_ps(group_scales[j] + 16, load16(cursors[j].scales + 16));
        }
      }
      for (std::size_t i = 0; i < tile_rows; ++i) {
        if constexpr (grouped) {
          float* const sum = sums + i * N * 16;
          __m512 total[N];
#pragma GCC unroll 16
          for (std::size_t k = 0; k < N; ++k) total[k] = _mm512_load_ps(sum + k * 16);
          for (std::size_t j = 0; j < tiles; ++j) {
            __m512i acc[N];
#pragma GCC unroll 16
            for (std::size_t k = 0; k < N; ++k) acc[k] = _mm512_setzero_si512();
            multiply_row<N>(acc, cursors[j], words + j * tile_rows + i, activations + j * tile_cols * N);
            const __m512 scale = _mm512_set1_ps(group_scales[j][i]);
#pragma GCC unroll 16
            for (std::size_t k = 0; k < N; ++k) total[k] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(acc[k]), total[k]);
          }
#pragma GCC unroll 16
          for (std::size_t k = 0; k < N; ++k) _mm512_store_ps(sum + k * 16, total[k]);
        } else {
          std::int32_t* const sum = exact + i * N * 16;
          __m512i acc[N];
#pragma GCC unroll 16
          for (std::size_t k = 0; k < N; ++k) acc[k] = _mm512_load_si512(sum + k * 16);
          for (std::size_t j = 0; j < tiles; ++j)
            multiply_row<N>(acc, cursors[j], words + j * tile_rows + i, activations + j * tile_cols * N);
#pragma GCC unroll 16
          for (std::size_t k = 0; k < N; ++k) _mm512_store_si512(sum + k * 16, acc[k]);
        }
      }
      if constexpr (!grouped)
        if ((t + span) % exact_tiles == 0 || t + span >= w.tiles)
          for (std::size_t k = 0; k < numbers; k += 16) {
            const __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(exact + k));
            _mm512_store_ps(sums + k, _mm512_add_ps(_mm512_load_ps(sums + k), sum));
            _mm512_store_si512(exact + k, _mm512_setzero_si512());
          }
    }
    const float* scales = nullptr;
    if constexpr (!grouped) scales = weights.scales + b * tile_rows;
    expand::store<N>(sums, scales, x_scales, b * tile_rows, y, bias, accumulate);
  }
}

/// Up to 16 tokens, as integers where they can be.
class FewTokens {
 public:
  static constexpr std::size_t most = 16;

  static std::size_t need(std::size_t tokens, std::size_t tiles) noexcept {
    return Scratch::need<float>(most) + Scratch::need<std::int16_t>(tiles * tile_cols * std::bit_ceil(tokens)) +
           expand::FewTokens::need(tokens, tiles);
  }
  FewTokens(Scratch& scratch, MatrixView<const float> x, std::size_t tiles) noexcept
      : count_(std::bit_ceil(x.rows)),
        scales_(scratch.take<float>(most)),
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
      case 8:
        return integers::multiply<8>(w, weights, first, last, integers_, scales_, y, bias, accumulate);
      default:
        return integers::multiply<16>(w, weights, first, last, integers_, scales_, y, bias, accumulate);
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
