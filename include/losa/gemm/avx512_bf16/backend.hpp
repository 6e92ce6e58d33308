#pragma once
// The AVX-512 target for processors with AVX512-BF16 (Sapphire Rapids, Zen 4 and later): `avx512`, but for bf16 weights
// in the bitmask format, which are multiplied in pairs.

#include <losa/gemm/avx512_bf16/kernels.hpp>
#if defined(LOSA_AVX512)

#include <losa/core/cpu.hpp>
#include <losa/core/types.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/avx512/backend.hpp>
#include <losa/gemm/kernel.hpp>
#include <losa/gemm/panel/multiply.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH::avx512_bf16 {

struct Target {
  using Parent = avx512::Target;
  static constexpr const char* name = "avx512_bf16";
  static bool supported() noexcept { return Parent::supported() && cpu().avx512bf16; }
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx512_bf16

namespace losa::inline v0::detail {

template <>
struct Kernel<avx512_bf16::Target, Multiply, FloatWeights<bf16>> {
  using Schedule = PanelMultiply<avx512_bf16::Kernels, FloatWeights<bf16>>;
};

}  // namespace losa::inline v0::detail
#endif
