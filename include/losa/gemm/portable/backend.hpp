#pragma once
// The portable backend: the panel driver on xsimd batches of the compile-time baseline. Absent where xsimd knows no
// vectors of the architecture.

#include <losa/gemm/portable/kernels.hpp>
#if defined(LOSA_PORTABLE)

#include <losa/gemm/arch.hpp>
#include <losa/gemm/backend.hpp>
#include <losa/gemm/panel/driver.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH::portable {

inline const Backend& backend() noexcept {
  static constexpr Backend table = PanelProducts<Kernels>::table("portable", compiled_for_this_cpu);
  return table;
}

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::portable
#endif
