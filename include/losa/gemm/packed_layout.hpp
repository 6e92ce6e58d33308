#pragma once
// The bitmask format as kernels read it: packed_structure.hpp has the order and makes it.

#include <cstddef>
#include <cstdint>

namespace losa::inline v0 {

/// The bitmask format as kernels see it: packed_structure.hpp has the order. 64 bytes after the last mask word are
/// readable.
struct PackedLayout {
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t row_blocks = 0;
  std::size_t tiles = 0;                   // column tiles of a row block
  const std::uint64_t* words = nullptr;    // (row_blocks, tiles, 32)
  const std::uint64_t* offsets = nullptr;  // (row_blocks · tiles + 1) values before each tile
  bool half = false;  // whole tiles, and of every 8 columns, from a multiple of 8 on, 4 are kept: 2:4, 4:8

  std::size_t kept() const noexcept { return offsets[row_blocks * tiles]; }
};

namespace detail {

inline constexpr std::size_t tile_rows = 32;
inline constexpr std::size_t tile_cols = 64;

}  // namespace detail
}  // namespace losa::inline v0
