#pragma once
// The AVX2 target: panels of up to 64 tokens, expansion to registers for fewer. Compiled into every x86 program by
// target attributes and run where processor and system support it.

#include <losa/gemm/avx2/kernels.hpp>
#if defined(LOSA_AVX2)

#include <losa/core/cpu.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/kernel.hpp>
#include <losa/gemm/panel/schedules.hpp>
#include <losa/gemm/reference/backend.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH::avx2 {

struct Target {
  using Parent = reference::Target;
  static constexpr const char* name = "avx2";
  static bool supported() noexcept {
    return compiled_for_this_cpu() && cpu().avx2 && cpu().fma && cpu().f16c && cpu().bmi1 && cpu().bmi2 && cpu().popcnt;
  }
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx2

namespace losa::inline v0::detail {

template <class Arguments, class WeightsType>
struct Kernel<avx2::Target, Arguments, WeightsType> : PanelSchedule<avx2::Kernels, Arguments, WeightsType> {};

}  // namespace losa::inline v0::detail
#endif
