#pragma once
// The AMX target (Sapphire Rapids and later). Compiled where LOSA_AMX is defined.

#include <losa/gemm/arch.hpp>
#include <losa/gemm/target/amx_tile.hpp>
#include <losa/gemm/target/avx512_bf16.hpp>
#if defined(LOSA_AVX512)

namespace losa::inline v0::detail::inline LOSA_ARCH::amx {

/// On tile registers of type Tiles: tests/gemm/amx_model.hpp has some without the instructions.
template <class TileRegisters>
struct TargetOn {
  using Parent = avx512_bf16::Target;
  static constexpr const char* name = TileRegisters::name;
  static bool supported() noexcept { return Parent::supported() && TileRegisters::supported(); }
};
using Target = TargetOn<Tiles>;

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::amx
#endif
