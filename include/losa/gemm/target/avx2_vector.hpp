#pragma once
// The few vector operations that the AVX2 kernels are made of: widening loads of stored weights, sums across lanes,
// transposition.
//
// Every function carries the target attribute, so a consumer compiles without -m flags. Lambdas do not inherit it in
// GCC or Clang and are not used here; loops over register arrays carry an unroll pragma, without which GCC keeps the
// arrays in memory (20–36 % slower).

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include <losa/core/types.hpp>
#include <losa/gemm/arch.hpp>

// Aligned, so that the speed of a short loop does not follow from where the linker puts it (Zen 4, dx at 8 tokens: 5.1
// ms or 5.8 with the same instructions).
#define LOSA_AVX2 __attribute__((target("avx2,fma,bmi,bmi2,f16c,popcnt"), aligned(64)))

namespace losa::inline v0::detail::inline LOSA_ARCH::avx2 {

/// Four stored weights as floats.
LOSA_AVX2 inline __m128 load4(const float* p) noexcept { return _mm_loadu_ps(p); }
LOSA_AVX2 inline __m128 load4(const bf16* p) noexcept {
  const __m128i packed = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return _mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(packed), 16));
}
LOSA_AVX2 inline __m128 load4(const f16* p) noexcept {
  return _mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
LOSA_AVX2 inline __m128 load4(const std::int8_t* p) noexcept {
  return _mm_cvtepi32_ps(_mm_cvtepi8_epi32(_mm_loadu_si32(p)));
}

/// Eight stored weights as floats.
LOSA_AVX2 inline __m256 load8(const float* p) noexcept { return _mm256_loadu_ps(p); }
LOSA_AVX2 inline __m256 load8(const bf16* p) noexcept {
  const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(packed), 16));
}
LOSA_AVX2 inline __m256 load8(const f16* p) noexcept {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

/// Eight small integers as floats.
LOSA_AVX2 inline __m256 integers8(const std::int8_t* p) noexcept {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}

/// to[0 … 31] ← nibbles − 8 of 16 bytes, low ones first.
LOSA_AVX2 inline void nibbles32(const std::uint8_t* p, std::int8_t* to) noexcept {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m128i low = _mm_and_si128(bytes, _mm_set1_epi8(15));
  const __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
  const __m128i eight = _mm_set1_epi8(8);
  _mm_store_si128(reinterpret_cast<__m128i*>(to), _mm_sub_epi8(_mm_unpacklo_epi8(low, high), eight));
  _mm_store_si128(reinterpret_cast<__m128i*>(to + 16), _mm_sub_epi8(_mm_unpackhi_epi8(low, high), eight));
}

/// The sums of four vectors.
LOSA_AVX2 inline __m128 sum4(__m256 a, __m256 b, __m256 c, __m256 d) noexcept {
  const __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  return _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
}

/// All lanes ← lane Lane.
template <int Lane>
LOSA_AVX2 inline __m256 splat(__m256 both) noexcept {
  return _mm256_permute_ps(both, Lane * 0x55);
}
LOSA_AVX2 inline __m256 twice(__m128 v) noexcept { return _mm256_set_m128(v, v); }

/// Mask of the first n lanes, all of them if n ≥ 8.
LOSA_AVX2 inline __m256i first_lanes8(std::size_t n) noexcept {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/// Brings the line to L2.
LOSA_AVX2 inline void prefetch(const void* line) noexcept { _mm_prefetch(static_cast<const char*>(line), _MM_HINT_T1); }

/// Transposes 8 × 8 floats held in eight vectors.
LOSA_AVX2 inline void transpose8(__m256 (&r)[8]) noexcept {
  __m256 a[8];
  __m256 b[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    a[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    b[4 * i] = _mm256_shuffle_ps(a[4 * i], a[4 * i + 2], 0x44);
    b[4 * i + 1] = _mm256_shuffle_ps(a[4 * i], a[4 * i + 2], 0xee);
    b[4 * i + 2] = _mm256_shuffle_ps(a[4 * i + 1], a[4 * i + 3], 0x44);
    b[4 * i + 3] = _mm256_shuffle_ps(a[4 * i + 1], a[4 * i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
    r[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
  }
}

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx2
#endif
