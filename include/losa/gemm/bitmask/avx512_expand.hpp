#pragma once
// The AVX-512 kernel for one to four tokens: the packed values of 16 columns are spread to their positions in a
// register and multiplied there. It costs the same for every mask, so it suits a product that waits for memory.
//
//   for each row block, column tile: 64 activations of each token
//     for each row: 4 × { value load at the popcount of the mask before it; spread; multiply-add for each token }
//
// A lane that the mask prunes multiplies the activation by 0. Integer weights come here only with activations that
// integers.hpp refuses.

#include <losa/gemm/target/avx512_vector.hpp>
#if defined(LOSA_AVX512)

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <losa/core/types.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/arena.hpp>
#include <losa/gemm/operation.hpp>
#include <losa/gemm/packed_structure.hpp>
#include <losa/gemm/target/avx512_panels.hpp>
#include <losa/gemm/weights.hpp>

LOSA_AVX512_BEGIN

namespace losa::inline v0::detail::inline LOSA_ARCH::avx512::expand {

/// The packed values from p on at the positions of the ones among bits Quarter · 16 … of `word`; 0 elsewhere. (Zen 4:
/// floats 3.2 ns for 64 columns with masks from a register and 3.5 with masks from memory, halves 3.6 and 3.3.)
template <int Quarter>
LOSA_AVX512 inline __m512 spread(const float* p, const std::uint64_t* word) noexcept {
  return expand_floats(static_cast<__mmask16>(*word >> 16 * Quarter), _mm512_loadu_ps(p));
}
template <int Quarter>
LOSA_AVX512 inline __m512 spread(const f16* p, const std::uint64_t* word) noexcept {
  const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_cvtph_ps(expand_words(load_mask16(word, 16 * Quarter), packed));
}
template <int Quarter>
LOSA_AVX512 inline __m512 spread(const std::int8_t* p, const std::uint64_t* word) noexcept {
  const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m128i bytes = _mm_maskz_expand_epi8(static_cast<__mmask16>(*word >> 16 * Quarter), packed);
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}

/// Kept weights before column c of a row with mask `word`.
template <int c>
LOSA_AVX512 inline std::size_t kept_before(std::uint64_t word) noexcept {
  return c == 0 ? 0 : static_cast<std::size_t>(_mm_popcnt_u64(word << (64 - c) % 64));
}

/// acc[t] += scale · (16 columns from 16 · Quarter on of a row of a tile) · x[Quarter][t]; p is where the row's values
/// begin, `word` its mask. Only integers have a scale: it comes first, as their sums may be too large for a float
/// before it.
template <int Quarter, std::size_t TokenCount, class Element>
LOSA_AVX512 inline void multiply_group(__m512 (&acc)[TokenCount], const Element* p, const std::uint64_t* word,
                                       const __m512 (&x)[4][TokenCount], [[maybe_unused]] __m512 scale) noexcept {
  __m512 weight = spread<Quarter>(p + kept_before<16 * Quarter>(*word), word);
  if constexpr (std::is_same_v<Element, std::int8_t>) weight = _mm512_mul_ps(weight, scale);
#pragma GCC unroll 4
  for (std::size_t t = 0; t < TokenCount; ++t) acc[t] = _mm512_fmadd_ps(weight, x[Quarter][t], acc[t]);
}
/// 32 columns of bf16 at once: a word in the upper half of a lane is a float.
template <int HalfRow, std::size_t TokenCount>
LOSA_AVX512 inline void multiply_half(__m512 (&acc)[TokenCount], const bf16* p, const std::uint64_t* word,
                                      const __m512 (&x)[4][TokenCount]) noexcept {
  const __m512i words =
      expand_words(load_mask32(word, 32 * HalfRow), _mm512_loadu_si512(p + kept_before<32 * HalfRow>(*word)));
  const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
  const __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
#pragma GCC unroll 4
  for (std::size_t t = 0; t < TokenCount; ++t)
    acc[t] = _mm512_fmadd_ps(odd, x[2 * HalfRow + 1][t], _mm512_fmadd_ps(even, x[2 * HalfRow][t], acc[t]));
}
template <std::size_t TokenCount, class Element>
LOSA_AVX512 inline void multiply_row(__m512 (&acc)[TokenCount], const Element* p, const std::uint64_t* word,
                                     const __m512 (&x)[4][TokenCount], __m512 scale) noexcept {
  if constexpr (std::is_same_v<Element, bf16>) {
    multiply_half<0>(acc, p, word, x);
    multiply_half<1>(acc, p, word, x);
  } else {
    multiply_group<0>(acc, p, word, x, scale);
    multiply_group<1>(acc, p, word, x, scale);
    multiply_group<2>(acc, p, word, x, scale);
    multiply_group<3>(acc, p, word, x, scale);
  }
}

/// 16 columns of token t from c on; 0 past the last ones.
LOSA_AVX512 inline __m512 load_columns(MatrixView<const float> x, std::size_t t, std::size_t c) noexcept {
  const __mmask16 inside = first_lanes16(t < x.rows && c < x.cols ? x.cols - c : 0);
  return _mm512_maskz_loadu_ps(inside, x.data + t * x.stride + c);
}

/// dst (columns / 16, n, 16) ← x, or with `even_odd` of every 32 columns first the even and then the odd ones.
template <bool even_odd>
LOSA_AVX512 inline void pack(MatrixView<const float> x, std::size_t n, std::size_t tiles, float* dst) noexcept {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  for (std::size_t c = 0; c < tiles * tile_cols; c += 32, dst += n * 32)
    for (std::size_t t = 0; t < n; ++t) {
      const __m512 low = load_columns(x, t, c);
      const __m512 high = load_columns(x, t, c + 16);
      _mm512_store_ps(dst + t * 16, even_odd ? _mm512_permutex2var_ps(low, even, high) : low);
      _mm512_store_ps(dst + (n + t) * 16, even_odd ? _mm512_permutex2var_ps(low, odd, high) : high);
    }
}

template <std::size_t TokenCount, class WeightsType>
LOSA_AVX512 inline void multiply(const PackedLayout& w, const WeightsType& weights, std::size_t first, std::size_t last,
                                 const float* x, MatrixView<float> y, const float* bias, bool accumulate) noexcept {
  alignas(64) float sums[tile_rows * TokenCount * 16];
  for (std::size_t b = first; b < last; ++b) {
    std::fill_n(sums, tile_rows * TokenCount * 16, 0.0f);
    for (std::size_t t = 0; t < w.tiles; ++t) {
      const std::uint64_t* const words = w.words + (b * w.tiles + t) * tile_rows;
      // Memory gives 64 bytes in a cycle, less across two lines, as values lie: activations stay in registers.
      __m512 x_columns[4][TokenCount];
#pragma GCC unroll 4
      for (std::size_t g = 0; g < 4; ++g)
#pragma GCC unroll 4
        for (std::size_t k = 0; k < TokenCount; ++k)
          x_columns[g][k] = _mm512_load_ps(x + ((t * 4 + g) * TokenCount + k) * 16);
      for (std::size_t i = 0; i < tile_rows; i += 8)
        _mm_prefetch(reinterpret_cast<const char*>(words + i) + 1024, _MM_HINT_T0);
      auto cursor = weights.begin(w, b, t);
      for (std::size_t i = 0; i < tile_rows; ++i) {
        float* const sum = sums + i * TokenCount * 16;
        _mm_prefetch(reinterpret_cast<const char*>(cursor.p) + 4096, _MM_HINT_T0);
        __m512 acc[TokenCount];
#pragma GCC unroll 4
        for (std::size_t k = 0; k < TokenCount; ++k) acc[k] = _mm512_load_ps(sum + k * 16);
        if constexpr (std::is_same_v<WeightsType, Int4Weights>) {
          alignas(64) std::int8_t integers[tile_cols + 16];
          _mm512_store_si512(integers, nibbles64(cursor.p));
          multiply_row<TokenCount>(acc, integers, words + i, x_columns, _mm512_set1_ps(widen(cursor.scales[i])));
        } else if constexpr (std::is_same_v<WeightsType, Int8Weights>) {
          multiply_row<TokenCount>(acc, cursor.p, words + i, x_columns, _mm512_set1_ps(cursor.scales[i]));
        } else {
          multiply_row<TokenCount>(acc, cursor.p, words + i, x_columns, _mm512_setzero_ps());
        }
#pragma GCC unroll 4
        for (std::size_t k = 0; k < TokenCount; ++k) _mm512_store_ps(sum + k * 16, acc[k]);
        cursor.advance(static_cast<std::size_t>(_mm_popcnt_u64(words[i])));
      }
    }
    store_rows<TokenCount>(sums, nullptr, b * tile_rows, y, bias, accumulate);
  }
}

/// Tokens as the kernels above read them, in groups of one, two or four; bf16 weights take them in the order even_odd.
template <bool even_odd>
class FewTokens {
 public:
  static constexpr std::size_t most = 4;

  template <class WeightsType>
  static Rounding rounding(std::size_t, std::size_t) noexcept {
    return {};
  }

  static std::size_t need(std::size_t tokens, std::size_t tiles) noexcept {
    return Arena::need<float>(tiles * tile_cols * (tokens < 4 ? std::bit_ceil(tokens) : (tokens + 3) / 4 * 4));
  }
  FewTokens(Arena& arena, MatrixView<const float> x, std::size_t tiles) noexcept
      : tokens_(x.rows),
        step_(tiles * tile_cols * group()),
        packed_(arena.take<float>((tokens_ + group() - 1) / group() * step_)) {
    for (std::size_t t = 0; t < tokens_; t += group())
      pack<even_odd>({x.data + t * x.stride, std::min(group(), tokens_ - t), x.cols, x.stride}, group(), tiles,
                     packed_ + t / group() * step_);
  }
  /// y[t, r] ← [y +] ⟨W[r], x[t]⟩ [+ bias[r]] for the rows of the row blocks from `first` to `last`.
  template <class WeightsType>
  void multiply(const PackedLayout& w, const WeightsType& weights, std::size_t first, std::size_t last,
                MatrixView<float> y, const float* bias, bool accumulate) const noexcept {
    for (std::size_t t = 0; t < tokens_; t += group()) {
      const float* const x = packed_ + t / group() * step_;
      const MatrixView<float> out{y.data + t * y.stride, std::min(group(), tokens_ - t), y.cols, y.stride};
      switch (group()) {
        case 1:
          expand::multiply<1>(w, weights, first, last, x, out, bias, accumulate);
          break;
        case 2:
          expand::multiply<2>(w, weights, first, last, x, out, bias, accumulate);
          break;
        default:
          expand::multiply<4>(w, weights, first, last, x, out, bias, accumulate);
      }
    }
  }

 private:
  std::size_t group() const noexcept { return std::min<std::size_t>(4, std::bit_ceil(tokens_)); }

  std::size_t tokens_;
  std::size_t step_;
  float* packed_;
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx512::expand
LOSA_AVX512_END
#endif
