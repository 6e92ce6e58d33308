#pragma once
// The portable target: xsimd batches of the compile-time baseline. Absent where xsimd knows no vectors of the
// architecture.

#include <losa/gemm/arch.hpp>
#include <losa/gemm/target/portable_panels.hpp>
#include <losa/gemm/target/reference.hpp>
#if defined(LOSA_PORTABLE)

namespace losa::inline v0::detail::inline LOSA_ARCH::portable {

struct Target {
  using Parent = reference::Target;
  static constexpr const char* name = "portable";
  static bool supported() noexcept { return compiled_for_this_cpu(); }
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::portable
#endif
