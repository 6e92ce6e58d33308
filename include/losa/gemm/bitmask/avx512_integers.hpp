#pragma once
// The AVX-512 kernel for int8 and int4 weights and one to eight tokens: a row of a tile is spread to its 64 columns
// by one vpexpandb and multiplied by one vpdpbusd with activations of 8 bits (activations.hpp). Sums over a tile are
// exact. Activations that have to stay floats are multiplied by expand.hpp.

#include <losa/gemm/target/avx512_vector.hpp>
#if defined(LOSA_AVX512)

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <type_traits>

#include <losa/core/view.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/arena.hpp>
#include <losa/gemm/bitmask/avx512_expand.hpp>
#include <losa/gemm/operation.hpp>
#include <losa/gemm/packed_structure.hpp>
#include <losa/gemm/target/avx512_activations.hpp>
#include <losa/gemm/target/avx512_panels.hpp>
#include <losa/gemm/weights.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH::avx512::integers {

LOSA_AVX512_BEGIN

/// A scale for two tiles.
using Activations = ByteActivations<tile_cols, 2 * tile_cols>;
inline constexpr std::size_t tiles_per_scale = 2;
inline constexpr std::size_t scale_cols = tiles_per_scale * tile_cols;

LOSA_AVX512 inline __m512i row(const Int8Weights::Cursor& from) noexcept { return _mm512_loadu_si512(from.p); }
LOSA_AVX512 inline __m512i row(const Int4Weights::Cursor& from) noexcept { return nibbles64(from.p); }

/// totals[t] += scales[t · 32] · Σ (a row of tile j) · x[t] over Joined tiles, and their cursors to the next row; mask
/// words of tiles are tile_rows apart.
template <std::size_t Joined, std::size_t TokenCount, class CursorType>
LOSA_AVX512 inline void add_row(__m512 (&totals)[TokenCount], CursorType* cursors, const std::uint64_t* words,
                                const std::uint8_t* x, const float* scales) noexcept {
  constexpr bool late = Joined > 1 || TokenCount <= 2;  // then a sum that waits for the offset is what a row waits for
  __m512i weights[Joined];
  __m512i offset = _mm512_setzero_si512();
#pragma GCC unroll 2
  for (std::size_t j = 0; j < Joined; ++j) {
    weights[j] = expand_bytes(load_mask64(words + j * tile_rows), row(cursors[j]));
    offset = _mm512_dpbusd_epi32(offset, _mm512_set1_epi8(-128), weights[j]);
    cursors[j].advance(static_cast<std::size_t>(_mm_popcnt_u64(words[j * tile_rows])));
  }
#pragma GCC unroll 8
  for (std::size_t t = 0; t < TokenCount; ++t) {
    __m512i sum = late ? _mm512_setzero_si512() : _mm512_sub_epi32(_mm512_setzero_si512(), offset);
#pragma GCC unroll 2
    for (std::size_t j = 0; j < Joined; ++j)
      sum = _mm512_dpbusd_epi32(sum, _mm512_load_si512(x + (j * TokenCount + t) * tile_cols), weights[j]);
    totals[t] = _mm512_fmadd_ps(_mm512_set1_ps(scales[t * tile_rows]),
                                _mm512_cvtepi32_ps(late ? _mm512_sub_epi32(sum, offset) : sum), totals[t]);
  }
}

/// Tiles side by side, for which a row's sums are loaded and stored once.
inline constexpr std::size_t span = 4;
static_assert(span % tiles_per_scale == 0);

/// to[t · 32 + i] ← [scale of row i of the tile ·] scale of token t.
template <std::size_t TokenCount, class CursorType>
LOSA_AVX512 inline void tile_scales(const CursorType& weights, const float* x_scales, float* to) noexcept {
  for (std::size_t half = 0; half < tile_rows; half += 16) {
    __m512 scales = _mm512_set1_ps(1);
    if constexpr (std::is_same_v<CursorType, Int4Weights::Cursor>) scales = load16(weights.scales + half);
    for (std::size_t t = 0; t < TokenCount; ++t)
      _mm512_store_ps(to + t * tile_rows + half, _mm512_mul_ps(scales, _mm512_set1_ps(x_scales[t])));
  }
}

/// sums (32, TokenCount, 16) += tiles t … t + tiles − 1 of block b.
template <std::size_t tiles, std::size_t TokenCount, class WeightsType>
LOSA_AVX512 inline void add_tiles(const PackedLayout& w, const WeightsType& weights, std::size_t b, std::size_t t,
                                  const Activations& x, float* sums) noexcept {
  // Tiles whose weights and activations have one scale are summed as integers.
  constexpr std::size_t joined = std::is_same_v<WeightsType, Int8Weights> ? std::min(tiles_per_scale, tiles) : 1;
  alignas(64) float scales[tiles][TokenCount * tile_rows];
  typename WeightsType::Cursor cursors[tiles];
#pragma GCC unroll 4
  for (std::size_t j = 0; j < tiles; ++j) {
    cursors[j] = weights.begin(w, b, t + j);
    tile_scales<TokenCount>(cursors[j], x.scales((t + j) * tile_cols), scales[j]);
  }
  const std::uint64_t* words = w.words + (b * w.tiles + t) * tile_rows;
  // The tiles follow each other in memory. What lies less than 3 KiB ahead may be what is just being read: int8, one
  // token, 4096 × 4096 at 70 %, two threads of Zen 4: 0.42 ms with 1 KiB, 0.33 with 2.5, 0.31 with 6.
  const char* ahead = reinterpret_cast<const char*>(cursors[0].p) + 6144;
  const std::size_t step =
      static_cast<std::size_t>(reinterpret_cast<const char*>(cursors[tiles - 1].p) + 6144 - ahead) / tile_rows * tiles /
      std::max<std::size_t>(1, tiles - 1);
  const std::uint8_t* const activations = x.integers(t * tile_cols);
  for (std::size_t i = 0; i < tile_rows; ++i, ++words, ahead += step) {
    _mm_prefetch(ahead, _MM_HINT_T0);
    _mm_prefetch(ahead + step, _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(words + (tiles - 1) * i) + 1024, _MM_HINT_T0);
    float* const sum = sums + i * TokenCount * 16;
    __m512 total[TokenCount];
#pragma GCC unroll 8
    for (std::size_t k = 0; k < TokenCount; ++k) total[k] = _mm512_load_ps(sum + k * 16);
#pragma GCC unroll 4
    for (std::size_t j = 0; j < tiles; j += joined)
      add_row<joined>(total, cursors + j, words + j * tile_rows, activations + j * tile_cols * TokenCount,
                      scales[j] + i);
#pragma GCC unroll 8
    for (std::size_t k = 0; k < TokenCount; ++k) _mm512_store_ps(sum + k * 16, total[k]);
  }
}

template <std::size_t TokenCount, class WeightsType>
LOSA_AVX512 inline void multiply(const PackedLayout& w, const WeightsType& weights, std::size_t first, std::size_t last,
                                 const Activations& x, MatrixView<float> y, const float* bias,
                                 bool accumulate) noexcept {
  alignas(64) float sums[tile_rows * TokenCount * 16];
  for (std::size_t b = first; b < last; ++b) {
    std::fill_n(sums, tile_rows * TokenCount * 16, 0.0f);
    std::size_t t = 0;
    for (; t + span <= w.tiles; t += span) add_tiles<span, TokenCount>(w, weights, b, t, x, sums);
    for (; t < w.tiles; ++t) add_tiles<1, TokenCount>(w, weights, b, t, x, sums);
    const float* row_scales = nullptr;
    if constexpr (std::is_same_v<WeightsType, Int8Weights>) row_scales = weights.scales + b * tile_rows;
    store_rows<TokenCount>(sums, row_scales, b * tile_rows, y, bias, accumulate);
  }
}

/// Up to 8 tokens, as integers where they can be. 16 are slower than in panels: int8 5.8 against 4.6 ms, int4 7.0
/// against 5.1 (4096 × 4096 at 70 %, one thread of Zen 4).
class FewTokens {
 public:
  static constexpr std::size_t most = 8;

  template <class WeightsType>
  static Rounding rounding(std::size_t, std::size_t) noexcept {
    return {.step = byte_step, .scale_cols = scale_cols};
  }

  static std::size_t need(std::size_t tokens, std::size_t tiles) noexcept {
    return Activations::need(std::bit_ceil(tokens), tiles * tile_cols) + expand::FewTokens<false>::need(tokens, tiles);
  }
  FewTokens(Arena& arena, MatrixView<const float> x, std::size_t tiles) noexcept
      : x_(arena, std::bit_ceil(x.rows), tiles * tile_cols) {
    if (!x_.pack(x)) floats_.emplace(arena, x, tiles);
  }
  /// y[t, r] ← [y +] ⟨W[r], x[t]⟩ [+ bias[r]] for the rows of the row blocks from `first` to `last`.
  template <class WeightsType>
  void multiply(const PackedLayout& w, const WeightsType& weights, std::size_t first, std::size_t last,
                MatrixView<float> y, const float* bias, bool accumulate) const noexcept {
    if (floats_) return floats_->multiply(w, weights, first, last, y, bias, accumulate);
    switch (x_.tokens()) {
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
  std::optional<expand::FewTokens<false>> floats_;
};

LOSA_AVX512_END

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx512::integers
#endif
