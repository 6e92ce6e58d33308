#pragma once
// The kernels of a program that defines LOSA_EXTERN_KERNELS for all of its units: one of them includes this header, and
// is best compiled without -m flags, as the fast kernels bring their own. Without that macro every unit has its own
// kernels, and this header adds nothing.

#include <losa/gemm/registry.hpp>
#if defined(LOSA_EXTERN_KERNELS)

#include <span>

#include <losa/gemm/backend.hpp>
#include <losa/gemm/known_backends.hpp>

namespace losa::inline v0::detail {

std::span<const Backend* const> extern_backends() noexcept {
  static const auto all = known_backends();
  return all;
}

}  // namespace losa::inline v0::detail
#endif
