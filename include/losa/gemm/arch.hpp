#pragma once
// LOSA_ARCH names an inline namespace after the instruction sets that this translation unit is compiled for. Code whose
// machine instructions follow from compile flags lives in it, so that translation units built with different -m flags
// never share one copy of an inline function, of which the linker would keep either. Every backend also asks
// compiled_for_this_cpu() before it calls itself supported.

#include <losa/core/cpu.hpp>

#if defined(__AVX512F__)
#define LOSA_ARCH_BASE avx512
#elif defined(__AVX2__)
#define LOSA_ARCH_BASE avx2
#elif defined(__AVX__)
#define LOSA_ARCH_BASE avx
#elif defined(__SSE4_1__)
#define LOSA_ARCH_BASE sse4
#elif defined(__SSSE3__) || defined(__SSE3__)
#define LOSA_ARCH_BASE sse3
#elif defined(__x86_64__) || defined(__i386__)
#define LOSA_ARCH_BASE sse2
#elif defined(__ARM_FEATURE_SVE)
#define LOSA_ARCH_BASE sve
#elif defined(__aarch64__) || defined(__ARM_NEON)
#define LOSA_ARCH_BASE neon
#else
#define LOSA_ARCH_BASE generic
#endif

#if defined(__FMA__)
#define LOSA_ARCH_FMA _fma
#else
#define LOSA_ARCH_FMA
#endif

#if defined(__AVX512VBMI2__)
#define LOSA_ARCH_512 _vbmi2
#elif defined(__AVX512VNNI__)
#define LOSA_ARCH_512 _vnni
#elif defined(__AVX512VBMI__)
#define LOSA_ARCH_512 _vbmi
#elif defined(__AVX512BW__)
#define LOSA_ARCH_512 _bw
#else
#define LOSA_ARCH_512
#endif

#if defined(__BMI2__)
#define LOSA_ARCH_BITS _bmi2
#elif defined(__POPCNT__)
#define LOSA_ARCH_BITS _popcnt
#else
#define LOSA_ARCH_BITS
#endif

#if defined(__FAST_MATH__)
#define LOSA_ARCH_MATH _fast
#else
#define LOSA_ARCH_MATH
#endif

#define LOSA_ARCH_PASTE(a, b, c, d, e) arch_##a##b##c##d##e
#define LOSA_ARCH_JOIN(a, b, c, d, e) LOSA_ARCH_PASTE(a, b, c, d, e)
#define LOSA_ARCH LOSA_ARCH_JOIN(LOSA_ARCH_BASE, LOSA_ARCH_FMA, LOSA_ARCH_512, LOSA_ARCH_BITS, LOSA_ARCH_MATH)

namespace losa::inline v0::detail::inline LOSA_ARCH {

/// True if the processor has every instruction set that the compiler was allowed to use here.
inline bool compiled_for_this_cpu() noexcept {
  bool all = true;
#if defined(__x86_64__) || defined(__i386__)
  [[maybe_unused]] const CpuFeatures& has = cpu();
#if defined(__SSE3__)
  all = all && has.sse3;
#endif
#if defined(__SSSE3__)
  all = all && has.ssse3;
#endif
#if defined(__SSE4_1__)
  all = all && has.sse41;
#endif
#if defined(__SSE4_2__)
  all = all && has.sse42;
#endif
#if defined(__POPCNT__)
  all = all && has.popcnt;
#endif
#if defined(__AVX__)
  all = all && has.avx;
#endif
#if defined(__F16C__)
  all = all && has.f16c;
#endif
#if defined(__FMA__)
  all = all && has.fma;
#endif
#if defined(__AVX2__)
  all = all && has.avx2;
#endif
#if defined(__BMI__)
  all = all && has.bmi1;
#endif
#if defined(__BMI2__)
  all = all && has.bmi2;
#endif
#if defined(__AVX512F__)
  all = all && has.avx512f;
#endif
#if defined(__AVX512CD__)
  all = all && has.avx512cd;
#endif
#if defined(__AVX512DQ__)
  all = all && has.avx512dq;
#endif
#if defined(__AVX512BW__)
  all = all && has.avx512bw;
#endif
#if defined(__AVX512VL__)
  all = all && has.avx512vl;
#endif
#if defined(__AVX512IFMA__)
  all = all && has.avx512ifma;
#endif
#if defined(__AVX512VBMI__)
  all = all && has.avx512vbmi;
#endif
#if defined(__AVX512VBMI2__)
  all = all && has.avx512vbmi2;
#endif
#if defined(__AVX512VNNI__)
  all = all && has.avx512vnni;
#endif
#if defined(__AVX512BITALG__)
  all = all && has.avx512bitalg;
#endif
#if defined(__AVX512VPOPCNTDQ__)
  all = all && has.avx512vpopcntdq;
#endif
#if defined(__AVX512BF16__)
  all = all && has.avx512bf16;
#endif
#endif
  return all;
}

}  // namespace losa::inline v0::detail::inline LOSA_ARCH
