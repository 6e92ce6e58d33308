#pragma once
// Every target that a unit with its compile flags can have, with the kernels of every format.
//
// A new target is a line in the list below; a new format brings its kernels in a line above it.

#include <array>

#include <losa/gemm/arch.hpp>
#include <losa/gemm/backend.hpp>
#include <losa/gemm/bitmask/kernels.hpp>
#include <losa/gemm/list/kernels.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH {

/// Best first; but `amx`, which few processors have run yet, only when it is named.
inline auto known_backends() noexcept {
  return std::array {
#if defined(LOSA_AVX512)
    &backend_of<avx512_bf16::Target>(),
#endif
#if defined(LOSA_AVX512) && defined(LOSA_AMX)
        &backend_of<amx::Target>(),
#endif
#if defined(LOSA_AVX512)
        &backend_of<avx512::Target>(),
#endif
#if defined(LOSA_AVX2)
        &backend_of<avx2::Target>(),
#endif
#if defined(LOSA_PORTABLE)
        &backend_of<portable::Target>(),
#endif
        &backend_of<reference::Target>(),
  };
}

}  // namespace losa::inline v0::detail::inline LOSA_ARCH
