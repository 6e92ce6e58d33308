#pragma once
// One pass over the bytes of an image from anywhere: afterwards kernels may index with them. Values of f32, bf16 and f16
// are not read: those that are not finite are the caller's matter, as in a matrix that he packs.

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

#include <losa/core/error.hpp>
#include <losa/core/types.hpp>
#include <losa/gemm/image_header.hpp>
#include <losa/gemm/image_memory.hpp>
#include <losa/gemm/list_layout.hpp>
#include <losa/gemm/packed_layout.hpp>
#include <losa/gemm/packed_structure.hpp>

namespace losa::inline v0::detail {

template <class... Parts>
[[noreturn]] void refuse_image(const Parts&... parts) {
  raise<FormatError>("image: ", parts...);
}

inline bool known_format(std::uint32_t format) noexcept { return name_of(static_cast<ImageFormat>(format)) != "?"; }

/// The header, after everything in it has been found to follow from its first eight fields. Throws FormatError.
inline ImageHeader check_header(std::span<const std::byte> image) {
  if (image.size() < image_header_bytes) refuse_image("a header takes ", image_header_bytes, " bytes, got ", image.size());
  ImageHeader header;
  std::memcpy(&header, image.data(), sizeof header);
  if (header.magic != image_magic) refuse_image("the first bytes are not those of an image");
  if (header.version != image_version)
    refuse_image("this reads version ", image_version, ", got version ", header.version);
  if (!known_format(header.format)) refuse_image("no such format: ", header.format);
  if ((header.flags & ~image_half) != 0) refuse_image("unknown flags: ", header.flags);
  const auto format = static_cast<ImageFormat>(header.format);
  if (is_list(format) && header.flags != 0) refuse_image("lists have no flags, got ", header.flags);
  if (header.stored > image.size() || header.kept > 2 * image.size())
    refuse_image("more weights than bytes: ", header.kept, " kept, ", header.stored, " stored");
  if (header.rows != 0 && header.cols == 0 && header.rows > image.size())
    refuse_image(header.rows, " rows have no columns");
  const ImageHeader expected = image_header(format, header.rows, header.cols, header.kept, header.stored,
                                            (header.flags & image_half) != 0);
  if (header.bytes != expected.bytes)
    refuse_image(name_of(format), " of ", header.rows, " × ", header.cols, " takes ", expected.bytes,
                 " bytes, the header says ", header.bytes);
  if (header != expected) refuse_image("a part is not where ", name_of(format), " has it");
  if (header.bytes > image.size()) refuse_image(header.bytes, " bytes are needed, got ", image.size());
  const auto zero = [](std::byte b) { return b == std::byte{0}; };
  if (!std::all_of(image.begin() + sizeof header, image.begin() + image_header_bytes, zero))
    refuse_image("the header is not followed by zeros");
  for (const ImageHeader::Part& part : header.parts) {
    if (part.offset == 0) continue;
    const std::uint64_t end = part.offset + part.bytes;
    std::uint64_t next = header.bytes;
    for (const ImageHeader::Part& other : header.parts)
      if (other.offset > part.offset) next = std::min(next, other.offset);
    if (!std::all_of(image.begin() + static_cast<std::ptrdiff_t>(end), image.begin() + static_cast<std::ptrdiff_t>(next),
                     zero))
      refuse_image("a part is not followed by zeros");
  }
  return header;
}

template <class Element>
std::span<const Element> const_part(std::span<const std::byte> image, const ImageHeader& header,
                                    ImagePart which) noexcept {
  const ImageHeader::Part& part = header.part(which);
  return {reinterpret_cast<const Element*>(image.data() + part.offset),
          static_cast<std::size_t>(part.bytes / sizeof(Element))};
}

/// Words and offsets of the bitmask.
inline void check_words(std::span<const std::byte> image, const ImageHeader& header) {
  const auto words = const_part<std::uint64_t>(image, header, ImagePart::words);
  const auto offsets = const_part<std::uint64_t>(image, header, ImagePart::offsets);
  const std::size_t tiles = header.cols / tile_cols + (header.cols % tile_cols != 0);
  const bool nibbles = header.format == static_cast<std::uint32_t>(ImageFormat::bitmask_int4);
  const auto bytes_before = const_part<std::uint64_t>(image, header, ImagePart::value_offsets);
  std::uint64_t kept = 0;
  std::uint64_t bytes = 0;
  bool half = true;
  for (std::size_t tile = 0; tile + 1 < offsets.size(); ++tile) {
    if (offsets[tile] != kept) refuse_image("tile ", tile, " begins at value ", kept, ", not at ", offsets[tile]);
    if (nibbles && bytes_before[tile] != bytes)
      refuse_image("the values of tile ", tile, " begin at byte ", bytes, ", not at ", bytes_before[tile]);
    const std::size_t first_row = tile / tiles * tile_rows;
    const std::size_t first_col = tile % tiles * tile_cols;
    const std::uint64_t inside = header.cols - first_col >= tile_cols
                                     ? ~std::uint64_t{0}
                                     : (std::uint64_t{1} << (header.cols - first_col)) - 1;
    std::uint64_t outside = 0;
    for (std::size_t i = 0; i < tile_rows; ++i) {
      const std::uint64_t word = words[tile * tile_rows + i];
      outside |= word & (first_row + i < header.rows ? ~inside : ~std::uint64_t{0});
      const auto count = static_cast<std::uint64_t>(std::popcount(word));
      kept += count;
      bytes += (count + 1) / 2;
      half = half && four_of_eight(word);
    }
    if (outside != 0) refuse_image("tile ", tile, " keeps a weight outside of the matrix");
  }
  if (offsets.back() != kept || header.kept != kept)
    refuse_image("the mask keeps ", kept, " weights, the header says ", header.kept, ", the last offset ", offsets.back());
  if (nibbles && (bytes_before.back() != bytes || header.stored != bytes))
    refuse_image("the values take ", bytes, " bytes, the header says ", header.stored);
  if (!nibbles && header.stored != kept) refuse_image(header.stored, " values for ", kept, " weights");
  half = half && header.rows != 0 && header.cols != 0 && header.rows % tile_rows == 0 && header.cols % tile_cols == 0;
  if (half != ((header.flags & image_half) != 0)) refuse_image("the flag for 4 of 8 columns is wrong");
}

/// Scales: not negative, finite. As integers, so that -ffast-math changes nothing.
template <class Bits>
void check_scales(std::span<const std::byte> image, const ImageHeader& header, Bits infinity) {
  bool bad = false;
  for (const Bits bits : const_part<Bits>(image, header, ImagePart::scales)) bad |= bits >= infinity;
  if (bad) refuse_image("a scale is negative or not finite");
}

inline void check_bytes(std::span<const std::byte> image, const ImageHeader& header) {
  bool bad = false;
  for (const std::uint8_t value : const_part<std::uint8_t>(image, header, ImagePart::values)) bad |= value == 0x80;
  if (bad) refuse_image("an integer is -128");
}

/// A nibble is 1 to 15, and 0 where the last byte of a row's weights in a tile holds one.
inline void check_nibbles(std::span<const std::byte> image, const ImageHeader& header) {
  const auto words = const_part<std::uint64_t>(image, header, ImagePart::words);
  const auto values = const_part<std::uint8_t>(image, header, ImagePart::values);
  std::size_t zeros = 0;
  for (const std::uint8_t value : values)
    zeros += static_cast<std::size_t>((value & 0x0f) == 0) + static_cast<std::size_t>((value & 0xf0) == 0);
  std::size_t odd = 0;
  std::size_t at = 0;
  bool bad = false;
  for (const std::uint64_t word : words) {
    const auto count = static_cast<std::size_t>(std::popcount(word));
    at += (count + 1) / 2;
    if (count % 2 == 0) continue;
    ++odd;
    bad |= (values[at - 1] & 0xf0) != 0;
  }
  if (bad || zeros != odd) refuse_image("an integer is -8, or a nibble without a weight is not 0");
}

/// Counts, offsets and columns of lists, and that what fills them up is 0.
inline void check_lists(std::span<const std::byte> image, const ImageHeader& header) {
  const auto counts = const_part<std::uint8_t>(image, header, ImagePart::words);
  const auto offsets = const_part<std::uint64_t>(image, header, ImagePart::offsets);
  const std::uint8_t* columns = const_part<std::uint8_t>(image, header, ImagePart::columns).data();
  const std::size_t width = value_bytes(static_cast<ImageFormat>(header.format));
  const std::byte* const values = image.data() + header.part(ImagePart::values).offset;
  const std::size_t ranges = header.cols / ListLayout::range_cols + (header.cols % ListLayout::range_cols != 0);
  std::uint64_t stored = 0;
  std::uint64_t kept = 0;
  for (std::size_t tile = 0; tile + 1 < offsets.size(); ++tile) {
    if (offsets[tile] != stored) refuse_image("list ", tile, " begins at ", stored, ", not at ", offsets[tile]);
    const std::size_t cols =
        std::min<std::size_t>(ListLayout::range_cols, header.cols - tile % ranges * ListLayout::range_cols);
    for (std::size_t i = 0; i < tile_rows; ++i) {
      const std::uint8_t* const count = counts.data() + (tile * tile_rows + i) * 2;
      const std::size_t first = 4 * std::size_t{count[0]};
      const std::size_t all = first + 4 * std::size_t{count[1]};
      if (all == 0) continue;
      if (tile / ranges * tile_rows + i >= header.rows) refuse_image("list ", tile, " has weights past the last row");
      if (all > header.stored - stored || all > ListLayout::range_cols)
        refuse_image("list ", tile, " has more weights than there are");
      const std::uint8_t* const column = columns + stored;
      std::size_t n = all;  // without what fills up
      while (n > 1 && all - n < 3 && column[n - 1] == column[n - 2]) --n;
      bool bad = column[all - 1] >= cols;
      for (std::size_t k = 1; k < n; ++k) bad |= column[k] <= column[k - 1];
      const auto lower = static_cast<std::size_t>(std::lower_bound(column, column + n, ListLayout::half_cols) - column);
      bad |= lower / 4 != count[0];
      const std::byte* const fillers = values + (stored + n) * width;
      bad |= std::any_of(fillers, fillers + (all - n) * width, [](std::byte b) { return b != std::byte{0}; });
      if (bad) refuse_image("list ", tile, ", row ", i, ": columns do not rise, or lie outside of the matrix");
      stored += all;
      kept += n;
    }
  }
  if (offsets.back() != stored || header.stored != stored || header.kept != kept)
    refuse_image("lists hold ", kept, " weights and ", stored, " values, the header says ", header.kept, " and ",
                 header.stored);
}

/// The header of an image that kernels may read. Throws FormatError, ShapeError if it is not aligned to 64, RangeError
/// if its shape is too large. Costs one pass over all but floats.
inline ImageHeader check_image(std::span<const std::byte> image) {
  ImageMemory::expect_aligned(image.data());
  const ImageHeader header = check_header(image);
  switch (static_cast<ImageFormat>(header.format)) {
    case ImageFormat::bitmask_int8:
      check_words(image, header);
      check_scales<std::uint32_t>(image, header, 0x7f800000u);
      check_bytes(image, header);
      break;
    case ImageFormat::bitmask_int4:
      check_words(image, header);
      check_scales<std::uint16_t>(image, header, 0x7c00u);
      check_nibbles(image, header);
      break;
    case ImageFormat::list_int8:
      check_lists(image, header);
      check_scales<std::uint32_t>(image, header, 0x7f800000u);
      check_bytes(image, header);
      break;
    default:
      if (is_list(static_cast<ImageFormat>(header.format)))
        check_lists(image, header);
      else
        check_words(image, header);
  }
  return header;
}

}  // namespace losa::inline v0::detail
