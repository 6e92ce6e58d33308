#pragma once
// Kernels of AVX512-BF16 for bf16 weights and more than eight tokens: activations are rounded to bf16 when they are
// transposed, and vdpbf16ps multiplies two kept weights of a row at once with their columns, for 16 tokens:
//
//   columns a, b of a panel   a0 a1 a2 …   b0 b1 b2 …        bf16, 32 tokens a vector
//   vpunpcklwd, vpunpckhwd    a0 b0 a1 b1 …                  pairs
//   vdpbf16ps                 sum[t] += w[a] · a[t] + w[b] · b[t]
//
// An activation is off by at most 2⁻⁸ of itself. Denormal activations, weights and sums count as 0 (the instruction's
// rule); an activation above 3.39e38 becomes infinite.
//
// A panel takes half the memory of one in float: the columns of a range of tiles (TileSizes) lie side by side at the
// start of the range.

#include <losa/gemm/target/avx512_vector.hpp>
#if defined(LOSA_AVX512)

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <losa/core/types.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/bitmask/avx512.hpp>
#include <losa/gemm/kernel.hpp>
#include <losa/gemm/operation.hpp>
#include <losa/gemm/panel/multiply.hpp>
#include <losa/gemm/panel/tile.hpp>
#include <losa/gemm/target/avx512_bf16.hpp>
#include <losa/gemm/weights.hpp>

LOSA_AVX512_BEGIN

namespace losa::inline v0::detail::inline LOSA_ARCH::avx512_bf16 {

// In assembly, as compilers disagree on the type of bf16 vectors: sum + a.low · b.low + a.high · b.high in every lane.
LOSA_AVX512 inline __m512 multiply_pairs(__m512 sum, __m512i a, __m512i b) noexcept {
  __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}
LOSA_AVX512 inline __m256 multiply_pairs(__m256 sum, __m256i a, __m256i b) noexcept {
  __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}

/// 16 floats rounded to nearest even, as 16-bit integers in 32-bit lanes. A NaN stays one.
LOSA_AVX512 inline __m512i round_to_bf16(__m512 v) noexcept {
  __m512i x = _mm512_castps_si512(v);
  __asm__("" : "+v"(x));  // or the test for NaN is folded under -ffast-math (core/opaque.hpp)
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(x, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(x, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan =
      _mm512_cmpgt_epu32_mask(_mm512_and_si512(x, _mm512_set1_epi32(0x7fffffff)), _mm512_set1_epi32(0x7f800000));
  return _mm512_srli_epi32(_mm512_mask_or_epi32(rounded, nan, x, _mm512_set1_epi32(0x00400000)), 16);
}

/// Sums of a row for Vectors · 8 tokens. Two sets, for two pairs of weights at a time: a vdpbf16ps waits 6 cycles for
/// its sum.
template <std::size_t Vectors>
struct PairSums {
  static constexpr std::size_t registers = Vectors / 4;  // vectors of activations, each for two of sums
  __m512 sums[2][2 * registers];

  LOSA_AVX512 void load(const float* from) noexcept {
#pragma GCC unroll 4
    for (std::size_t z = 0; z < 2 * registers; ++z) {
      sums[0][z] = _mm512_load_ps(from + 16 * z);
      sums[1][z] = _mm512_setzero_ps();
    }
  }
  template <std::size_t Set>
  LOSA_AVX512 void add(std::int32_t weights, const char* a, const char* b) noexcept {
    const __m512i pair = _mm512_set1_epi32(weights);
#pragma GCC unroll 2
    for (std::size_t z = 0; z < registers; ++z) {
      const __m512i x = _mm512_load_si512(a + 64 * z);
      const __m512i y = _mm512_load_si512(b + 64 * z);
      sums[Set][2 * z] = multiply_pairs(sums[Set][2 * z], pair, _mm512_unpacklo_epi16(x, y));
      sums[Set][2 * z + 1] = multiply_pairs(sums[Set][2 * z + 1], pair, _mm512_unpackhi_epi16(x, y));
    }
  }
  LOSA_AVX512 void store(float* to) const noexcept {
#pragma GCC unroll 4
    for (std::size_t z = 0; z < 2 * registers; ++z) _mm512_store_ps(to + 16 * z, _mm512_add_ps(sums[0][z], sums[1][z]));
  }
};
template <>
struct PairSums<2> {
  __m256 sums[2][2];

  LOSA_AVX512 void load(const float* from) noexcept {
    for (std::size_t z = 0; z < 2; ++z) {
      sums[0][z] = _mm256_load_ps(from + 8 * z);
      sums[1][z] = _mm256_setzero_ps();
    }
  }
  template <std::size_t Set>
  LOSA_AVX512 void add(std::int32_t weights, const char* a, const char* b) noexcept {
    const __m256i pair = _mm256_set1_epi32(weights);
    const __m256i x = _mm256_load_si256(reinterpret_cast<const __m256i*>(a));
    const __m256i y = _mm256_load_si256(reinterpret_cast<const __m256i*>(b));
    sums[Set][0] = multiply_pairs(sums[Set][0], pair, _mm256_unpacklo_epi16(x, y));
    sums[Set][1] = multiply_pairs(sums[Set][1], pair, _mm256_unpackhi_epi16(x, y));
  }
  LOSA_AVX512 void store(float* to) const noexcept {
    for (std::size_t z = 0; z < 2; ++z) _mm256_store_ps(to + 8 * z, _mm256_add_ps(sums[0][z], sums[1][z]));
  }
};

struct BitmaskKernels : private avx512::BitmaskKernels {
  static constexpr std::size_t lanes = avx512::BitmaskKernels::lanes;
  template <class WeightsType>
  using FewTokens = avx512::BitmaskKernels::FewTokens<WeightsType>;
  template <class WeightsType>
  static Rounding rounding(std::size_t tokens) noexcept {
    return {.step = in_pairs(tokens) ? 0x1p-8 : 0};
  }
  using avx512::BitmaskKernels::unpack_panel;

  /// Panels of 8 tokens stay in float.
  static bool in_pairs(std::size_t width) noexcept { return width > lanes; }

  /// As avx2::BitmaskKernels::pack_panel, which begins at a range of tiles. The tokens of 16 or 32 lie so that
  /// unpacking puts them in order.
  LOSA_AVX512 static void pack_panel(const float* x, std::size_t stride, std::size_t tokens, std::size_t cols,
                                     float* panel, std::size_t width) noexcept {
    if (!in_pairs(width)) return avx512::BitmaskKernels::pack_panel(x, stride, tokens, cols, panel, width);
    const std::size_t range = TileSizes(width).tiles * tile_cols;
    alignas(64) float column_data[tile_cols * 8 * lanes];
    for (std::size_t first = 0; first < cols; first += tile_cols) {
      const std::size_t n = std::min(tile_cols, cols - first);
      avx512::BitmaskKernels::pack_panel(x + first, stride, tokens, n, column_data, width);
      auto* const to = reinterpret_cast<std::uint16_t*>(panel + first / range * range * width) + first % range * width;
      for (std::size_t c = 0; c < n; ++c) {
        const float* const from = column_data + c * width;
        if (width == 16) {
          const __m512i all = round_to_bf16(_mm512_load_ps(from));
          const __m256i packed = _mm256_packus_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
          _mm256_store_si256(reinterpret_cast<__m256i*>(to + c * width), packed);
        } else {
          for (std::size_t t = 0; t < width; t += 32)
            _mm512_store_si512(to + c * width + t, _mm512_packus_epi32(round_to_bf16(_mm512_load_ps(from + t)),
                                                                       round_to_bf16(_mm512_load_ps(from + t + 16))));
        }
      }
    }
  }

  /// sums[row] += value · panel[column]; Vectors of 8 tokens per column and row.
  template <std::size_t Vectors>
  LOSA_AVX512 static void gather(const TileLists& lists, const float* panel, float* sums) noexcept {
    if constexpr (Vectors == 1) {
      return avx512::BitmaskKernels::gather<1>(lists, panel, sums);
    } else {
      const auto* const column_data = reinterpret_cast<const char*>(panel);
      for (std::size_t r = 0; r < lists.rows; ++r) {
        if (lists.ahead != nullptr) __builtin_prefetch(lists.ahead + r * 16, 0, 2);
        const std::uint16_t* entry = lists.entries + lists.starts[r];
        const auto* value = reinterpret_cast<const bf16*>(lists.values) + lists.starts[r];
        const auto* const end = reinterpret_cast<const bf16*>(lists.values) + lists.ends[r];
        PairSums<Vectors> sum;
        sum.load(sums + r * Vectors * lanes);
        for (; value < end; entry += 4, value += 4) {
          std::int32_t pairs[2];
          std::memcpy(pairs, value, sizeof pairs);
          std::uint64_t four;
          std::memcpy(&four, entry, sizeof four);
          sum.template add<0>(pairs[0], column_data + 4 * (four & 0xffff), column_data + 4 * (four >> 16 & 0xffff));
          sum.template add<1>(pairs[1], column_data + 4 * (four >> 32 & 0xffff), column_data + 4 * (four >> 48));
        }
        sum.store(sums + r * Vectors * lanes);
      }
    }
  }

  /// As avx512::BitmaskKernels::decode, the values as bf16 where panels are.
  template <class WeightsType>
  LOSA_AVX512 static void decode(const PackedLayout& w, const WeightsType& weights, const TileRange& range,
                                 std::size_t scale, std::uint16_t* entries, float* values, std::uint32_t* starts,
                                 std::uint32_t* ends) noexcept {
    if (in_pairs(2 * scale))
      avx512::BitmaskKernels::decode(w, weights, range, scale, entries, reinterpret_cast<bf16*>(values), starts, ends);
    else
      avx512::BitmaskKernels::decode(w, weights, range, scale, entries, values, starts, ends);
  }
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx512_bf16
LOSA_AVX512_END

namespace losa::inline v0::detail {

template <>
struct Kernel<avx512_bf16::Target, Multiply, FloatWeights<bf16>> {
  using Schedule = PanelMultiply<avx512_bf16::BitmaskKernels, FloatWeights<bf16>>;
};

}  // namespace losa::inline v0::detail
#endif
