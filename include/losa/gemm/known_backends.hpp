#pragma once
// Every target that a unit with its compile flags can have, kernels included. A new target is one line here.

#include <array>

#if defined(LOSA_AMX)
#include <losa/gemm/amx/backend.hpp>
#endif
#include <losa/gemm/arch.hpp>
#include <losa/gemm/avx2/backend.hpp>
#include <losa/gemm/avx512/backend.hpp>
#include <losa/gemm/avx512_bf16/backend.hpp>
#include <losa/gemm/backend.hpp>
#include <losa/gemm/portable/backend.hpp>
#include <losa/gemm/reference/backend.hpp>

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
