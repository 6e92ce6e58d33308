#pragma once
// The values of a packed matrix as kernels read them, in the order of packed_structure.hpp: floats of some type, or
// small integers with scales. A cursor walks the rows of one tile from top to bottom.
//
//   auto cursor = weights.begin(layout, block, tile);
//   for each row i of the tile: cursor.at(i, j) for its j-th kept weight; cursor.advance(number of kept weights);
//
// 64 bytes after the last value are readable and no NaN or Inf.

#include <cstddef>
#include <cstdint>

#include <losa/core/types.hpp>
#include <losa/gemm/packed_structure.hpp>

namespace losa::inline v0 {

/// float, bf16 or f16.
template <class Element>
struct FloatWeights {
  const Element* values = nullptr;

  struct Cursor {
    const Element* p;
    float at(std::size_t, std::size_t j) const noexcept { return static_cast<float>(widen(p[j])); }
    void advance(std::size_t count) noexcept { p += count; }
  };
  Cursor begin(const PackedLayout& w, std::size_t block, std::size_t tile) const noexcept {
    return {values + w.offsets[block * w.tiles + tile]};
  }
};

/// value = scale of the row · int8.
struct Int8Weights {
  const std::int8_t* values = nullptr;
  const float* scales = nullptr;  // (row_blocks · 32)

  struct Cursor {
    const std::int8_t* p;
    const float* scales;
    float at(std::size_t i, std::size_t j) const noexcept { return static_cast<float>(p[j]) * scales[i]; }
    void advance(std::size_t count) noexcept { p += count; }
  };
  Cursor begin(const PackedLayout& w, std::size_t block, std::size_t tile) const noexcept {
    return {values + w.offsets[block * w.tiles + tile], scales + block * detail::tile_rows};
  }
};

/// value = scale of the row in the tile · (nibble − 8); the even ones of a row are low nibbles, rows start at a byte.
struct Int4Weights {
  const std::uint8_t* values = nullptr;
  const std::uint64_t* offsets = nullptr;  // (row_blocks · tiles + 1) bytes before each tile
  const f16* scales = nullptr;             // (row_blocks, tiles, 32)

  struct Cursor {
    const std::uint8_t* p;
    const f16* scales;
    float at(std::size_t i, std::size_t j) const noexcept {
      return static_cast<float>((p[j / 2] >> (j % 2 * 4) & 15) - 8) * widen(scales[i]);
    }
    void advance(std::size_t count) noexcept { p += (count + 1) / 2; }
  };
  Cursor begin(const PackedLayout& w, std::size_t block, std::size_t tile) const noexcept {
    return {values + offsets[block * w.tiles + tile], scales + (block * w.tiles + tile) * detail::tile_rows};
  }
};

}  // namespace losa::inline v0
