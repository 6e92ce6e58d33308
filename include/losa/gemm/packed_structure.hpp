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
#include <cstring>
#include <memory>
#include <span>
#include <string_view>

#include <losa/core/error.hpp>
#include <losa/core/mask.hpp>
#include <losa/gemm/image_header.hpp>
#include <losa/gemm/image_memory.hpp>
#include <losa/gemm/packed_layout.hpp>

namespace losa::inline v0 {

namespace detail {

/// True if every byte of a mask word has four ones.
inline bool four_of_eight(std::uint64_t word) noexcept {
  const std::uint64_t pairs = word - (word >> 1 & 0x5555555555555555u);
  const std::uint64_t fours = (pairs & 0x3333333333333333u) + (pairs >> 2 & 0x3333333333333333u);
  return ((fours + (fours >> 4)) & 0x0f0f0f0f0f0f0f0fu) == 0x0404040404040404u;
}

/// Throws RangeError if a mask keeps a position past its last column, which its words have room for.
inline void expect_inside(std::string_view where, const Mask& mask) {
  for (std::size_t r = 0; r < mask.rows() && mask.words_per_row() != 0; ++r) {
    const std::size_t last = mask.words_per_row() - 1;
    if ((mask.row_words(r)[last] & ~mask.valid_bits(last)) != 0)
      raise<RangeError>(where, ": mask row ", r, " keeps a weight past the last column, ", mask.cols());
  }
}

/// What all matrices with the same kept positions share: the words and offsets of an image, which this keeps.
struct PackedStructure {
  ImageHeader header;
  std::shared_ptr<std::byte> image;
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t row_blocks = 0;
  std::size_t tiles = 0;                   // column tiles of a row block
  std::span<const std::uint64_t> words;    // (row_blocks, tiles, tile_rows)
  std::span<const std::uint64_t> offsets;  // (row_blocks · tiles + 1)
  bool half = false;  // whole tiles, and of every 8 columns, from a multiple of 8 on, 4 are kept: 2:4, 4:8

  /// An image with the positions of a mask and every value 0.
  explicit PackedStructure(const Mask& mask, ImageFormat format = ImageFormat::bitmask_f32,
                           const ImageMemory& memory = {}) {
    const auto word_at = [&mask](std::size_t r, std::size_t t) { return mask.row_words(r)[t]; };
    build(mask.rows(), mask.cols(), mask.words_per_row(), format, memory, word_at);
  }
  /// The same with the positions of another.
  PackedStructure(const PackedStructure& other, ImageFormat format, const ImageMemory& memory) {
    const auto word_at = [&other](std::size_t r, std::size_t t) { return other.words[other.word_index(r, t)]; };
    build(other.rows, other.cols, other.tiles, format, memory, word_at);
  }
  PackedStructure(const PackedStructure&) = delete;
  PackedStructure& operator=(const PackedStructure&) = delete;

  /// Bytes of an image with the positions of a mask.
  static std::size_t image_bytes(const Mask& mask, ImageFormat format) {
    const auto word_at = [&mask](std::size_t r, std::size_t t) { return mask.row_words(r)[t]; };
    return header_of(mask.rows(), mask.cols(), mask.words_per_row(), format, word_at).bytes;
  }

  template <class Element>
  std::span<Element> part(ImagePart which) const noexcept {
    return image_part<Element>(image.get(), header.part(which).offset, header.part(which).bytes);
  }

  std::size_t kept() const noexcept { return offsets.back(); }
  std::size_t bytes() const noexcept { return words.size_bytes() + offsets.size_bytes(); }
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
    return rows == other.rows && cols == other.cols && std::ranges::equal(words, other.words);
  }

 private:
  template <class Words>
  static ImageHeader header_of(std::size_t rows, std::size_t cols, std::size_t tiles, ImageFormat format,
                               const Words& word_at) {
    std::size_t kept = 0;
    std::size_t nibble_bytes = 0;
    bool half = rows != 0 && cols != 0 && rows % tile_rows == 0 && cols % tile_cols == 0;
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t t = 0; t < tiles; ++t) {
        const std::uint64_t word = word_at(r, t);
        const auto count = static_cast<std::size_t>(std::popcount(word));
        kept += count;
        nibble_bytes += (count + 1) / 2;
        half = half && four_of_eight(word);
      }
    return image_header(format, rows, cols, kept, format == ImageFormat::bitmask_int4 ? nibble_bytes : kept, half);
  }

  template <class Words>
  void build(std::size_t n_rows, std::size_t n_cols, std::size_t n_tiles, ImageFormat format, const ImageMemory& memory,
             const Words& word_at) {
    header = header_of(n_rows, n_cols, n_tiles, format, word_at);
    image = memory.take(header.bytes);
    std::memcpy(image.get(), &header, sizeof header);
    rows = n_rows;
    cols = n_cols;
    row_blocks = (rows + tile_rows - 1) / tile_rows;
    tiles = n_tiles;
    half = (header.flags & image_half) != 0;
    const auto to_words = part<std::uint64_t>(ImagePart::words);
    const auto to_offsets = part<std::uint64_t>(ImagePart::offsets);
    words = to_words;
    offsets = to_offsets;
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t t = 0; t < tiles; ++t) to_words[word_index(r, t)] = word_at(r, t);
    for (std::size_t tile = 0; tile < row_blocks * tiles; ++tile)
      to_offsets[tile + 1] = to_offsets[tile] + ones(words.data() + tile * tile_rows, tile_rows);
    if (format != ImageFormat::bitmask_int4) return;
    const auto bytes_before = part<std::uint64_t>(ImagePart::value_offsets);
    for (std::size_t tile = 0; tile < row_blocks * tiles; ++tile) {
      bytes_before[tile + 1] = bytes_before[tile];
      for (std::size_t i = 0; i < tile_rows; ++i)
        bytes_before[tile + 1] += (ones(words.data() + tile * tile_rows + i, 1) + 1) / 2;
    }
  }

  static std::size_t ones(const std::uint64_t* word, std::size_t n) noexcept {
    std::size_t count = 0;
    for (std::size_t i = 0; i < n; ++i) count += static_cast<std::size_t>(std::popcount(word[i]));
    return count;
  }
};

}  // namespace detail
}  // namespace losa::inline v0
