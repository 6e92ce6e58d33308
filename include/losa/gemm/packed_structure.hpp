#pragma once
// Where the kept weights of a packed matrix lie. The matrix is cut into tiles of 32 rows × 64 columns; tiles follow one
// another along a block of 32 rows, blocks follow one another, and within a tile rows do. Masks and values are two
// arrays in that one order, so that every kernel reads both from front to back: a kernel for one token keeps 64
// activations in registers for 32 rows, one for many tokens takes several blocks and tiles at once.
//
//   bit j of words[(block · tiles + tile) · 32 + i] = 1  ⇔  row 32 · block + i, column 64 · tile + j is kept
//   offsets[block · tiles + tile]                        values before that tile
//
// Rows and columns past the edge have no bits. Costs 1/8 byte per weight and 8 bytes per tile.

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/core/mask.hpp>
#include <losa/gemm/scratch.hpp>

namespace losa::inline v0 {

/// The bitmask format as kernels see it: packed_structure.hpp has the order. 64 bytes after the last mask word are
/// readable.
struct PackedLayout {
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t row_blocks = 0;
  std::size_t tiles = 0;                 // column tiles of a row block
  const std::uint64_t* words = nullptr;  // (row_blocks, tiles, 32)
  const std::size_t* offsets = nullptr;  // (row_blocks · tiles + 1) values before each tile
  bool half = false;  // whole tiles, and of every 8 columns, from a multiple of 8 on, 4 are kept: 2:4, 4:8

  std::size_t kept() const noexcept { return offsets[row_blocks * tiles]; }
};

namespace detail {

inline constexpr std::size_t tile_rows = 32;
inline constexpr std::size_t tile_cols = 64;

/// Throws RangeError if a mask keeps a position past its last column, which its words have room for.
inline void expect_inside(std::string_view where, const Mask& mask) {
  for (std::size_t r = 0; r < mask.rows() && mask.words_per_row() != 0; ++r) {
    const std::size_t last = mask.words_per_row() - 1;
    if ((mask.row_words(r)[last] & ~mask.valid_bits(last)) != 0)
      raise<RangeError>(where, ": mask row ", r, " keeps a weight past the last column, ", mask.cols());
  }
}

/// What all matrices with the same kept positions share.
struct PackedStructure {
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t row_blocks = 0;
  std::size_t tiles = 0;             // column tiles of a row block
  PaddedArray<std::uint64_t> words;  // (row_blocks, tiles, tile_rows)
  std::vector<std::size_t> offsets;  // (row_blocks · tiles + 1)

  bool half = false;  // whole tiles, and of every 8 columns, from a multiple of 8 on, 4 are kept: 2:4, 4:8

  explicit PackedStructure(const Mask& mask)
      : rows(mask.rows()),
        cols(mask.cols()),
        row_blocks((rows + tile_rows - 1) / tile_rows),
        tiles(mask.words_per_row()),
        words(row_blocks * tiles * tile_rows),
        offsets(row_blocks * tiles + 1) {
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t t = 0; t < tiles; ++t) words.data()[word_index(r, t)] = mask.row_words(r)[t];
    for (std::size_t tile = 0; tile < row_blocks * tiles; ++tile)
      offsets[tile + 1] = offsets[tile] + ones(words.data() + tile * tile_rows, tile_rows);
    half = kept() != 0 && kept() * 2 == rows * cols && rows % tile_rows == 0 && cols % tile_cols == 0;
    for (std::size_t i = 0; half && i < words.size(); ++i) {
      const std::uint64_t pairs = words.data()[i] - (words.data()[i] >> 1 & 0x5555555555555555u);
      const std::uint64_t fours = (pairs & 0x3333333333333333u) + (pairs >> 2 & 0x3333333333333333u);
      const std::uint64_t bytes = (fours + (fours >> 4)) & 0x0f0f0f0f0f0f0f0fu;  // ones of each
      half = bytes == 0x0404040404040404u;
    }
  }

  std::size_t kept() const noexcept { return offsets.back(); }
  std::size_t bytes() const noexcept {
    return words.size() * sizeof(std::uint64_t) + offsets.size() * sizeof(std::size_t);
  }
  std::size_t word_index(std::size_t row, std::size_t tile) const noexcept {
    return (row / tile_rows * tiles + tile) * tile_rows + row % tile_rows;
  }
  PackedLayout layout() const noexcept {
    return {.rows = rows,
            .cols = cols,
            .row_blocks = row_blocks,
            .tiles = tiles,
            .words = words.data(),
            .offsets = offsets.data(),
            .half = half};
  }
  Mask mask() const {
    Mask all(rows, cols);
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t t = 0; t < tiles; ++t) all.row_words(r)[t] = words.data()[word_index(r, t)];
    return all;
  }
  /// Calls f(column, index of the value) for every kept weight of row r, in rising order of columns.
  template <class Function>
  void for_each_kept(std::size_t r, Function&& f) const {
    for (std::size_t t = 0; t < tiles; ++t) {
      const std::size_t tile = r / tile_rows * tiles + t;
      const std::uint64_t* const first = words.data() + tile * tile_rows;
      std::size_t k = offsets[tile] + ones(first, r % tile_rows);
      for (std::uint64_t word = first[r % tile_rows]; word != 0; word &= word - 1)
        f(t * tile_cols + static_cast<std::size_t>(std::countr_zero(word)), k++);
    }
  }
  /// Calls f(row, first column, mask word) in the order of the values.
  template <class Function>
  void for_each_word(Function&& f) const {
    const std::uint64_t* word = words.data();
    for (std::size_t b = 0; b < row_blocks; ++b)
      for (std::size_t t = 0; t < tiles; ++t)
        for (std::size_t i = 0; i < tile_rows; ++i) f(b * tile_rows + i, t * tile_cols, *word++);
  }
  bool operator==(const PackedStructure& other) const noexcept {
    return rows == other.rows && cols == other.cols &&
           std::equal(words.data(), words.data() + words.size(), other.words.data());
  }

 private:
  static std::size_t ones(const std::uint64_t* word, std::size_t n) noexcept {
    std::size_t count = 0;
    for (std::size_t i = 0; i < n; ++i) count += static_cast<std::size_t>(std::popcount(word[i]));
    return count;
  }
};

}  // namespace detail
}  // namespace losa::inline v0
