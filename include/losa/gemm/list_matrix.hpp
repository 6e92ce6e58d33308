#pragma once
// A packed matrix with a byte for the column of every kept weight instead of a mask: nothing is decoded. For products
// of 5 to 64 tokens, which spend long on decoding masks; one token is faster with the bitmask.
// Bytes per weight at density d: (sizeof(Element) + 1)·d, what fills rows up, and two counts for each row and 256
// columns, where the bitmask takes sizeof(Element)·d + 1/8. An image (image_header.hpp), immutable.
// docs/kernels/README.md has the figures.
//
//   losa::ListMatrix<float> list(packed);             // or bf16, f16, losa::Int8
//   losa::spmm(list, losa::view(x, tokens, in), losa::view(y, tokens, out), pool);

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <type_traits>

#include <losa/core/error.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/types.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/image_header.hpp>
#include <losa/gemm/image_memory.hpp>
#include <losa/gemm/list_layout.hpp>
#include <losa/gemm/packed_matrix.hpp>
#include <losa/gemm/packed_structure.hpp>
#include <losa/gemm/quantized_matrix.hpp>
#include <losa/gemm/weights.hpp>

namespace losa::inline v0 {

template <class Element>
concept ListValue = std::same_as<Element, float> || std::same_as<Element, bf16> || std::same_as<Element, f16> ||
    std::same_as<Element, Int8>;

template <ListValue Element>
class ListMatrix {
 public:
  using Value = std::conditional_t<std::same_as<Element, Int8>, std::int8_t, Element>;

  /// The kept weights of `packed`. Int8 rounds as quantize does, and throws NumericError if a value is not finite.
  explicit ListMatrix(const PackedMatrix<float>& packed, ExecutorRef executor = {},
                      const detail::ImageMemory& memory = {}) {
    if constexpr (std::same_as<Element, Int8>) {
      const QuantizedMatrix<Int8> integers(packed, executor);
      const Int8Weights weights = integers.weights();
      build(packed.structure(), memory, executor, [&](std::size_t k) { return weights.values[k]; });
      std::ranges::copy(integers.scales(), part<float>(detail::ImagePart::scales).data());
    } else {
      const float* const values = packed.values().data();
      build(packed.structure(), memory, executor, [&](std::size_t k) { return narrow<Element>(values[k]); });
    }
  }

  std::size_t rows() const noexcept { return header_.rows; }
  std::size_t cols() const noexcept { return header_.cols; }
  std::size_t kept() const noexcept { return header_.kept; }
  /// Memory held. Copies share all of it.
  std::size_t bytes() const noexcept {
    std::size_t all = 0;
    for (const detail::ImageHeader::Part& each : header_.parts) all += each.bytes;
    return all;
  }

  /// dense[r, c] = the weight as the products see it, +0 where pruned. Throws ShapeError unless dense is rows × cols.
  void to_dense(MatrixView<float> dense) const {
    detail::expect_shape("to_dense", "dense", dense, rows(), cols());
    for (std::size_t r = 0; r < rows(); ++r) std::ranges::fill(dense.row(r), 0.0f);
    const ListLayout all = layout();
    const ListWeights<Value> values = weights();
    std::size_t k = 0;
    for (std::size_t list = 0; list < blocks() * all.ranges * 2 * detail::tile_rows; ++list) {
      const std::size_t tile = list / (2 * detail::tile_rows);
      const std::size_t r = tile / all.ranges * detail::tile_rows + list / 2 % detail::tile_rows;
      for (std::size_t n = 4 * std::size_t{all.counts[list]}; n != 0; --n, ++k) {
        float& weight = dense(r, tile % all.ranges * ListLayout::range_cols + all.col_indices[k]);
        if constexpr (std::same_as<Element, Int8>) {
          weight += static_cast<float>(values.values[k]) * values.scales[r];
        } else {
          weight += widen(values.values[k]);  // fillers add 0
        }
      }
    }
  }

  /// For backends.
  ListLayout layout() const noexcept {
    return {.rows = rows(),
            .cols = cols(),
            .ranges = ranges(),
            .counts = part<std::uint8_t>(detail::ImagePart::words).data(),
            .col_indices = part<std::uint8_t>(detail::ImagePart::columns).data(),
            .offsets = part<std::uint64_t>(detail::ImagePart::offsets).data()};
  }
  ListWeights<Value> weights() const noexcept {
    return {part<Value>(detail::ImagePart::values).data(),
            std::same_as<Element, Int8> ? part<float>(detail::ImagePart::scales).data() : nullptr};
  }

  std::size_t image_bytes() const noexcept { return header_.bytes; }
  std::span<const std::byte> image() const noexcept { return {image_.get(), image_bytes()}; }

 private:
  static constexpr ImageFormat format() noexcept {
    if constexpr (std::same_as<Element, float>) return ImageFormat::list_f32;
    if constexpr (std::same_as<Element, bf16>) return ImageFormat::list_bf16;
    if constexpr (std::same_as<Element, f16>) return ImageFormat::list_f16;
    return ImageFormat::list_int8;
  }
  template <class PartElement>
  std::span<PartElement> part(detail::ImagePart which) const noexcept {
    return detail::image_part<PartElement>(image_.get(), header_.part(which).offset, header_.part(which).bytes);
  }
  std::size_t blocks() const noexcept { return (rows() + detail::tile_rows - 1) / detail::tile_rows; }
  std::size_t ranges() const noexcept { return (cols() + ListLayout::range_cols - 1) / ListLayout::range_cols; }

  static constexpr std::size_t range_tiles = ListLayout::range_cols / detail::tile_cols;

  /// Mask words of a row of block b in a range; past the last tile they are 0.
  static std::array<std::uint64_t, range_tiles> words(const detail::PackedStructure& s, std::size_t b,
                                                      std::size_t range, std::size_t i) noexcept {
    std::array<std::uint64_t, range_tiles> found{};
    for (std::size_t j = 0; j < range_tiles && range * range_tiles + j < s.tiles; ++j)
      found[j] = s.words.data()[(b * s.tiles + range * range_tiles + j) * detail::tile_rows + i];
    return found;
  }

  /// Fours of weights that a row has in a range: of the first half alone, and the others.
  static std::array<std::uint8_t, 2> count(const std::array<std::uint64_t, range_tiles>& row) noexcept {
    std::size_t half = 0;
    std::size_t kept = 0;
    for (std::size_t j = 0; j < range_tiles; ++j) {
      kept += static_cast<std::size_t>(std::popcount(row[j]));
      if (j + 1 == range_tiles / 2) half = kept;
    }
    return {static_cast<std::uint8_t>(half / 4), static_cast<std::uint8_t>((kept + 3) / 4 - half / 4)};
  }

  /// value(k) is the one that comes k-th in packed order.
  template <class Function>
  void build(const detail::PackedStructure& s, const detail::ImageMemory& memory, ExecutorRef executor,
             Function&& value) {
    const std::size_t across = (s.cols + ListLayout::range_cols - 1) / ListLayout::range_cols;
    std::size_t total = 0;
    for (std::size_t tile = 0; tile < s.row_blocks * across; ++tile)
      for (std::size_t i = 0; i < detail::tile_rows; ++i) {
        const auto counts = count(words(s, tile / across, tile % across, i));
        total += 4 * (std::size_t{counts[0]} + counts[1]);
      }
    header_ = detail::image_header(format(), s.rows, s.cols, s.kept(), total, false);
    image_ = memory.take(header_.bytes);
    std::memcpy(image_.get(), &header_, sizeof header_);
    std::uint8_t* counts = part<std::uint8_t>(detail::ImagePart::words).data();
    const auto offsets = part<std::uint64_t>(detail::ImagePart::offsets);
    for (std::size_t tile = 0; tile < s.row_blocks * across; ++tile) {
      offsets[tile + 1] = offsets[tile];
      for (std::size_t i = 0; i < detail::tile_rows; ++i, counts += 2) {
        const auto found = count(words(s, tile / across, tile % across, i));
        std::ranges::copy(found, counts);
        offsets[tile + 1] += 4 * (std::size_t{found[0]} + found[1]);
      }
    }
    executor.parallel_for(s.row_blocks, [&](std::size_t b) {
      for (std::size_t range = 0; range < across; ++range) fill_range(s, b, range, value);
    });
  }

  template <class Function>
  void fill_range(const detail::PackedStructure& s, std::size_t b, std::size_t range, Function& value) const {
    std::array<std::size_t, range_tiles> next{};  // value of each tile
    for (std::size_t j = 0; j < range_tiles && range * range_tiles + j < s.tiles; ++j)
      next[j] = s.offsets[b * s.tiles + range * range_tiles + j];
    std::uint8_t* const columns = part<std::uint8_t>(detail::ImagePart::columns).data();
    Value* const values = part<Value>(detail::ImagePart::values).data();
    std::size_t n = part<std::uint64_t>(detail::ImagePart::offsets)[b * ranges() + range];
    for (std::size_t i = 0; i < detail::tile_rows; ++i) {
      const auto row = words(s, b, range, i);
      std::uint8_t column = 0;
      for (std::size_t j = 0; j < range_tiles; ++j)
        for (std::uint64_t word = row[j]; word != 0; word &= word - 1, ++n) {
          column = static_cast<std::uint8_t>(j * detail::tile_cols + static_cast<std::size_t>(std::countr_zero(word)));
          columns[n] = column;
          values[n] = value(next[j]++);
        }
      for (; n % 4 != 0; ++n) columns[n] = column;  // values are 0 from the start
    }
  }

  detail::ImageHeader header_{};
  std::shared_ptr<std::byte> image_;
};

}  // namespace losa::inline v0
