#pragma once
// The AVX-512 target, for processors with VBMI2 and VNNI (Ice Lake, Zen 4 and later): panels of up to 64 tokens; for
// few, weights spread by the mask. Compiled into every x86 program by target attributes and run where processor and
// system support it.

#include <losa/gemm/avx512/kernels.hpp>
#if defined(LOSA_AVX512)

#include <losa/core/cpu.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/avx2/backend.hpp>
#include <losa/gemm/kernel.hpp>
#include <losa/gemm/panel/schedules.hpp>

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

namespace losa::inline v0::detail {

template <class Arguments, class WeightsType>
struct Kernel<avx512::Target, Arguments, WeightsType> : PanelSchedule<avx512::Kernels, Arguments, WeightsType> {};

}  // namespace losa::inline v0::detail
#endif
