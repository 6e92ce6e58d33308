#pragma once
// What this x86 processor and its operating system support, asked once (CPUID, XGETBV). The system must save the wide
// registers on a task switch: a processor flag alone is not enough.
//
//   if (detail::cpu().avx2 && detail::cpu().fma) ...

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>

#include <cstdint>

namespace losa::inline v0::detail {

struct CpuFeatures {
  bool sse3 = false, ssse3 = false, sse41 = false, sse42 = false, popcnt = false;
  bool avx = false, f16c = false, fma = false, avx2 = false, bmi1 = false, bmi2 = false;
  bool avx512f = false, avx512cd = false, avx512dq = false, avx512bw = false, avx512vl = false;
  bool avx512ifma = false, avx512vbmi = false, avx512vbmi2 = false, avx512vnni = false;
  bool avx512bitalg = false, avx512vpopcntdq = false, avx512bf16 = false;
  bool amx_tile = false, amx_bf16 = false, amx_int8 = false;
};

inline CpuFeatures detect_cpu() noexcept {
  CpuFeatures cpu;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return cpu;
  const auto flag = [](unsigned word, unsigned index) { return (word >> index & 1u) != 0; };
  cpu.sse3 = flag(c, 0);
  cpu.ssse3 = flag(c, 9);
  cpu.sse41 = flag(c, 19);
  cpu.sse42 = flag(c, 20);
  cpu.popcnt = flag(c, 23);
  std::uint32_t saved = 0;  // register state that the system saves: bits 1, 2 SSE and AVX, 5-7 AVX-512, 17, 18 AMX
  if (flag(c, 27)) {
    std::uint32_t high = 0;
    __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  }
  const bool ymm = (saved & 0x06u) == 0x06u;
  const bool zmm = (saved & 0xe6u) == 0xe6u;
  const bool tiles = (saved & 0x60000u) == 0x60000u;
  cpu.avx = ymm && flag(c, 28);
  cpu.f16c = cpu.avx && flag(c, 29);
  cpu.fma = cpu.avx && flag(c, 12);
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return cpu;
  cpu.bmi1 = flag(b, 3);
  cpu.bmi2 = flag(b, 8);
  cpu.avx2 = cpu.avx && flag(b, 5);
  cpu.avx512f = zmm && flag(b, 16);
  cpu.avx512dq = cpu.avx512f && flag(b, 17);
  cpu.avx512ifma = cpu.avx512f && flag(b, 21);
  cpu.avx512cd = cpu.avx512f && flag(b, 28);
  cpu.avx512bw = cpu.avx512f && flag(b, 30);
  cpu.avx512vl = cpu.avx512f && flag(b, 31);
  cpu.avx512vbmi = cpu.avx512f && flag(c, 1);
  cpu.avx512vbmi2 = cpu.avx512f && flag(c, 6);
  cpu.avx512vnni = cpu.avx512f && flag(c, 11);
  cpu.avx512bitalg = cpu.avx512f && flag(c, 12);
  cpu.avx512vpopcntdq = cpu.avx512f && flag(c, 14);
  cpu.amx_tile = tiles && flag(d, 24);
  cpu.amx_bf16 = cpu.amx_tile && flag(d, 22);
  cpu.amx_int8 = cpu.amx_tile && flag(d, 25);
  if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0) cpu.avx512bf16 = cpu.avx512f && flag(a, 5);
  return cpu;
}

inline const CpuFeatures& cpu() noexcept {
  static const CpuFeatures features = detect_cpu();
  return features;
}

}  // namespace losa::inline v0::detail
#endif
