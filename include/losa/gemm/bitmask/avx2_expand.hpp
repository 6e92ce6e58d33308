#pragma once
// The AVX2 kernel for one to four tokens: packed values are spread to the positions of a mask byte in a register, eight
// at a time, and multiplied there. It costs the same for every mask, so it suits a product that waits for memory.
//
//   for each row block, column tile: 64 activations of each token
//     for each row: 8 × { value load at the popcount of the mask before it; shuffle by a table row; multiply-add }
//
// The eight loads of a row find their values by popcounts of the mask word and not one from another, so there is no
// serial chain. A lane that the mask prunes multiplies 0: by the activation where weights are spread with zeros, by the
// weight (finite) where one token's activations are.
//
// Tables: 256 rows for each shuffle, 32 bytes a row; the rows' offsets of a whole tile are made at once.

#include <losa/gemm/target/avx2_vector.hpp>
#if defined(LOSA_AVX2)

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <losa/core/types.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/arena.hpp>
#include <losa/gemm/backend.hpp>
#include <losa/gemm/operation.hpp>
#include <losa/gemm/packed_structure.hpp>
#include <losa/gemm/weights.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH::avx2::expand {

/// Row b, 32 bytes: where lane i of eight finds its value among the packed ones.
struct Table {
  alignas(64) std::array<std::array<std::uint32_t, 8>, 256> rows{};
  const char* bytes() const noexcept { return reinterpret_cast<const char*>(rows.data()); }
};

/// For vpermps: the rank of bit i among the ones; the top bit says whether bit i is set.
inline constexpr Table lanes_table = [] {
  Table table;
  for (unsigned byte = 0; byte < 256; ++byte) {
    std::uint32_t n = 0;
    for (unsigned bit = 0; bit < 8; ++bit)
      if ((byte >> bit & 1u) != 0) table.rows[byte][bit] = 0x80000000u | n++;
  }
  return table;
}();

/// For vpshufb on 16 bytes in both halves: two bytes of the value in the upper half of a lane, zeros elsewhere.
inline constexpr Table halves_table = [] {
  Table table;
  for (unsigned byte = 0; byte < 256; ++byte) {
    std::uint32_t n = 0;
    for (unsigned bit = 0; bit < 8; ++bit) {
      const bool kept = (byte >> bit & 1u) != 0;
      table.rows[byte][bit] = kept ? 0x00008080u | (2 * n) << 16 | (2 * n + 1) << 24 : 0x80808080u;
      n += kept;
    }
  }
  return table;
}();

/// For vpshufb on 8 bytes four times: a byte in the top of a lane, zeros elsewhere.
inline constexpr Table tops_table = [] {
  Table table;
  for (unsigned byte = 0; byte < 256; ++byte) {
    std::uint32_t n = 0;
    for (unsigned bit = 0; bit < 8; ++bit)
      table.rows[byte][bit] = 0x00808080u | ((byte >> bit & 1u) != 0 ? n++ : 0x80u) << 24;
  }
  return table;
}();

LOSA_AVX2 inline __m256 zero_unless(__m256i keep, __m256 v) noexcept {
  // The intrinsic becomes a compare and an and: GCC knows that only sign bits count, and forgets who set them.
  __m256 chosen;
  __asm__("vblendvps %3, %1, %2, %0" : "=x"(chosen) : "x"(v), "x"(_mm256_setzero_ps()), "x"(keep));
  return chosen;
}

/// The activations of a tile: [g](t) are those of token t and the g-th eight columns.
template <std::size_t TokenCount>
struct InMemory {
  struct Columns {
    const float* from;
    LOSA_AVX2 __m256 operator()(std::size_t t) const noexcept { return _mm256_load_ps(from + t * 8); }
  };
  const float* from;
  LOSA_AVX2 explicit InMemory(const float* tile) noexcept : from(tile) {}
  LOSA_AVX2 Columns operator[](std::size_t g) const noexcept { return {from + g * 8 * TokenCount}; }
};
/// Those of one token in registers, for all rows of a tile: f32 loads so much that it waits for loads (Zen 4, one token
/// of 4096 × 4096: 0.79 → 0.73 ms; narrower weights gain nothing).
struct InRegisters {
  struct Columns {
    __m256 held;
    LOSA_AVX2 __m256 operator()(std::size_t) const noexcept { return held; }
  };
  __m256 held[8];
  LOSA_AVX2 explicit InRegisters(const float* tile) noexcept {
#pragma GCC unroll 8
    for (std::size_t g = 0; g < 8; ++g) {
      held[g] = _mm256_load_ps(tile + g * 8);
      __asm__("" : "+x"(held[g]));  // else they are loaded again for every row
    }
  }
  LOSA_AVX2 Columns operator[](std::size_t g) const noexcept { return {held[g]}; }
};
template <std::size_t TokenCount, class WeightsType>
using Activations = std::conditional_t<TokenCount == 1 && std::is_same_v<WeightsType, FloatWeights<float>>, InRegisters,
                                       InMemory<TokenCount>>;

/// acc[t] += (8 packed values spread to the mask byte whose table row lies at `row`) · x(t).
template <std::size_t TokenCount, class ActivationsType>
LOSA_AVX2 inline void multiply_add(__m256 (&acc)[TokenCount], const float* p, std::size_t row,
                                   const ActivationsType& x) noexcept {
  const __m256i order = _mm256_load_si256(reinterpret_cast<const __m256i*>(lanes_table.bytes() + row));
  // As an instruction of its own: with a memory operand vpermps takes a fifth longer on Zen 3.
  __m256 packed;
  __asm__("vmovups %1, %0" : "=x"(packed) : "m"(*reinterpret_cast<const __m256_u*>(p)));
  const __m256 spread = _mm256_permutevar8x32_ps(packed, order);
  if constexpr (TokenCount == 1) {
    acc[0] = _mm256_fmadd_ps(spread, zero_unless(order, x(0)), acc[0]);
  } else {
    const __m256 weight = zero_unless(order, spread);
#pragma GCC unroll 4
    for (std::size_t t = 0; t < TokenCount; ++t) acc[t] = _mm256_fmadd_ps(weight, x(t), acc[t]);
  }
}
template <std::size_t TokenCount, class ActivationsType>
LOSA_AVX2 inline void multiply_add(__m256 (&acc)[TokenCount], const bf16* p, std::size_t row,
                                   const ActivationsType& x) noexcept {
  const __m256i packed = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i order = _mm256_load_si256(reinterpret_cast<const __m256i*>(halves_table.bytes() + row));
  const __m256 weight = _mm256_castsi256_ps(_mm256_shuffle_epi8(packed, order));
#pragma GCC unroll 4
  for (std::size_t t = 0; t < TokenCount; ++t) acc[t] = _mm256_fmadd_ps(weight, x(t), acc[t]);
}
template <std::size_t TokenCount, class ActivationsType>
LOSA_AVX2 inline void multiply_add(__m256 (&acc)[TokenCount], const f16* p, std::size_t row,
                                   const ActivationsType& x) noexcept {
  const __m256i order = _mm256_load_si256(reinterpret_cast<const __m256i*>(lanes_table.bytes() + row));
  const __m256 weight = zero_unless(order, _mm256_permutevar8x32_ps(load8(p), order));
#pragma GCC unroll 4
  for (std::size_t t = 0; t < TokenCount; ++t) acc[t] = _mm256_fmadd_ps(weight, x(t), acc[t]);
}

template <std::size_t TokenCount, class ActivationsType>
LOSA_AVX2 inline void multiply_add(__m256 (&acc)[TokenCount], const std::int8_t* p, std::size_t row,
                                   const ActivationsType& x) noexcept {
  // To the top byte of a lane, so 2²⁴ times the integer: the scales take that back.
  const __m256i eight = _mm256_broadcastq_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  const __m256i order = _mm256_load_si256(reinterpret_cast<const __m256i*>(tops_table.bytes() + row));
  const __m256 weight = _mm256_cvtepi32_ps(_mm256_shuffle_epi8(eight, order));
#pragma GCC unroll 4
  for (std::size_t t = 0; t < TokenCount; ++t) acc[t] = _mm256_fmadd_ps(weight, x(t), acc[t]);
}
inline constexpr float of_tops = 0x1p-24f;

/// acc[t] += (a row of a tile) · its activations; p is where its values begin. Half: 4 in each byte of the mask.
template <std::size_t TokenCount, bool Half, class Element, class ActivationsType>
LOSA_AVX2 inline void multiply_row(__m256 (&acc)[TokenCount], const Element* p, std::uint64_t word,
                                   const std::uint16_t* row, const ActivationsType& x) noexcept {
#pragma GCC unroll 8
  for (std::size_t g = 0; g < 8; ++g) {
    if constexpr (Half && TokenCount == 1 && std::is_same_v<Element, float>) {
      // All four lie in 16 bytes, which each half of a register may hold.
      const __m256i order = _mm256_load_si256(reinterpret_cast<const __m256i*>(lanes_table.bytes() + row[g]));
      const __m256 spread =
          _mm256_permutevar_ps(_mm256_broadcast_ps(reinterpret_cast<const __m128*>(p + 4 * g)), order);
      acc[0] = _mm256_fmadd_ps(spread, zero_unless(order, x[g](0)), acc[0]);
    } else if constexpr (Half) {
      multiply_add<TokenCount>(acc, p + 4 * g, row[g], x[g]);
    } else {
      const auto before = g == 0 ? 0 : _mm_popcnt_u64(word << (64 - 8 * g) % 64);
      multiply_add<TokenCount>(acc, p + before, row[g], x[g]);
    }
  }
}

/// offsets[8 · i + g] ← where byte g of words[i] has its table row.
LOSA_AVX2 inline void table_offsets(const std::uint64_t* words, std::uint16_t* offsets) noexcept {
  for (std::size_t i = 0; i < tile_rows; i += 2) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(words + i));
    _mm256_store_si256(reinterpret_cast<__m256i*>(offsets + 8 * i), _mm256_slli_epi16(_mm256_cvtepu8_epi16(bytes), 5));
  }
}

LOSA_AVX2 inline void pack(MatrixView<const float> x, std::size_t n, std::size_t tiles, float* dst) noexcept {
  for (std::size_t c = 0; c < tiles * tile_cols; c += 8)
    for (std::size_t t = 0; t < n; ++t, dst += 8) {
      const __m256i inside = first_lanes8(t < x.rows && c < x.cols ? x.cols - c : 0);
      _mm256_store_ps(dst, _mm256_maskload_ps(x.data + t * x.stride + c, inside));
    }
}

/// y[t, r] ← [y +] [unit · scales[i] ·] sums (row, TokenCount, 8) [+ bias[r]] for the rows of a block.
template <std::size_t TokenCount>
LOSA_AVX2 inline void store(const float* sums, const float* scales, float unit, std::size_t first_row,
                            MatrixView<float> y, const float* bias, bool accumulate) noexcept {
  const std::size_t rows = std::min(tile_rows, y.cols - first_row);
  for (std::size_t t = 0; t < std::min(TokenCount, y.rows); ++t)
    for (std::size_t i = 0; i < rows; i += 4) {
      const float* from = sums + (i * TokenCount + t) * 8;
      __m128 total = sum4(_mm256_load_ps(from), _mm256_load_ps(from + TokenCount * 8),
                          _mm256_load_ps(from + 2 * TokenCount * 8), _mm256_load_ps(from + 3 * TokenCount * 8));
      if (scales != nullptr) total = _mm_mul_ps(_mm_mul_ps(total, _mm_set1_ps(unit)), _mm_loadu_ps(scales + i));
      float* const out = y.data + t * y.stride + first_row + i;
      if (i + 4 <= rows) {  // whole vectors need no mask, and masked stores are slow on Zen
        if (bias != nullptr) total = _mm_add_ps(total, _mm_loadu_ps(bias + first_row + i));
        if (accumulate) total = _mm_add_ps(total, _mm_loadu_ps(out));
        _mm_storeu_ps(out, total);
        continue;
      }
      const __m128i inside = _mm256_castsi256_si128(first_lanes8(rows - i));
      if (bias != nullptr) total = _mm_add_ps(total, _mm_maskload_ps(bias + first_row + i, inside));
      if (accumulate) total = _mm_add_ps(total, _mm_maskload_ps(out, inside));
      _mm_maskstore_ps(out, inside, total);
    }
}

/// integers[64 · i …] ← the values of row i of a tile. A whole tile at once: read back right after they were stored, at
/// other borders than they were, they would wait for the stores.
LOSA_AVX2 inline void unpack_nibbles(const std::uint64_t* words, Int4Weights::Cursor cursor,
                                     std::int8_t* integers) noexcept {
  for (std::size_t i = 0; i < tile_rows; ++i, integers += tile_cols) {
    const auto count = static_cast<std::size_t>(_mm_popcnt_u64(words[i]));
    nibbles32(cursor.p, integers);
    if (count > 32) nibbles32(cursor.p + 16, integers + 32);
    cursor.advance(count);
  }
}

template <std::size_t TokenCount, bool Half, class WeightsType>
LOSA_AVX2 inline void multiply_blocks(const PackedLayout& w, const WeightsType& weights, std::size_t first,
                                      std::size_t last, const float* x, MatrixView<float> y, const float* bias,
                                      bool accumulate) noexcept {
  alignas(64) float sums[tile_rows * TokenCount * 8];
  alignas(64) std::uint16_t offsets[tile_rows * 8];
  [[maybe_unused]] alignas(64) std::int8_t integers[tile_rows * tile_cols + 8] = {};
  for (std::size_t b = first; b < last; ++b) {
    std::fill_n(sums, tile_rows * TokenCount * 8, 0.0f);
    const float* scales = nullptr;
    if constexpr (std::is_same_v<WeightsType, Int8Weights>) scales = weights.scales + b * tile_rows;
    for (std::size_t t = 0; t < w.tiles; ++t) {
      const std::uint64_t* const words = w.words + (b * w.tiles + t) * tile_rows;
      const Activations<TokenCount, WeightsType> tile(x + t * tile_cols * TokenCount);
      auto cursor = weights.begin(w, b, t);
      table_offsets(words, offsets);
      if constexpr (std::is_same_v<WeightsType, Int4Weights>) unpack_nibbles(words, cursor, integers);
      for (std::size_t i = 0; i < tile_rows; ++i) {
        const std::uint64_t word = words[i];
        const auto count = static_cast<std::size_t>(_mm_popcnt_u64(word));
        const std::uint16_t* const row = offsets + 8 * i;
        float* const sum = sums + i * TokenCount * 8;
        // 2 KiB ahead of the values, 1 KiB of the mask: without, a tenth slower or more (Zen 3).
        _mm_prefetch(reinterpret_cast<const char*>(cursor.p) + 2048, _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(words + i) + 1024, _MM_HINT_T0);
        __m256 acc[TokenCount];
        if constexpr (std::is_same_v<WeightsType, Int4Weights>) {
#pragma GCC unroll 4
          for (std::size_t k = 0; k < TokenCount; ++k) acc[k] = _mm256_setzero_ps();
          multiply_row<TokenCount, Half>(acc, integers + i * tile_cols, word, row, tile);
          const __m256 scale = _mm256_set1_ps(widen(cursor.scales[i]) * of_tops);
#pragma GCC unroll 4
          for (std::size_t k = 0; k < TokenCount; ++k)
            _mm256_store_ps(sum + k * 8, _mm256_fmadd_ps(scale, acc[k], _mm256_load_ps(sum + k * 8)));
        } else {
#pragma GCC unroll 4
          for (std::size_t k = 0; k < TokenCount; ++k) acc[k] = _mm256_load_ps(sum + k * 8);
          multiply_row<TokenCount, Half>(acc, cursor.p, word, row, tile);
#pragma GCC unroll 4
          for (std::size_t k = 0; k < TokenCount; ++k) _mm256_store_ps(sum + k * 8, acc[k]);
        }
        cursor.advance(count);
      }
    }
    store<TokenCount>(sums, scales, of_tops, b * tile_rows, y, bias, accumulate);
  }
}

template <std::size_t TokenCount, class WeightsType>
LOSA_AVX2 inline void multiply(const PackedLayout& w, const WeightsType& weights, std::size_t first, std::size_t last,
                               const float* x, MatrixView<float> y, const float* bias, bool accumulate) noexcept {
  if constexpr (TokenCount == 1)
    if (w.half) return multiply_blocks<TokenCount, true>(w, weights, first, last, x, y, bias, accumulate);
  multiply_blocks<TokenCount, false>(w, weights, first, last, x, y, bias, accumulate);
}

/// Up to four tokens as the kernels above read them.
class FewTokens {
 public:
  static constexpr std::size_t most = 4;

  /// Sums of integers hold them times 2²⁴ until they meet their scales.
  template <class WeightsType>
  static Rounding rounding(std::size_t, std::size_t cols) noexcept {
    if constexpr (!std::is_same_v<WeightsType, Int8Weights> && !std::is_same_v<WeightsType, Int4Weights>) return {};
    constexpr float largest = std::numeric_limits<float>::max() / 127 * of_tops;
    return {.most = largest / static_cast<float>(std::max<std::size_t>(1, cols))};
  }

  static std::size_t need(std::size_t tokens, std::size_t tiles) noexcept {
    return Arena::need<float>(tiles * tile_cols * std::bit_ceil(tokens));
  }
  FewTokens(Arena& arena, MatrixView<const float> x, std::size_t tiles) noexcept
      : count_(std::bit_ceil(x.rows)), packed_(arena.take<float>(tiles * tile_cols * count_)) {
    pack(x, count_, tiles, packed_);
  }
  /// y[t, r] ← [y +] ⟨W[r], x[t]⟩ [+ bias[r]] for the rows of the row blocks from `first` to `last`.
  template <class WeightsType>
  void multiply(const PackedLayout& w, const WeightsType& weights, std::size_t first, std::size_t last,
                MatrixView<float> y, const float* bias, bool accumulate) const noexcept {
    switch (count_) {
      case 1:
        return expand::multiply<1>(w, weights, first, last, packed_, y, bias, accumulate);
      case 2:
        return expand::multiply<2>(w, weights, first, last, packed_, y, bias, accumulate);
      default:
        return expand::multiply<4>(w, weights, first, last, packed_, y, bias, accumulate);
    }
  }

 private:
  std::size_t count_;
  float* packed_;
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx2::expand
#endif
