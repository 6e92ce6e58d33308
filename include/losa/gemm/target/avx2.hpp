#pragma once
// The AVX2 target. Compiled into every x86 program by target attributes and run where processor and system support it.

#include <losa/core/cpu.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/target/avx2_vector.hpp>
#include <losa/gemm/target/reference.hpp>
#if defined(LOSA_AVX2)

namespace losa::inline v0::detail::inline LOSA_ARCH::avx2 {

struct Target {
  using Parent = reference::Target;
  static constexpr const char* name = "avx2";
  static bool supported() noexcept {
    return compiled_for_this_cpu() && cpu().avx2 && cpu().fma && cpu().f16c && cpu().bmi1 && cpu().bmi2 && cpu().popcnt;
  }
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx2
#endif
