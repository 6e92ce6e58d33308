#pragma once
// A packed matrix with a byte for the column of every kept weight instead of a mask: nothing is decoded. For products
// of 5 to 64 tokens, which spend long on decoding masks; one token is faster with the bitmask.
// Bytes per weight at density d: (sizeof(Element) + 1)·d, what fills rows up, and two counts for each row and 256
// columns, where the bitmask takes sizeof(Element)·d + 1/8. docs/kernels/README.md has the figures.
//
//   losa::ListMatrix<float> list(packed);             // or bf16, f16, losa::Int8
//   losa::spmm(list, losa::view(x, tokens, in), losa::view(y, tokens, out), pool);

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/types.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/list_layout.hpp>
#include <losa/gemm/packed_matrix.hpp>
#include <losa/gemm/packed_structure.hpp>
#include <losa/gemm/quantized_matrix.hpp>
#include <losa/gemm/scratch.hpp>
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
  explicit ListMatrix(const PackedMatrix<float>& packed, ExecutorRef executor = {})
      : rows_(packed.rows()),
        cols_(packed.cols()),
        kept_(packed.kept()),
        blocks_(packed.structure().row_blocks),
        ranges_((cols_ + ListLayout::range_cols - 1) / ListLayout::range_cols) {
    if constexpr (std::same_as<Element, Int8>) {
      const QuantizedMatrix<Int8> integers(packed, executor);
      const Int8Weights weights = integers.weights();
      scales_.assign(weights.scales, weights.scales + blocks_ * detail::tile_rows);
      fill(packed.structure(), executor, [&](std::size_t k) { return weights.values[k]; });
    } else {
      const float* const values = packed.values().data();
      fill(packed.structure(), executor, [&](std::size_t k) { return narrow<Element>(values[k]); });
    }
  }

  std::size_t rows() const noexcept { return rows_; }
  std::size_t cols() const noexcept { return cols_; }
  std::size_t kept() const noexcept { return kept_; }
  /// Memory held.
  std::size_t bytes() const noexcept {
    return values_.size() * sizeof(Value) + columns_.size() + counts_.size() + scales_.size() * sizeof(float) +
           offsets_.size() * sizeof(std::size_t);
  }

  /// dense[r, c] = the weight as the products see it, +0 where pruned. Throws ShapeError unless dense is rows × cols.
  void to_dense(MatrixView<float> dense) const {
    detail::expect_shape("to_dense", "dense", dense, rows_, cols_);
    for (std::size_t r = 0; r < rows_; ++r) std::ranges::fill(dense.row(r), 0.0f);
    std::size_t k = 0;
    for (std::size_t list = 0; list < counts_.size(); ++list) {
      const std::size_t tile = list / (2 * detail::tile_rows);
      const std::size_t r = tile / ranges_ * detail::tile_rows + list / 2 % detail::tile_rows;
      for (std::size_t n = 4 * std::size_t{counts_[list]}; n != 0; --n, ++k) {
        float& weight = dense(r, tile % ranges_ * ListLayout::range_cols + columns_.data()[k]);
        if constexpr (std::same_as<Element, Int8>) {
          weight += static_cast<float>(values_.data()[k]) * scales_[r];
        } else {
          weight += widen(values_.data()[k]);  // fillers add 0
        }
      }
    }
  }

  /// For backends.
  ListLayout layout() const noexcept {
    return {.rows = rows_,
            .cols = cols_,
            .ranges = ranges_,
            .counts = counts_.data(),
            .col_indices = columns_.data(),
            .offsets = offsets_.data()};
  }
  ListWeights<Value> weights() const noexcept { return {values_.data(), scales_.empty() ? nullptr : scales_.data()}; }

 private:
  static constexpr std::size_t range_tiles = ListLayout::range_cols / detail::tile_cols;

  /// Mask words of a row of block b in a range; past the last tile they are 0.
  static std::array<std::uint64_t, range_tiles> words(const detail::PackedStructure& s, std::size_t b,
                                                      std::size_t range, std::size_t i) noexcept {
    std::array<std::uint64_t, range_tiles> found{};
    for (std::size_t j = 0; j < range_tiles && range * range_tiles + j < s.tiles; ++j)
      found[j] = s.words.data()[(b * s.tiles + range * range_tiles + j) * detail::tile_rows + i];
    return found;
  }

  /// value(k) is the one that comes k-th in packed order.
  template <class Function>
  void fill(const detail::PackedStructure& s, ExecutorRef executor, Function&& value) {
    counts_.resize(blocks_ * ranges_ * 2 * detail::tile_rows);
    offsets_.resize(blocks_ * ranges_ + 1);
    std::size_t total = 0;
    for (std::size_t tile = 0; tile < blocks_ * ranges_; ++tile) {
      offsets_[tile] = total;
      for (std::size_t i = 0; i < detail::tile_rows; ++i) {
        std::size_t half = 0;  // of them, those in the first half
        std::size_t kept = 0;
        const auto row = words(s, tile / ranges_, tile % ranges_, i);
        for (std::size_t j = 0; j < range_tiles; ++j) {
          kept += static_cast<std::size_t>(std::popcount(row[j]));
          if (j + 1 == range_tiles / 2) half = kept;
        }
        std::uint8_t* const counts = counts_.data() + (tile * detail::tile_rows + i) * 2;
        counts[0] = static_cast<std::uint8_t>(half / 4);
        counts[1] = static_cast<std::uint8_t>((kept + 3) / 4 - half / 4);
        total += (kept + 3) / 4 * 4;
      }
    }
    offsets_.back() = total;
    values_ = detail::PaddedArray<Value>(total);
    columns_ = detail::PaddedArray<std::uint8_t>(total);
    executor.parallel_for(blocks_, [&](std::size_t b) {
      for (std::size_t range = 0; range < ranges_; ++range) fill_range(s, b, range, value);
    });
  }

  template <class Function>
  void fill_range(const detail::PackedStructure& s, std::size_t b, std::size_t range, Function& value) {
    std::array<std::size_t, range_tiles> next{};  // value of each tile
    for (std::size_t j = 0; j < range_tiles && range * range_tiles + j < s.tiles; ++j)
      next[j] = s.offsets[b * s.tiles + range * range_tiles + j];
    std::size_t n = offsets_[b * ranges_ + range];
    for (std::size_t i = 0; i < detail::tile_rows; ++i) {
      const auto row = words(s, b, range, i);
      std::uint8_t column = 0;
      for (std::size_t j = 0; j < range_tiles; ++j)
        for (std::uint64_t word = row[j]; word != 0; word &= word - 1, ++n) {
          column = static_cast<std::uint8_t>(j * detail::tile_cols + static_cast<std::size_t>(std::countr_zero(word)));
          columns_.data()[n] = column;
          values_.data()[n] = value(next[j]++);
        }
      for (; n % 4 != 0; ++n) columns_.data()[n] = column;  // values are 0 from the start
    }
  }

  std::size_t rows_;
  std::size_t cols_;
  std::size_t kept_;
  std::size_t blocks_;
  std::size_t ranges_;
  detail::PaddedArray<Value> values_;
  detail::PaddedArray<std::uint8_t> columns_;
  std::vector<std::uint8_t> counts_;
  std::vector<std::size_t> offsets_;
  std::vector<float> scales_;
};

}  // namespace losa::inline v0
