#pragma once
// The AVX2 backend: panels of up to 64 tokens, expansion to registers for fewer. Compiled into every x86 program
// by target attributes and run where processor and system support it.

#include <losa/gemm/avx2/kernels.hpp>
#if defined(LOSA_AVX2)

#include <losa/gemm/arch.hpp>
#include <losa/gemm/backend.hpp>
#include <losa/gemm/cpu.hpp>
#include <losa/gemm/panel/driver.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH::avx2 {

inline const Backend& backend() noexcept {
  static constexpr Backend table = PanelProducts<Kernels>::table("avx2", []() noexcept {
    return compiled_for_this_cpu() && cpu().avx2 && cpu().fma && cpu().f16c && cpu().bmi1 && cpu().bmi2 && cpu().popcnt;
  });
  return table;
}

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx2
#endif
