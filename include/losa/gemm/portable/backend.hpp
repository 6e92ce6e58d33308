#pragma once
// The portable target: the panel schedules on xsimd batches of the compile-time baseline. Absent where xsimd knows no
// vectors of the architecture.

#include <losa/gemm/portable/kernels.hpp>
#if defined(LOSA_PORTABLE)

#include <losa/gemm/arch.hpp>
#include <losa/gemm/kernel.hpp>
#include <losa/gemm/panel/schedules.hpp>
#include <losa/gemm/reference/backend.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH::portable {

struct Target {
  using Parent = reference::Target;
  static constexpr const char* name = "portable";
  static bool supported() noexcept { return compiled_for_this_cpu(); }
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::portable

namespace losa::inline v0::detail {

template <class Arguments, class WeightsType>
struct Kernel<portable::Target, Arguments, WeightsType> : PanelSchedule<portable::Kernels, Arguments, WeightsType> {};

}  // namespace losa::inline v0::detail
#endif
