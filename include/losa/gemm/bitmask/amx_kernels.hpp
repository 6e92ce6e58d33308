#pragma once
// The inner loops of AMX: rows of packed weights are expanded by their mask to whole rows in the cache, which are tiles
// as they lie (the left operand); activations become pairs or fours of columns side by side for 16 tokens (the right
// operand) when they are packed. A step is one tile of either, 64 bytes of every row:
//
//            columns of a step   weights of a step     activations of a step      sums
//   Bf16     32                  (32 rows, 32)         (16 pairs, 16 tokens, 2)   (32 rows, 16 tokens) f32
//   Int8     64                  (32 rows, 64)         (16 fours, 16 tokens, 4)   as f32 after every 128 columns
//
// Bf16 rounds activations as avx512_bf16 does, Int8 as avx512/integers.hpp does for fewer tokens: integers of 8 bits
// with a scale for each token and 128 columns, over which sums are exact.

#include <losa/gemm/target/amx_tile.hpp>
#if defined(LOSA_AVX512)

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <losa/core/types.hpp>
#include <losa/gemm/activation_range.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/bitmask/avx512_bf16.hpp>
#include <losa/gemm/bitmask/avx512_integers.hpp>
#include <losa/gemm/operation.hpp>
#include <losa/gemm/packed_structure.hpp>
#include <losa/gemm/weights.hpp>

LOSA_AVX512_BEGIN

namespace losa::inline v0::detail::inline LOSA_ARCH::amx {

inline constexpr std::size_t tile_tokens = 16;
inline constexpr std::size_t step_bytes = 2 * tile_bytes;  // of weights: 32 rows, two tiles
inline constexpr std::size_t sum_floats = tile_rows * tile_tokens;
static_assert(tile_rows == 2 * tile_lines && tile_cols == 64);

/// to (16 fours of bytes, 16 tokens) ← from (16 tokens, 16 fours).
LOSA_AVX512 inline void turn(const std::byte* from, std::byte* to) noexcept {
  for (std::size_t q = 0; q < 4; ++q) {
    __m512i v[4];
#pragma GCC unroll 4
    for (std::size_t j = 0; j < 4; ++j) {
      const auto* const fours = reinterpret_cast<const __m128i*>(from + j * 64 + q * 16);  // of tokens j, j + 4, …
      v[j] = _mm512_castsi128_si512(_mm_load_si128(fours));
      v[j] = _mm512_inserti32x4(v[j], _mm_load_si128(fours + 16), 1);
      v[j] = _mm512_inserti32x4(v[j], _mm_load_si128(fours + 32), 2);
      v[j] = _mm512_inserti32x4(v[j], _mm_load_si128(fours + 48), 3);
    }
    const __m512i low01 = _mm512_unpacklo_epi32(v[0], v[1]);
    const __m512i low23 = _mm512_unpacklo_epi32(v[2], v[3]);
    const __m512i high01 = _mm512_unpackhi_epi32(v[0], v[1]);
    const __m512i high23 = _mm512_unpackhi_epi32(v[2], v[3]);
    _mm512_store_si512(to + (4 * q + 0) * 64, _mm512_unpacklo_epi64(low01, low23));
    _mm512_store_si512(to + (4 * q + 1) * 64, _mm512_unpackhi_epi64(low01, low23));
    _mm512_store_si512(to + (4 * q + 2) * 64, _mm512_unpacklo_epi64(high01, high23));
    _mm512_store_si512(to + (4 * q + 3) * 64, _mm512_unpackhi_epi64(high01, high23));
  }
}

/// Packed activations as multiply() reads them: those of a tile of tokens from one column on, and how far the next
/// tile of tokens is.
struct TokenTiles {
  const std::byte* x;  // (steps, 1 KiB)
  std::size_t x_step;
  const float* scales;  // (128 columns, 16 tokens)
  std::size_t scales_step;
};

/// C += A · B for 32 rows and TileCount tiles of tokens, C being tiles 0 … 2 TileCount − 1: (token tile, half of the
/// rows).
template <std::size_t TileCount, class KernelSet, class Tiles>
LOSA_AVX512 inline void multiply_step(Tiles& tiles, const std::byte* a, const std::byte* b,
                                      std::size_t b_step) noexcept {
  tiles.template load<4>(a);
  tiles.template load<5>(a + tile_bytes);
  tiles.template load<6>(b);
  KernelSet::template multiply_tiles<0, 4, 6>(tiles);
  KernelSet::template multiply_tiles<1, 5, 6>(tiles);
  if constexpr (TileCount == 2) {
    tiles.template load<7>(b + b_step);
    KernelSet::template multiply_tiles<2, 4, 7>(tiles);
    KernelSet::template multiply_tiles<3, 5, 7>(tiles);
  }
}

template <std::size_t TileCount, class Tiles>
LOSA_AVX512 inline void store_tiles(Tiles& tiles, void* to) noexcept {
  auto* const out = static_cast<std::byte*>(to);
  tiles.template store<0>(out);
  tiles.template store<1>(out + tile_bytes);
  if constexpr (TileCount == 2) {
    tiles.template store<2>(out + 2 * tile_bytes);
    tiles.template store<3>(out + 3 * tile_bytes);
  }
}

struct Bf16 {
  using Weights = FloatWeights<bf16>;
  static constexpr std::size_t step_cols = 32;
  static constexpr bool scaled = false;
  static Rounding rounding() noexcept { return {.step = 0x1p-8}; }

  /// to ← x (tokens, cols), at most 16 tokens, zeros after the last token and up to whole tiles of 64 columns.
  LOSA_AVX512 static bool pack(const float* x, std::size_t stride, std::size_t tokens, std::size_t cols, std::byte* to,
                               float*) noexcept {
    const __m512i in_order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    alignas(64) std::byte rows[tile_bytes];
    std::memset(rows, 0, sizeof rows);
    for (std::size_t c = 0; c < round_up(cols, tile_cols); c += step_cols, to += tile_bytes) {
      for (std::size_t t = 0; t < tokens; ++t) {
        const float* const from = x + t * stride + c;
        const std::size_t left = c < cols ? cols - c : 0;
        const __m512i low = avx512_bf16::round_to_bf16(avx512::load_columns(from, left));
        const __m512i high = avx512_bf16::round_to_bf16(avx512::load_columns(from + 16, left < 16 ? 0 : left - 16));
        _mm512_store_si512(rows + t * 64, _mm512_permutexvar_epi64(in_order, _mm512_packus_epi32(low, high)));
      }
      turn(rows, to);
    }
    return true;
  }

  /// to (steps, 32 rows, 64 bytes) ← the weights of a block, column tiles [first, last); asks for those of block
  /// `next`.
  LOSA_AVX512 static void expand(const PackedLayout& w, const Weights& weights, std::size_t block, std::size_t next,
                                 std::size_t first, std::size_t last, std::byte* to) noexcept {
    for (std::size_t t = first; t < last; ++t, to += 2 * step_bytes) {
      const std::uint64_t* const words = w.words + (block * w.tiles + t) * tile_rows;
      const std::uint64_t* const next_words = w.words + (next * w.tiles + t) * tile_rows;
      const bf16* p = weights.begin(w, block, t).p;
      const bf16* ahead = weights.begin(w, next, t).p;
      for (std::size_t i = 0; i < tile_rows; ++i) {
        const std::uint64_t word = words[i];
        const auto low = static_cast<std::uint32_t>(word);
        const auto in_low = static_cast<std::size_t>(_mm_popcnt_u32(low));
        const auto count = static_cast<std::size_t>(_mm_popcnt_u64(word));
        avx2::prefetch(next_words + i);
        avx2::prefetch(ahead);
        avx2::prefetch(ahead + in_low);
        _mm512_store_si512(to + i * 64, _mm512_maskz_expand_epi16(low, _mm512_loadu_si512(p)));
        _mm512_store_si512(to + step_bytes + i * 64, _mm512_maskz_expand_epi16(static_cast<__mmask32>(word >> 32),
                                                                               _mm512_loadu_si512(p + in_low)));
        p += count;
        ahead += count;
      }
    }
  }

  template <int Sum, int Left, int Right, class Tiles>
  static void multiply_tiles(Tiles& tiles) noexcept {
    tiles.template multiply_bf16<Sum, Left, Right>();
  }

  /// sums (TileCount, 32 rows, 16 tokens) += weights (steps) · the activations of TileCount tiles of tokens.
  template <std::size_t TileCount, class Tiles>
  LOSA_AVX512 static void multiply(Tiles& tiles, const std::byte* weights, const TokenTiles& tokens, std::size_t steps,
                                   float* sums) noexcept {
    tiles.template load<0>(sums);
    tiles.template load<1>(sums + sum_floats / 2);
    if constexpr (TileCount == 2) {
      tiles.template load<2>(sums + sum_floats);
      tiles.template load<3>(sums + sum_floats + sum_floats / 2);
    }
    for (std::size_t s = 0; s < steps; ++s)
      multiply_step<TileCount, Bf16>(tiles, weights + s * step_bytes, tokens.x + s * tile_bytes, tokens.x_step);
    store_tiles<TileCount>(tiles, sums);
  }

  static void finish(const Weights&, std::size_t, float*, std::size_t) noexcept {}
};

struct Int8 {
  using Weights = Int8Weights;
  static constexpr std::size_t step_cols = 64;
  static constexpr bool scaled = true;
  static Rounding rounding() noexcept {
    return {.step = avx512::byte_step, .scale_cols = avx512::integers::scale_cols};
  }
  static constexpr std::size_t joined = avx512::integers::tiles_per_scale;  // steps whose sums are integers

  /// As Bf16::pack, and the scales. False if the tokens have to stay in float.
  LOSA_AVX512 static bool pack(const float* x, std::size_t stride, std::size_t tokens, std::size_t cols, std::byte* to,
                               float* scales) noexcept {
    using namespace avx512;
    for (std::size_t c = 0; c < cols; c += integers::scale_cols, scales += tile_tokens) {
      alignas(64) std::byte rows[joined][tile_bytes];
      std::memset(rows, 0, sizeof rows);
      std::fill_n(scales, tile_tokens, 0.0f);
      const std::size_t n = std::min(integers::scale_cols, cols - c);
      for (std::size_t t = 0; t < tokens; ++t) {
        const float* const from = x + t * stride + c;
        const std::uint32_t most = magnitude(from, n);
        if (most == 0) continue;
        if (!integers_fit(most)) return false;
        scales[t] = std::bit_cast<float>(most) / largest_integer;
        const float factor = largest_integer / std::bit_cast<float>(most);
        for (std::size_t j = 0; j < n; j += 16)
          _mm_store_si128(reinterpret_cast<__m128i*>(rows[j / 64] + t * 64 + j % 64),
                          to_integers(from + j, n - j, factor));
      }
      for (std::size_t j = 0; j * 64 < n; ++j, to += tile_bytes) turn(rows[j], to);
    }
    return true;
  }

  /// As Bf16::expand.
  LOSA_AVX512 static void expand(const PackedLayout& w, const Weights& weights, std::size_t block, std::size_t next,
                                 std::size_t first, std::size_t last, std::byte* to) noexcept {
    for (std::size_t t = first; t < last; ++t, to += step_bytes) {
      const std::uint64_t* const words = w.words + (block * w.tiles + t) * tile_rows;
      const std::uint64_t* const next_words = w.words + (next * w.tiles + t) * tile_rows;
      const std::int8_t* p = weights.begin(w, block, t).p;
      const std::int8_t* ahead = weights.begin(w, next, t).p;
      for (std::size_t i = 0; i < tile_rows; ++i) {
        const auto count = static_cast<std::size_t>(_mm_popcnt_u64(words[i]));
        avx2::prefetch(next_words + i);
        avx2::prefetch(ahead);
        _mm512_store_si512(to + i * 64, avx512::expand_bytes(words[i], _mm512_loadu_si512(p)));
        p += count;
        ahead += count;
      }
    }
  }

  template <int Sum, int Left, int Right, class Tiles>
  static void multiply_tiles(Tiles& tiles) noexcept {
    tiles.template multiply_int8<Sum, Left, Right>();
  }

  /// As Bf16::multiply, from a multiple of 128 columns on; the scales of rows are left to finish().
  template <std::size_t TileCount, class Tiles>
  LOSA_AVX512 static void multiply(Tiles& tiles, const std::byte* weights, const TokenTiles& tokens, std::size_t steps,
                                   float* sums) noexcept {
    alignas(64) std::int32_t integers[TileCount][sum_floats];
    for (std::size_t s = 0; s < steps; s += joined) {
      tiles.template zero<0>();
      tiles.template zero<1>();
      if constexpr (TileCount == 2) {
        tiles.template zero<2>();
        tiles.template zero<3>();
      }
      for (std::size_t j = s; j < std::min(s + joined, steps); ++j)
        multiply_step<TileCount, Int8>(tiles, weights + j * step_bytes, tokens.x + j * tile_bytes, tokens.x_step);
      store_tiles<TileCount>(tiles, integers);
      for (std::size_t n = 0; n < TileCount; ++n) {
        const __m512 scale = _mm512_load_ps(tokens.scales + n * tokens.scales_step + s / joined * tile_tokens);
        for (std::size_t i = 0; i < sum_floats; i += tile_tokens) {
          const __m512 product = _mm512_cvtepi32_ps(_mm512_load_si512(integers[n] + i));
          float* const sum = sums + n * sum_floats + i;
          _mm512_store_ps(sum, _mm512_fmadd_ps(scale, product, _mm512_load_ps(sum)));
        }
      }
    }
  }

  /// sums (tiles of tokens, 32 rows, 16 tokens) ← times the scales of the block's rows.
  LOSA_AVX512 static void finish(const Weights& weights, std::size_t block, float* sums, std::size_t tiles) noexcept {
    for (std::size_t i = 0; i < tiles * sum_floats; i += tile_tokens) {
      const __m512 scale = _mm512_set1_ps(weights.scales[block * tile_rows + i / tile_tokens % tile_rows]);
      _mm512_store_ps(sums + i, _mm512_mul_ps(_mm512_load_ps(sums + i), scale));
    }
  }
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::amx
LOSA_AVX512_END
#endif
