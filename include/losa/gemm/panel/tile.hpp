#pragma once
// Several tiles of a packed matrix as the panel kernels read them: for each row a list of columns and of values in
// float, whatever the packed values are. Lists begin at multiples of four and are filled up to one with weights of 0 on
// the row's last column, so that kernels take four weights at a time and an activation that is not finite still reaches
// only rows that keep its column.

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <losa/gemm/arch.hpp>
#include <losa/gemm/arena.hpp>
#include <losa/gemm/packed_structure.hpp>
#include <losa/gemm/panel/decode.hpp>
#include <losa/gemm/weights.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH {

/// The kept weights of some rows within a range of columns.
struct TileLists {
  std::size_t rows = 0;
  const std::uint16_t* entries = nullptr;  // column in the range · panel width / 2: panel + 2 · entry is its vector
  const float* values = nullptr;           // beside the entries
  const std::uint32_t* starts = nullptr;   // (rows) into entries, multiples of 4
  const std::uint32_t* ends = nullptr;     // (rows) into entries, before the filling
  const float* ahead = nullptr;            // panel to be read next, 32 KiB from here, or null

  /// Two lines of the panel to be read next: 256 rows bring a tile of it to L2.
  void prefetch_panel(std::size_t r) const noexcept {
    if (ahead == nullptr) return;
    __builtin_prefetch(ahead + r * 32, 0, 2);
    __builtin_prefetch(ahead + r * 32 + 16, 0, 2);
  }
};

/// Which tiles: row blocks [first_block, last_block), column tiles [first_tile, last_tile).
struct TileRange {
  std::size_t first_block;
  std::size_t last_block;
  std::size_t first_tile;
  std::size_t last_tile;

  std::size_t rows() const noexcept { return (last_block - first_block) * tile_rows; }
};

/// Stands for the values where only the mask matters.
struct NoWeights {
  struct Cursor {
    float at(std::size_t, std::size_t) const noexcept { return 0; }
    void advance(std::size_t) noexcept {}
  };
  Cursor begin(const PackedLayout&, std::size_t, std::size_t) const noexcept { return {}; }
};

/// Sizes for panels of a width: a range of X is 32 KiB (with 64 KiB the loop loses a quarter, with 16 KiB the rows cost
/// more than they hold), its lists about 64 KiB of entries.
struct TileSizes {
  std::size_t tiles;   // side by side
  std::size_t blocks;  // below one another
  explicit TileSizes(std::size_t width) noexcept
      : tiles(std::clamp<std::size_t>(8192 / width / tile_cols, 1, most_tiles)),
        blocks(width < 32 ? 1 : 32768 / (tiles * tile_cols) / tile_rows) {}

  static constexpr std::size_t most_tiles = 4;
};

/// The same for ranges that are read by columns: rows take the place of columns.
struct TurnedTileSizes {
  std::size_t tiles;
  std::size_t blocks;
  TurnedTileSizes(std::size_t width, std::size_t matrix_tiles) noexcept
      : tiles(width >= 64 && matrix_tiles >= 8 ? 2 : 1),
        blocks(std::clamp<std::size_t>(8192 / width / tile_rows, 2, 16)) {}
};

/// Memory of a task for lists of up to `blocks` × `tiles` tiles.
template <class KernelSet>
class TileDecoder {
 public:
  static std::size_t need(std::size_t blocks, std::size_t tiles) noexcept {
    return Arena::need<std::uint16_t>(room(blocks, tiles)) + Arena::need<float>(room(blocks, tiles)) +
           2 * Arena::need<std::uint32_t>(blocks * tile_rows);
  }
  TileDecoder(Arena& arena, std::size_t blocks, std::size_t tiles) noexcept
      : entries_(arena.take<std::uint16_t>(room(blocks, tiles))),
        values_(arena.take<float>(room(blocks, tiles))),
        starts_(arena.take<std::uint32_t>(blocks * tile_rows)),
        ends_(arena.take<std::uint32_t>(blocks * tile_rows)) {}

  /// Lists of the range, entries being columns of a panel with `stride` floats each.
  template <class WeightsType>
  TileLists decode(const PackedLayout& w, const WeightsType& weights, const TileRange& range,
                   std::size_t stride) noexcept {
    KernelSet::decode(w, weights, range, stride / 2, entries_, values_, starts_, ends_);
    return {.rows = range.rows(), .entries = entries_, .values = values_, .starts = starts_, .ends = ends_};
  }
  /// The values of the last lists, to be written over.
  float* values() noexcept { return values_; }

 private:
  static std::size_t room(std::size_t blocks, std::size_t tiles) noexcept {
    return blocks * tile_rows * (tiles * tile_cols + 4) + decode_overrun;
  }

  std::uint16_t* entries_;
  float* values_;
  std::uint32_t* starts_;
  std::uint32_t* ends_;
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH
