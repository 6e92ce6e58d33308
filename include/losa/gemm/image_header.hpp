#pragma once
// An image: a packed matrix of any format as one block of bytes, which may be copied, mapped from a file or sent to a
// device as it is. A header, then parts that each begin at a multiple of 64 bytes. docs/format.md has it byte by byte.
//
//   bitmask: words, offsets, scales (int8, int4), value offsets (int4), values
//   list:    counts in place of words, offsets, scales (int8), columns, values
//
// Numbers are little-endian. Words, columns and values are followed by 64 zeros or more, which kernels may read.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string_view>
#include <type_traits>

#include <losa/core/error.hpp>
#include <losa/core/types.hpp>
#include <losa/gemm/list_layout.hpp>
#include <losa/gemm/packed_layout.hpp>
#include <losa/gemm/scratch.hpp>

namespace losa::inline v0 {

/// What an image holds. The numbers are those of files: none is ever given another meaning. A target of another byte
/// order would have formats of its own.
enum class ImageFormat : std::uint32_t {
  bitmask_f32 = 1,
  bitmask_bf16 = 2,
  bitmask_f16 = 3,
  bitmask_int8 = 4,
  bitmask_int4 = 5,
  bitmask_f64 = 6,  // has no products
  list_f32 = 17,
  list_bf16 = 18,
  list_f16 = 19,
  list_int8 = 20,
};

/// "bitmask_f32", …; "?" for a number that is none.
constexpr std::string_view name_of(ImageFormat format) noexcept {
  switch (format) {
    case ImageFormat::bitmask_f32:
      return "bitmask_f32";
    case ImageFormat::bitmask_bf16:
      return "bitmask_bf16";
    case ImageFormat::bitmask_f16:
      return "bitmask_f16";
    case ImageFormat::bitmask_int8:
      return "bitmask_int8";
    case ImageFormat::bitmask_int4:
      return "bitmask_int4";
    case ImageFormat::bitmask_f64:
      return "bitmask_f64";
    case ImageFormat::list_f32:
      return "list_f32";
    case ImageFormat::list_bf16:
      return "list_bf16";
    case ImageFormat::list_f16:
      return "list_f16";
    case ImageFormat::list_int8:
      return "list_int8";
  }
  return "?";
}

namespace detail {

static_assert(std::endian::native == std::endian::little, "losa's packed matrices are little-endian");

enum class ImagePart { words, offsets, scales, value_offsets, columns, values };
inline constexpr std::size_t image_parts = 6;
inline constexpr std::size_t image_header_bytes = 192;
inline constexpr std::uint32_t image_version = 1;
inline constexpr std::array<char, 8> image_magic{'l', 'o', 's', 'a', '\r', '\n', '\x1a', '\n'};
inline constexpr std::uint64_t image_half = 1;  // the only flag: PackedLayout::half

struct ImageHeader {
  struct Part {
    std::uint64_t offset;  // from the first byte of the image; 0 for one that the format lacks
    std::uint64_t bytes;   // without the zeros that follow

    bool operator==(const Part&) const = default;
  };

  std::array<char, 8> magic;
  std::uint32_t version;
  std::uint32_t format;
  std::uint64_t bytes;  // of the whole image, a multiple of 64
  std::uint64_t rows;
  std::uint64_t cols;
  std::uint64_t kept;    // weights
  std::uint64_t stored;  // values of lists with what fills them up; bytes of int4 values; else kept
  std::uint64_t flags;
  std::array<Part, image_parts> parts;

  const Part& part(ImagePart which) const noexcept { return parts[static_cast<std::size_t>(which)]; }
  bool operator==(const ImageHeader&) const = default;
};
static_assert(std::is_trivially_copyable_v<ImageHeader> && sizeof(ImageHeader) == 160 &&
              sizeof(ImageHeader) <= image_header_bytes);

constexpr bool is_list(ImageFormat format) noexcept { return static_cast<std::uint32_t>(format) >= 16; }

/// Bytes of a stored value; int4 counts its bytes itself.
constexpr std::size_t value_bytes(ImageFormat format) noexcept {
  switch (format) {
    case ImageFormat::bitmask_f32:
    case ImageFormat::list_f32:
      return 4;
    case ImageFormat::bitmask_bf16:
    case ImageFormat::bitmask_f16:
    case ImageFormat::list_bf16:
    case ImageFormat::list_f16:
      return 2;
    case ImageFormat::bitmask_f64:
      return 8;
    default:
      return 1;
  }
}

/// Throws RangeError where rows · cols, and so the size of some part, is too large; rows without columns would ask for
/// memory that no mask backs.
inline void expect_image_sizes(std::string_view where, std::size_t rows, std::size_t cols) {
  const std::size_t limit = std::numeric_limits<std::size_t>::max() / 1024;
  if (rows > limit || cols > limit || (cols != 0 && rows > limit / cols))
    raise<RangeError>(where, ": ", rows, " × ", cols, " is too large");
}

/// The header of an image of that shape, with everything that follows from it. Throws RangeError if it is too large.
inline ImageHeader image_header(ImageFormat format, std::size_t rows, std::size_t cols, std::size_t kept,
                                std::size_t stored, bool half) {
  expect_image_sizes("image", rows, cols);
  const std::size_t limit = std::numeric_limits<std::size_t>::max() / 1024;
  if (stored > limit) raise<RangeError>("image: ", stored, " values are too many");
  const std::size_t blocks = rows / tile_rows + (rows % tile_rows != 0);
  const std::size_t across_cols = is_list(format) ? ListLayout::range_cols : tile_cols;
  const std::size_t across = cols / across_cols + (cols % across_cols != 0);
  if (across != 0 && blocks > limit / across) raise<RangeError>("image: ", rows, " × ", cols, " is too large");
  ImageHeader header{.magic = image_magic,
                     .version = image_version,
                     .format = static_cast<std::uint32_t>(format),
                     .bytes = image_header_bytes,
                     .rows = rows,
                     .cols = cols,
                     .kept = kept,
                     .stored = stored,
                     .flags = half ? image_half : 0,
                     .parts = {}};
  const auto add = [&header](ImagePart which, std::size_t bytes, bool padded) {
    header.parts[static_cast<std::size_t>(which)] = {header.bytes, bytes};
    header.bytes += round_up(bytes + (padded ? cache_line : 0), cache_line);
  };
  const std::size_t tiles = blocks * across;
  add(ImagePart::words, tiles * tile_rows * (is_list(format) ? 2 : sizeof(std::uint64_t)), true);
  add(ImagePart::offsets, (tiles + 1) * sizeof(std::uint64_t), false);
  if (format == ImageFormat::bitmask_int8 || format == ImageFormat::list_int8)
    add(ImagePart::scales, blocks * tile_rows * sizeof(float), false);
  if (format == ImageFormat::bitmask_int4) {
    add(ImagePart::scales, tiles * tile_rows * sizeof(f16), false);
    add(ImagePart::value_offsets, (tiles + 1) * sizeof(std::uint64_t), false);
  }
  if (is_list(format)) add(ImagePart::columns, stored, true);
  add(ImagePart::values, stored * value_bytes(format), true);
  return header;
}

}  // namespace detail
}  // namespace losa::inline v0
