#pragma once
// The AVX-512 backend, for processors with VBMI2 and VNNI (Ice Lake, Zen 4 and later): panels of up to 64 tokens;
// for few, weights spread by the mask. Compiled into every x86 program by target attributes and run where processor
// and system support it.

#include <losa/gemm/avx512/kernels.hpp>
#if defined(LOSA_AVX512)

#include <losa/gemm/arch.hpp>
#include <losa/gemm/avx2/backend.hpp>
#include <losa/gemm/backend.hpp>
#include <losa/gemm/cpu.hpp>
#include <losa/gemm/panel/driver.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH::avx512 {

inline const Backend& backend() noexcept {
  static constexpr Backend table = PanelProducts<Kernels>::table("avx512", []() noexcept {
    return avx2::backend().supported() && cpu().avx512f && cpu().avx512dq && cpu().avx512bw && cpu().avx512vl &&
           cpu().avx512vbmi && cpu().avx512vbmi2 && cpu().avx512vnni && cpu().avx512bitalg && cpu().avx512vpopcntdq;
  });
  return table;
}

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx512
#endif
