#pragma once
// The AVX-512 backend for processors with AVX512-BF16 (Sapphire Rapids, Zen 4 and later): `avx512`, but
// for bf16 weights in the bitmask format, which are multiplied in pairs.

#include <losa/gemm/avx512_bf16/kernels.hpp>
#if defined(LOSA_AVX512)

#include <losa/gemm/arch.hpp>
#include <losa/gemm/avx512/backend.hpp>
#include <losa/gemm/backend.hpp>
#include <losa/gemm/cpu.hpp>
#include <losa/gemm/panel/driver.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH::avx512_bf16 {

inline const Backend& backend() noexcept {
  static const Backend table = [] {
    Backend made = avx512::backend();
    made.name = "avx512_bf16";
    made.supported = []() noexcept { return avx512::backend().supported() && cpu().avx512bf16; };
    made.spmm_bf16 = PanelProducts<Kernels>::spmm<FloatWeights<bf16>>;
    return made;
  }();
  return table;
}

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx512_bf16
#endif
