#pragma once
// The vector operations that the AVX-512 kernels share: widening loads of stored weights, sums across lanes. Every
// function carries the target attribute, as in avx2_vector.hpp. The instruction sets are those of Ice Lake and Zen 4:
// without VBMI2 nothing spreads or gathers bytes and words by a mask, and the AVX2 kernels are used.

#include <losa/gemm/target/avx2_vector.hpp>
#if defined(LOSA_AVX2)

#include <cstddef>
#include <cstdint>

#include <losa/core/types.hpp>
#include <losa/gemm/arch.hpp>

#define LOSA_AVX512                                                                                                    \
  __attribute__((                                                                                                      \
      target("avx512f,avx512dq,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni,avx512vpopcntdq,avx512bitalg,avx2," \
             "fma,bmi,bmi2,f16c,popcnt"),                                                                              \
      aligned(64)))

// GCC 12 says of its own AVX-512 intrinsics that they read what is not initialised (GCC bug 105593).
#if defined(__clang__)
#define LOSA_AVX512_BEGIN
#define LOSA_AVX512_END
#else
#define LOSA_AVX512_BEGIN                                                              \
  _Pragma("GCC diagnostic push") _Pragma("GCC diagnostic ignored \"-Wuninitialized\"") \
      _Pragma("GCC diagnostic ignored \"-Wmaybe-uninitialized\"")
#define LOSA_AVX512_END _Pragma("GCC diagnostic pop")
#endif

LOSA_AVX512_BEGIN

namespace losa::inline v0::detail::inline LOSA_ARCH::avx512 {

/// 16 stored weights as floats.
LOSA_AVX512 inline __m512 load16(const float* p) noexcept { return _mm512_loadu_ps(p); }
LOSA_AVX512 inline __m512 load16(const bf16* p) noexcept {
  const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(packed), 16));
}
LOSA_AVX512 inline __m512 load16(const f16* p) noexcept {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
LOSA_AVX512 inline __m512 load16(const std::int8_t* p) noexcept {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}

// Spreading and gathering by a mask. On Zen 4 these instructions wait for what was in their destination, zeroing or
// not: one takes 5 cycles if the last one wrote the same register, 1.3 into one that was just set to zero. Hence
// assembly, for which the compiler must clear a register.

template <std::size_t n>
struct __attribute__((may_alias)) Bits {
  unsigned char bytes[n];
};

// Masks come from memory: moved from a register and shifted they take the place of a spread (Zen 4: 2.1 cycles for both
// instead of 2.9).
LOSA_AVX512 inline __mmask16 load_mask16(const std::uint64_t* word, std::size_t from) noexcept {
  __mmask16 k;
  __asm__("kmovw %1, %0" : "=Yk"(k) : "m"(reinterpret_cast<const Bits<2>*>(word)[from / 16]));
  return k;
}
LOSA_AVX512 inline __mmask32 load_mask32(const std::uint64_t* word, std::size_t from) noexcept {
  __mmask32 k;
  __asm__("kmovd %1, %0" : "=Yk"(k) : "m"(reinterpret_cast<const Bits<4>*>(word)[from / 32]));
  return k;
}
LOSA_AVX512 inline __mmask64 load_mask64(const std::uint64_t* word) noexcept {
  __mmask64 k;
  __asm__("kmovq %1, %0" : "=Yk"(k) : "m"(*word));
  return k;
}

/// The first bytes of v at the positions of the ones of k, 0 elsewhere.
LOSA_AVX512 inline __m512i expand_bytes(__mmask64 k, __m512i v) noexcept {
  __m512i to = _mm512_setzero_si512();
  __asm__("vpexpandb %1, %0%{%2%}%{z%}" : "+v"(to) : "v"(v), "Yk"(k));
  return to;
}
/// The same with the first words of v.
LOSA_AVX512 inline __m512i expand_words(__mmask32 k, __m512i v) noexcept {
  __m512i to = _mm512_setzero_si512();
  __asm__("vpexpandw %1, %0%{%2%}%{z%}" : "+v"(to) : "v"(v), "Yk"(k));
  return to;
}
LOSA_AVX512 inline __m256i expand_words(__mmask16 k, __m256i v) noexcept {
  __m256i to = _mm256_setzero_si256();
  __asm__("vpexpandw %1, %0%{%2%}%{z%}" : "+v"(to) : "v"(v), "Yk"(k));
  return to;
}
/// The same with the first floats of v.
LOSA_AVX512 inline __m512 expand_floats(__mmask16 k, __m512 v) noexcept {
  __m512 to = _mm512_setzero_ps();
  __asm__("vexpandps %1, %0%{%2%}%{z%}" : "+v"(to) : "v"(v), "Yk"(k));
  return to;
}
/// The bytes of v at the positions of the ones of k, side by side, 0 after the last.
LOSA_AVX512 inline __m512i compress_bytes(std::uint64_t k, __m512i v) noexcept {
  __m512i to = _mm512_setzero_si512();
  __asm__("vpcompressb %1, %0%{%2%}%{z%}" : "+v"(to) : "v"(v), "Yk"(__mmask64{k}));
  return to;
}

/// 64 bytes ← nibbles − 8 of 32, low ones first.
LOSA_AVX512 inline __m512i nibbles64(const std::uint8_t* p) noexcept {
  // Every four bytes become eight that begin at a nibble each; two bits of the next one do no harm to the look-up.
  const __m512i words = _mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  const __m512i shifted = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(0x1c1814100c080400), words);
  return _mm512_permutexvar_epi8(
      shifted, _mm512_set4_epi32(0x07060504, 0x03020100, static_cast<int>(0xfffefdfc), static_cast<int>(0xfbfaf9f8)));
}

/// Mask of the first n lanes, all of them if n ≥ 16.
LOSA_AVX512 inline __mmask16 first_lanes16(std::size_t n) noexcept {
  return static_cast<__mmask16>(_bzhi_u32(0xffff, static_cast<unsigned>(n < 16 ? n : 16)));
}

/// The sums of four vectors. Eight lanes of zeros change no bit of what avx2::sum4 gives for the others: an adapter
/// that grows from 8 to 16 components keeps its products.
LOSA_AVX512 inline __m128 sum4(__m512 a, __m512 b, __m512 c, __m512 d) noexcept {
  const __m512 ab = _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
  const __m512 cd = _mm512_add_ps(_mm512_shuffle_ps(c, d, 0x88), _mm512_shuffle_ps(c, d, 0xdd));
  const __m512 quarters = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x88), _mm512_shuffle_ps(ab, cd, 0xdd));
  const __m256 halves = _mm256_add_ps(_mm512_castps512_ps256(quarters), _mm512_extractf32x8_ps(quarters, 1));
  return _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
}

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx512
LOSA_AVX512_END
#endif
