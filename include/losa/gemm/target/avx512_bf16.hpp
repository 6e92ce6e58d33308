#pragma once
// The AVX-512 target for processors with AVX512-BF16 (Sapphire Rapids, Zen 4 and later).

#include <losa/core/cpu.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/target/avx512.hpp>
#if defined(LOSA_AVX512)

namespace losa::inline v0::detail::inline LOSA_ARCH::avx512_bf16 {

struct Target {
  using Parent = avx512::Target;
  static constexpr const char* name = "avx512_bf16";
  static bool supported() noexcept { return Parent::supported() && cpu().avx512bf16; }
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx512_bf16
#endif
