#pragma once
// AMX: eight tile registers of 16 rows × 64 bytes, and instructions that multiply two of them into a third:
//
//   multiply_bf16<Sum, Left, Right>   Sum (16, 16) f32 += Left (16, 32) bf16 · Right (32, 16) bf16
//   multiply_int8<Sum, Left, Right>   Sum (16, 16) i32 += Left (16, 64) int8 · Right (64, 16) int8
//
// A line of Right in its register holds two (four) of its rows, column by column: 16 pairs (fours).
//
// Registers hold what they are configured for, so a task that uses them makes a Tiles and lets it go:
//
//   Tiles tiles;
//   tiles.zero<0>(), tiles.load<4>(a), tiles.load<6>(b), tiles.multiply_bf16<0, 4, 6>(), tiles.store<0>(c);
//
// Kernels take Tiles as a template argument: tests/gemm/amx_model.hpp is one without the instructions.

#include <losa/gemm/target/avx512_vector.hpp>
#if defined(LOSA_AVX512)

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstddef>
#include <cstdint>

#include <losa/core/cpu.hpp>
#include <losa/gemm/arch.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH::amx {

inline constexpr std::size_t tile_lines = 16;
inline constexpr std::size_t tile_bytes = tile_lines * 64;

/// The operand of ldtilecfg.
struct alignas(64) TileConfig {
  std::uint8_t palette;
  std::uint8_t start_row;
  std::uint8_t reserved[14];
  std::uint16_t row_bytes[16];
  std::uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

/// Eight whole tiles.
inline constexpr TileConfig whole_tiles{.palette = 1,
                                        .start_row = 0,
                                        .reserved = {},
                                        .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
                                        .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

/// True if the system lets this process use tiles. Linux gives their 8 KiB of state to a process that asks; of other
/// systems it is not known here, and they count as those that do not.
inline bool tiles_permitted() noexcept {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM of <asm/prctl.h>, which kernels before 5.16 lack
  constexpr long tile_data = 18;
  static const bool granted = ::syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  return granted;
#else
  return false;
#endif
}

/// The tile registers, all configured whole, and empty again at the end. A tile in memory is 1 KiB, row after row.
// In assembly, as GCC 12 makes its intrinsics of macros that take a literal number alone, and lets stores pass loads of
// tiles.
class Tiles {
 public:
  static constexpr const char* name = "amx";
  static bool supported() noexcept { return cpu().amx_tile && cpu().amx_bf16 && cpu().amx_int8 && tiles_permitted(); }

  Tiles() noexcept { __asm__ volatile("ldtilecfg %0" : : "m"(whole_tiles)); }
  ~Tiles() { __asm__ volatile("tilerelease"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  template <int Tile>
  void zero() noexcept {
    __asm__ volatile("tilezero %%tmm%c0" : : "i"(Tile));
  }
  template <int Tile>
  void load(const void* from) noexcept {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(std::ptrdiff_t{64}), "i"(Tile) : "memory");
  }
  template <int Tile>
  void store(void* to) noexcept {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(std::ptrdiff_t{64}), "i"(Tile) : "memory");
  }
  template <int Sum, int Left, int Right>
  void multiply_bf16() noexcept {
    static_assert(Sum != Left && Sum != Right && Left != Right);
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sum), "i"(Left), "i"(Right));
  }
  template <int Sum, int Left, int Right>
  void multiply_int8() noexcept {
    static_assert(Sum != Left && Sum != Right && Left != Right);
    __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sum), "i"(Left), "i"(Right));
  }
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::amx
#endif
