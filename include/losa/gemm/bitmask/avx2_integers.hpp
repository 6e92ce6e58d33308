#pragma once
// The AVX2 kernel for int8 and int4 weights and five to eight tokens: packed bytes are spread to the positions of a
// mask word in registers, 16 at a time, widened and multiplied with activations of 16 bits:
//
//   x = scale · q,  q = round(x / scale),  scale = 2^(⌊log₂ max |x|⌋ − 14)  over 64 columns, token by token
//
// An activation is off by at most max |x| / 2¹⁵ of the columns that share its scale, and by nothing if it has no more
// than 15 bits above the scale. Sums over a tile are exact.

#include <losa/gemm/target/avx2_vector.hpp>
#if defined(LOSA_AVX2)

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <type_traits>

#include <losa/core/view.hpp>
#include <losa/gemm/activation_range.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/arena.hpp>
#include <losa/gemm/bitmask/avx2_expand.hpp>
#include <losa/gemm/operation.hpp>
#include <losa/gemm/packed_structure.hpp>
#include <losa/gemm/weights.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH::avx2::integers {

/// For vpshufb: byte i finds the value of bit i of eight among the packed ones; its top bit says that there is none.
inline constexpr auto ranks_table = [] {
  std::array<std::uint64_t, 256> rows{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    std::uint64_t n = 0;
    for (unsigned bit = 0; bit < 8; ++bit) rows[byte] |= ((byte >> bit & 1u) != 0 ? n++ : 0x80u) << 8 * bit;
  }
  return rows;
}();

/// What the upper eight ranks of sixteen are off by, if n values belong to the lower ones.
struct alignas(16) Upper {
  std::uint64_t low;
  std::uint64_t high;
};
inline constexpr auto upper_table = [] {
  std::array<Upper, 9> rows{};
  for (std::uint64_t n = 0; n < 9; ++n) rows[n] = {0, n * 0x0101010101010101u};
  return rows;
}();

/// 16 packed bytes spread to the bits of two mask bytes, as 16 bits each.
LOSA_AVX2 inline __m256i spread16(const std::int8_t* p, std::size_t low, std::size_t high) noexcept {
  const __m128i ranks = _mm_castps_si128(
      _mm_loadh_pi(_mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(&ranks_table[low]))),
                   reinterpret_cast<const __m64*>(&ranks_table[high])));
  const auto* upper = reinterpret_cast<const __m128i*>(&upper_table[static_cast<unsigned>(_mm_popcnt_u64(low))]);
  const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_cvtepi8_epi16(_mm_shuffle_epi8(packed, _mm_add_epi8(ranks, _mm_load_si128(upper))));
}

/// A row of a tile in its 64 columns.
LOSA_AVX2 inline void spread_row(const std::int8_t* p, std::uint64_t word, const std::uint8_t* bytes,
                                 __m256i (&weights)[4]) noexcept {
#pragma GCC unroll 4
  for (std::size_t g = 0; g < 4; ++g) {
    const auto before = g == 0 ? 0 : _mm_popcnt_u64(word << (64 - 16 * g) % 64);
    weights[g] = spread16(p + before, bytes[2 * g], bytes[2 * g + 1]);
  }
}

/// Activations of 16 bits: (tile, token, column of the tile), and (tile, token) their scales.
class Activations {
 public:
  static std::size_t need(std::size_t tokens, std::size_t tiles) noexcept {
    return Arena::need<std::int16_t>(tiles * tokens * tile_cols) + Arena::need<float>(tiles * tokens);
  }
  Activations(Arena& arena, std::size_t tokens, std::size_t tiles) noexcept
      : n_(tokens),
        tiles_(tiles),
        integers_(arena.take<std::int16_t>(tiles * tokens * tile_cols)),
        scales_(arena.take<float>(tiles * tokens)) {}

  const std::int16_t* integers(std::size_t tile) const noexcept { return integers_ + tile * n_ * tile_cols; }
  const float* scales(std::size_t tile) const noexcept { return scales_ + tile * n_; }

  /// False if x has to stay in float (activation_range.hpp).
  LOSA_AVX2 bool pack(MatrixView<const float> x) noexcept {
    for (std::size_t tile = 0; tile < tiles_; ++tile)
      for (std::size_t t = 0; t < n_; ++t) {
        const std::size_t first = tile * tile_cols;
        const std::size_t cols = t < x.rows ? std::min(tile_cols, x.cols - first) : 0;
        const float* const from = cols == 0 ? nullptr : x.data + t * x.stride + first;
        __m256 values[8];
        __m256i most = _mm256_setzero_si256();
#pragma GCC unroll 8
        for (std::size_t g = 0; g < 8; ++g) {
          values[g] = 8 * g < cols ? _mm256_maskload_ps(from + 8 * g, first_lanes8(cols - 8 * g)) : _mm256_setzero_ps();
          const __m256i bits = _mm256_and_si256(_mm256_castps_si256(values[g]), _mm256_set1_epi32(0x7fffffff));
          most = _mm256_max_epu32(most, bits);
        }
        const std::uint32_t magnitude = largest(most);
        if (!integers_fit(magnitude)) return false;
        const float scale = std::bit_cast<float>(magnitude & 0x7f800000u) * 0x1p-14f;
        const float factor = magnitude == 0 ? 0.0f : 1 / scale;
        scales_[tile * n_ + t] = scale;
        auto* const to = reinterpret_cast<__m256i*>(integers_ + (tile * n_ + t) * tile_cols);
#pragma GCC unroll 4
        for (std::size_t g = 0; g < 4; ++g)
          _mm256_store_si256(to + g, to_integers(values[2 * g], values[2 * g + 1], _mm256_set1_ps(factor)));
      }
    return true;
  }

 private:
  LOSA_AVX2 static std::uint32_t largest(__m256i v) noexcept {
    __m128i four = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0x4e));
    four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0xb1));
    return static_cast<std::uint32_t>(_mm_cvtsi128_si32(four));
  }
  LOSA_AVX2 static __m256i to_integers(__m256 a, __m256 b, __m256 factor) noexcept {
    const __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(a, factor));
    const __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(b, factor));
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
  }

  std::size_t n_;
  std::size_t tiles_;
  std::int16_t* integers_;
  float* scales_;
};

/// sums (2, TokenCount, 8) += scales[t · 32 + row] · (two rows of a tile) · x[t].
template <std::size_t TokenCount>
LOSA_AVX2 inline void add_rows(float* sums, const __m256i (&weights)[2][4], const std::int16_t* x,
                               const float* scales) noexcept {
#pragma GCC unroll 8
  for (std::size_t t = 0; t < TokenCount; ++t) {
    const auto* from = reinterpret_cast<const __m256i*>(x + t * tile_cols);
    __m256i activations = _mm256_load_si256(from);
    __m256i sum[2];
    sum[0] = _mm256_madd_epi16(weights[0][0], activations);
    sum[1] = _mm256_madd_epi16(weights[1][0], activations);
#pragma GCC unroll 3
    for (std::size_t g = 1; g < 4; ++g) {
      activations = _mm256_load_si256(from + g);
      sum[0] = _mm256_add_epi32(sum[0], _mm256_madd_epi16(weights[0][g], activations));
      sum[1] = _mm256_add_epi32(sum[1], _mm256_madd_epi16(weights[1][g], activations));
    }
#pragma GCC unroll 2
    for (std::size_t r = 0; r < 2; ++r) {
      float* const to = sums + (r * TokenCount + t) * 8;
      _mm256_store_ps(to, _mm256_fmadd_ps(_mm256_broadcast_ss(scales + t * tile_rows + r), _mm256_cvtepi32_ps(sum[r]),
                                          _mm256_load_ps(to)));
    }
  }
}

/// to[t · 32 + i] ← [scale of row i of the tile ·] scale of token t.
template <std::size_t TokenCount, class CursorType>
LOSA_AVX2 inline void tile_scales(const CursorType& weights, const float* x_scales, float* to) noexcept {
  for (std::size_t i = 0; i < tile_rows; i += 8) {
    __m256 scales = _mm256_set1_ps(1);
    if constexpr (std::is_same_v<CursorType, Int4Weights::Cursor>) scales = load8(weights.scales + i);
#pragma GCC unroll 8
    for (std::size_t t = 0; t < TokenCount; ++t)
      _mm256_store_ps(to + t * tile_rows + i, _mm256_mul_ps(scales, _mm256_set1_ps(x_scales[t])));
  }
}

template <std::size_t TokenCount, class WeightsType>
LOSA_AVX2 inline void multiply(const PackedLayout& w, const WeightsType& weights, std::size_t first, std::size_t last,
                               const Activations& x, MatrixView<float> y, const float* bias, bool accumulate) noexcept {
  constexpr bool nibbles = std::is_same_v<WeightsType, Int4Weights>;
  alignas(64) float sums[tile_rows * TokenCount * 8];
  alignas(64) float scales[tile_rows * TokenCount];
  [[maybe_unused]] alignas(64) std::int8_t integers[tile_rows * tile_cols + 16] = {};
  for (std::size_t b = first; b < last; ++b) {
    std::fill_n(sums, tile_rows * TokenCount * 8, 0.0f);
    for (std::size_t t = 0; t < w.tiles; ++t) {
      const std::uint64_t* const words = w.words + (b * w.tiles + t) * tile_rows;
      auto cursor = weights.begin(w, b, t);
      tile_scales<TokenCount>(cursor, x.scales(t), scales);
      if constexpr (nibbles) expand::unpack_nibbles(words, cursor, integers);
      for (std::size_t i = 0; i < tile_rows; i += 2) {
        _mm_prefetch(reinterpret_cast<const char*>(words + i) + 1024, _MM_HINT_T0);
        __m256i rows[2][4];
#pragma GCC unroll 2
        for (std::size_t r = 0; r < 2; ++r) {
          _mm_prefetch(reinterpret_cast<const char*>(cursor.p) + 2048, _MM_HINT_T0);
          const std::int8_t* from;
          if constexpr (nibbles) {
            from = integers + (i + r) * tile_cols;
          } else {
            from = cursor.p;
          }
          const std::uint64_t word = words[i + r];
          spread_row(from, word, reinterpret_cast<const std::uint8_t*>(words + i + r), rows[r]);
          cursor.advance(static_cast<std::size_t>(_mm_popcnt_u64(word)));
        }
        add_rows<TokenCount>(sums + i * TokenCount * 8, rows, x.integers(t), scales + i);
      }
    }
    const float* row_scales = nullptr;
    if constexpr (!nibbles) row_scales = weights.scales + b * tile_rows;
    expand::store<TokenCount>(sums, row_scales, 1.0f, b * tile_rows, y, bias, accumulate);
  }
}

/// Up to eight tokens; up to four as floats, and all of them where they cannot be integers.
class FewTokens {
 public:
  static constexpr std::size_t most = 8;

  template <class WeightsType>
  static Rounding rounding(std::size_t tokens, std::size_t cols) noexcept {
    Rounding found = expand::FewTokens::rounding<WeightsType>(tokens, cols);
    if (tokens > expand::FewTokens::most) {
      found.step = 0x1p-15;
      found.scale_cols = tile_cols;
    }
    return found;
  }

  static std::size_t need(std::size_t tokens, std::size_t tiles) noexcept {
    if (tokens <= expand::FewTokens::most) return expand::FewTokens::need(tokens, tiles);
    return Activations::need(most, tiles) + 2 * expand::FewTokens::need(expand::FewTokens::most, tiles);
  }
  FewTokens(Arena& arena, MatrixView<const float> x, std::size_t tiles) noexcept {
    if (x.rows > expand::FewTokens::most) {
      integers_.emplace(arena, most, tiles);
      if (integers_->pack(x)) return;
      integers_.reset();
    }
    for (std::size_t t = 0, part = 0; t < x.rows; t += expand::FewTokens::most, ++part)
      floats_[part].emplace(arena, rows(x, t), tiles);
  }
  /// y[t, r] ← [y +] ⟨W[r], x[t]⟩ [+ bias[r]] for the rows of the row blocks from `first` to `last`.
  template <class WeightsType>
  void multiply(const PackedLayout& w, const WeightsType& weights, std::size_t first, std::size_t last,
                MatrixView<float> y, const float* bias, bool accumulate) const noexcept {
    if (integers_) return integers::multiply<most>(w, weights, first, last, *integers_, y, bias, accumulate);
    for (std::size_t t = 0, part = 0; t < y.rows; t += expand::FewTokens::most, ++part)
      floats_[part]->multiply(w, weights, first, last, rows(y, t), bias, accumulate);
  }

 private:
  /// As many as are multiplied as floats at once.
  template <class Element>
  static MatrixView<Element> rows(MatrixView<Element> m, std::size_t first) noexcept {
    return {m.data + first * m.stride, std::min(expand::FewTokens::most, m.rows - first), m.cols, m.stride};
  }

  std::optional<Activations> integers_;
  std::optional<expand::FewTokens> floats_[2];
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx2::integers
#endif
