#pragma once
// The AVX-512 kernel for int8 and int4 weights and one to eight tokens: a row of a tile is spread to its 64 columns
// by one vpexpandb and multiplied by one vpdpbusd with activations of 8 bits. Sums over a tile are exact.
//
//   x = scale · q,  q = round(x / scale),  scale = max |x| / 127  over two tiles, 128 columns, token by token
//
// An activation is off by at most max |x| / 254 of its 128 columns. If one is not finite, or a scale's largest is
// outside 1e-30 … 1e30, the call's tokens stay in float (expand.hpp).
//
// vpdpbusd multiplies unsigned bytes with signed ones, so activations are taken as q + 128, and the sums of a row begin
// at −128 · the sums of its weights.

#include <losa/gemm/avx512/vector.hpp>
#if defined(LOSA_AVX512)

#include <algorithm>
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

inline constexpr float largest = 127;

inline constexpr std::size_t tiles_per_scale = 2;
inline constexpr std::size_t scale_cols = tiles_per_scale * tile_cols;

/// 16 columns of a token, of which `n` are left; 0 past the last one.
LOSA_AVX512 inline __m512 load_columns(const float* x, std::size_t n) noexcept {
  return _mm512_maskz_loadu_ps(first_lanes16(n), x);
}

/// max |x| of n columns as the bits of a float: without its sign, one that is not finite is the largest integer.
LOSA_AVX512 inline std::uint32_t magnitude(const float* x, std::size_t n) noexcept {
  __m512i most = _mm512_setzero_si512();
  for (std::size_t c = 0; c < n; c += 16)
    most = _mm512_max_epu32(
        most, _mm512_and_si512(_mm512_castps_si512(load_columns(x + c, n - c)), _mm512_set1_epi32(0x7fffffff)));
  return _mm512_reduce_max_epu32(most);
}

/// False if columns of that magnitude have to stay in float. Compared as bits: -ffast-math takes no float for a NaN.
inline bool fits(std::uint32_t magnitude) noexcept {
  return magnitude == 0 ||
         (magnitude >= std::bit_cast<std::uint32_t>(1e-30f) && magnitude <= std::bit_cast<std::uint32_t>(1e30f));
}

/// 16 columns of which `n` are left, as integers: −127 … 127.
LOSA_AVX512 inline __m128i to_integers(const float* x, std::size_t n, float factor) noexcept {
  return _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(load_columns(x, n), _mm512_set1_ps(factor))));
}

/// The tokens of a call, for every tile; those past the last one are zeros.
struct Activations {
  std::size_t n;
  std::uint8_t* integers;  // (tile, token, 64): q + 128
  float* scales;           // (tile / 2, token)

  static std::size_t need(std::size_t tokens, std::size_t tiles) noexcept {
    return Scratch::need<std::uint8_t>(tiles * tokens * tile_cols) + Scratch::need<float>((tiles + 1) / 2 * tokens);
  }
  Activations(Scratch& scratch, std::size_t tokens, std::size_t tiles) noexcept
      : n(tokens),
        integers(scratch.take<std::uint8_t>(tiles * tokens * tile_cols)),
        scales(scratch.take<float>((tiles + 1) / 2 * tokens)) {}
};

/// x as integers. False if the tokens have to stay in float.
LOSA_AVX512 inline bool pack(MatrixView<const float> x, std::size_t tiles, const Activations& to) noexcept {
  std::fill_n(to.integers, tiles * to.n * tile_cols, std::uint8_t{128});
  std::fill_n(to.scales, (tiles + 1) / 2 * to.n, 0.0f);
  for (std::size_t t = 0; t < std::min(to.n, x.rows); ++t)
    for (std::size_t first = 0; first < x.cols; first += scale_cols) {
      const float* const from = x.data + t * x.stride + first;
      const std::size_t cols = std::min(scale_cols, x.cols - first);
      const std::uint32_t most = magnitude(from, cols);
      if (most == 0) continue;
      if (!fits(most)) return false;
      to.scales[first / scale_cols * to.n + t] = std::bit_cast<float>(most) / largest;
      const float factor = largest / std::bit_cast<float>(most);
      for (std::size_t c = 0; c < cols; c += 16) {
        const std::size_t tile = (first + c) / tile_cols;
        _mm_store_si128(reinterpret_cast<__m128i*>(to.integers + (tile * to.n + t) * tile_cols + c % tile_cols),
                        _mm_xor_si128(to_integers(from + c, cols - c, factor), _mm_set1_epi8(-128)));
      }
    }
  return true;
}

LOSA_AVX512 inline __m512i row(const Int8Weights::Cursor& from) noexcept { return _mm512_loadu_si512(from.p); }
LOSA_AVX512 inline __m512i row(const Int4Weights::Cursor& from) noexcept { return nibbles64(from.p); }

/// totals[t] += scales[t · 32] · Σ (a row of tile j) · x[t] over J tiles, and their cursors to the next row; mask words
/// of tiles are tile_rows apart.
template <std::size_t J, std::size_t N, class C>
LOSA_AVX512 inline void add_row(__m512 (&totals)[N], C* cursors, const std::uint64_t* words, const std::uint8_t* x,
                                const float* scales) noexcept {
  __m512i weights[J];
  __m512i offset = _mm512_setzero_si512();
#pragma GCC unroll 2
  for (std::size_t j = 0; j < J; ++j) {
    // As `span` tiles are read at once, less than 3 KiB ahead asks for what another of them is just reading: int8, one
    // token, 4096 × 4096 at 70 %, two threads of Zen 4: 0.42 ms with 1 KiB, 0.33 with 2.5, 0.31 with 6.
    _mm_prefetch(reinterpret_cast<const char*>(cursors[j].p) + 6144, _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(words + j * tile_rows) + 1024, _MM_HINT_T0);
    const std::uint64_t bits = words[j * tile_rows];
    weights[j] = expand_bytes(bits, row(cursors[j]));
    offset = _mm512_dpbusd_epi32(offset, _mm512_set1_epi8(-128), weights[j]);
    cursors[j].advance(static_cast<std::size_t>(_mm_popcnt_u64(bits)));
  }
  const __m512i begin = _mm512_sub_epi32(_mm512_setzero_si512(), offset);
#pragma GCC unroll 8
  for (std::size_t t = 0; t < N; ++t) {
    __m512i sum = begin;
#pragma GCC unroll 2
    for (std::size_t j = 0; j < J; ++j)
      sum = _mm512_dpbusd_epi32(sum, _mm512_load_si512(x + (j * N + t) * tile_cols), weights[j]);
    totals[t] = _mm512_fmadd_ps(_mm512_set1_ps(scales[t * tile_rows]), _mm512_cvtepi32_ps(sum), totals[t]);
  }
}

/// Tiles side by side, for which a row's sums are loaded and stored once.
inline constexpr std::size_t span = 4;
static_assert(span % tiles_per_scale == 0);

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
                                 const Activations& x, MatrixView<float> y, const float* bias,
                                 bool accumulate) noexcept {
  // Tiles whose weights and activations have one scale are summed as integers.
  constexpr std::size_t joined = std::is_same_v<W, Int8Weights> ? tiles_per_scale : 1;
  alignas(64) float sums[tile_rows * N * 16];
  alignas(64) float scales[span][N * tile_rows];
  for (std::size_t b = first; b < last; ++b) {
    std::fill_n(sums, tile_rows * N * 16, 0.0f);
    for (std::size_t t = 0; t < w.tiles; t += span) {
      const std::size_t tiles = std::min(span, w.tiles - t);
      const std::uint64_t* const words = w.words + (b * w.tiles + t) * tile_rows;
      const std::uint8_t* const activations = x.integers + t * tile_cols * N;
      typename W::Cursor cursors[span];
      for (std::size_t j = 0; j < tiles; ++j) {
        cursors[j] = weights.begin(w, b, t + j);
        tile_scales<N>(cursors[j], x.scales + (t + j) / tiles_per_scale * N, scales[j]);
      }
      for (std::size_t i = 0; i < tile_rows; ++i) {
        float* const sum = sums + i * N * 16;
        __m512 total[N];
#pragma GCC unroll 8
        for (std::size_t k = 0; k < N; ++k) total[k] = _mm512_load_ps(sum + k * 16);
        std::size_t j = 0;
        for (; j + joined <= tiles; j += joined)
          add_row<joined>(total, cursors + j, words + j * tile_rows + i, activations + j * tile_cols * N,
                          scales[j] + i);
        if (joined > 1 && j < tiles)
          add_row<1>(total, cursors + j, words + j * tile_rows + i, activations + j * tile_cols * N, scales[j] + i);
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
    return Activations::need(std::bit_ceil(tokens), tiles) + expand::FewTokens::need(tokens, tiles);
  }
  FewTokens(Scratch& scratch, MatrixView<const float> x, std::size_t tiles) noexcept
      : x_(scratch, std::bit_ceil(x.rows), tiles) {
    if (!pack(x, tiles, x_)) floats_.emplace(scratch, x, tiles);
  }
  /// y[t, r] ← [y +] ⟨W[r], x[t]⟩ [+ bias[r]] for the rows of the row blocks from `first` to `last`.
  template <class W>
  void multiply(const PackedLayout& w, const W& weights, std::size_t first, std::size_t last, MatrixView<float> y,
                const float* bias, bool accumulate) const noexcept {
    if (floats_) return floats_->multiply(w, weights, first, last, y, bias, accumulate);
    switch (x_.n) {
      case 1:
        return integers::multiply<1>(w, weights, first, last, x_, y, bias, accumulate);
      case 2:
        return integers::multiply<2>(w, weights, first, last, x_, y, bias, accumulate);
      case 4:
        return integers::multiply<4>(w, weights, first, last, x_, y, bias, accumulate);
      default:
        return integers::multiply<8>(w, weights, first, last, x_, y, bias, accumulate);
    }
  }

 private:
  Activations x_;
  std::optional<expand::FewTokens> floats_;
};

LOSA_AVX512_END

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx512::integers
#endif
