#pragma once
// The AMX target (Sapphire Rapids and later): `avx512_bf16`, but for bf16 and int8 weights in the bitmask format and
// more than eight tokens, which are multiplied in tiles. Compiled where LOSA_AMX is defined.

#include <losa/gemm/amx/products.hpp>
#if defined(LOSA_AVX512)

#include <losa/core/cpu.hpp>
#include <losa/core/types.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/avx512_bf16/backend.hpp>
#include <losa/gemm/kernel.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH::amx {

/// On tile registers of type Tiles.
template <class Tiles>
struct TargetOn {
  using Parent = avx512_bf16::Target;
  static constexpr const char* name = Tiles::name;
  static bool supported() noexcept { return Parent::supported() && Tiles::supported(); }
};
using Target = TargetOn<Tiles>;

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::amx

namespace losa::inline v0::detail {

template <class Tiles>
struct Kernel<amx::TargetOn<Tiles>, Multiply, FloatWeights<bf16>> {
  using Parent = Kernel<avx512_bf16::Target, Multiply, FloatWeights<bf16>>;
  using Schedule = amx::TileMultiply<Tiles, amx::Bf16, typename Parent::Schedule>;
};
template <class Tiles>
struct Kernel<amx::TargetOn<Tiles>, Multiply, Int8Weights> {
  using Parent = Kernel<avx512_bf16::Target, Multiply, Int8Weights>;
  using Schedule = amx::TileMultiply<Tiles, amx::Int8, typename Parent::Schedule>;
};

}  // namespace losa::inline v0::detail
#endif
