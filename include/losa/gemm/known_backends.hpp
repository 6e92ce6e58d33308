#pragma once
// Every backend that a unit with its compile flags can have, kernels included.

#include <array>

#include <losa/gemm/amx/backend.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/avx2/backend.hpp>
#include <losa/gemm/avx512/backend.hpp>
#include <losa/gemm/avx512_bf16/backend.hpp>
#include <losa/gemm/portable/backend.hpp>
#include <losa/gemm/reference/backend.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH {

/// Best first; but `amx`, which no processor has run yet, only when it is named.
inline auto known_backends() noexcept {
  return std::array {
#if defined(LOSA_AVX2)
    &avx512_bf16::backend(), &amx::backend(), &avx512::backend(), &avx2::backend(),
#endif
#if defined(LOSA_PORTABLE)
        &portable::backend(),
#endif
        &reference::backend(),
  };
}

}  // namespace losa::inline v0::detail::inline LOSA_ARCH
