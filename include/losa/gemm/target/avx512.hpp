#pragma once
// The AVX-512 target, for processors with VBMI2 and VNNI (Ice Lake, Zen 4 and later). Compiled into every x86 program
// by target attributes and run where processor and system support it.

#include <losa/core/cpu.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/target/avx2.hpp>
#include <losa/gemm/target/avx512_vector.hpp>
#if defined(LOSA_AVX512)

namespace losa::inline v0::detail::inline LOSA_ARCH::avx512 {

struct Target {
  using Parent = avx2::Target;
  static constexpr const char* name = "avx512";
  static bool supported() noexcept {
    return Parent::supported() && cpu().avx512f && cpu().avx512dq && cpu().avx512bw && cpu().avx512vl &&
           cpu().avx512vbmi && cpu().avx512vbmi2 && cpu().avx512vnni && cpu().avx512bitalg && cpu().avx512vpopcntdq;
  }
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx512
#endif
