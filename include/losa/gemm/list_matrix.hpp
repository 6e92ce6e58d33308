#pragma once
// A packed matrix with a byte for the column of every kept weight instead of a mask: nothing is decoded. For products
// of 5 to 64 tokens, which spend long on decoding masks; one token is faster with the bitmask.
// Bytes per weight at density d: (sizeof(T) + 1)·d, what fills rows up, and two counts for each row and 256 columns,
// where the bitmask takes sizeof(T)·d + 1/8. docs/kernels/README.md has the figures.
//
//   losa::ListMatrix<float> list(packed);             // or bf16, f16, losa::Int8
//   losa::spmm(list, losa::view(x, tokens, in), losa::view(y, tokens, out), pool);

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/core/types.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/list_layout.hpp>
#include <losa/gemm/packed_matrix.hpp>
#include <losa/gemm/packed_structure.hpp>
#include <losa/gemm/quantized_matrix.hpp>
#include <losa/gemm/scratch.hpp>
#include <losa/gemm/weights.hpp>

namespace losa::inline v0 {

template <class T>
concept ListValue = std::same_as<T, float> || std::same_as<T, bf16> || std::same_as<T, f16> || std::same_as<T, Int8>;

template <ListValue T>
class ListMatrix {
 public:
  using Value = std::conditional_t<std::same_as<T, Int8>, std::int8_t, T>;

  /// The kept weights of `packed`. Int8 rounds as quantize does, and throws NumericError if a value is not finite.
  explicit ListMatrix(const PackedMatrix<float>& packed)
      : rows_(packed.rows()),
        cols_(packed.cols()),
        kept_(packed.kept()),
        blocks_(packed.structure().row_blocks),
        ranges_((cols_ + ListLayout::range_cols - 1) / ListLayout::range_cols),
        shares_(packed.structure().shares) {
    if constexpr (std::same_as<T, Int8>) {
      const QuantizedMatrix<Int8> integers(packed);
      const Int8Weights weights = integers.weights();
      scales_.assign(weights.scales, weights.scales + blocks_ * detail::tile_rows);
      fill(packed, [&](std::size_t k) { return weights.values[k]; });
    } else {
      fill(packed, [&](std::size_t k) { return narrow<T>(packed.values()[k]); });
    }
  }

  std::size_t rows() const noexcept { return rows_; }
  std::size_t cols() const noexcept { return cols_; }
  std::size_t kept() const noexcept { return kept_; }
  /// Memory held.
  std::size_t bytes() const noexcept {
    return values_.size() * sizeof(Value) + columns_.size() + counts_.size() + scales_.size() * sizeof(float) +
           (offsets_.size() + shares_.size()) * sizeof(std::size_t);
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
        if constexpr (std::same_as<T, Int8>) {
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
            .columns = columns_.data(),
            .offsets = offsets_.data(),
            .shares = shares_.data(),
            .share_count = shares_.size() - 1};
  }
  ListWeights<Value> weights() const noexcept { return {values_.data(), scales_.empty() ? nullptr : scales_.data()}; }

 private:
  /// Calls f(block and range, row of the block, its columns there and where their values are, in pairs) in the order of
  /// the format.
  template <class F>
  void for_each_list(const PackedMatrix<float>& packed, F&& f) const {
    std::vector<std::vector<std::size_t>> rows(detail::tile_rows);  // (column, index) pairs
    for (std::size_t b = 0; b < blocks_; ++b) {
      for (std::size_t i = 0; i < detail::tile_rows; ++i) {
        rows[i].clear();
        if (b * detail::tile_rows + i < rows_)
          packed.for_each_kept(b * detail::tile_rows + i, [&](std::size_t c, std::size_t k) {
            rows[i].push_back(c);
            rows[i].push_back(k);
          });
      }
      std::vector<std::size_t> at(detail::tile_rows);
      for (std::size_t range = 0; range < ranges_; ++range)
        for (std::size_t i = 0; i < detail::tile_rows; ++i) {
          const std::size_t begin = at[i];
          while (at[i] < rows[i].size() && rows[i][at[i]] < (range + 1) * ListLayout::range_cols) at[i] += 2;
          f(b * ranges_ + range, i, std::span(rows[i]).subspan(begin, at[i] - begin));
        }
    }
  }

  template <class F>
  void fill(const PackedMatrix<float>& packed, F&& value) {
    counts_.resize(blocks_ * ranges_ * 2 * detail::tile_rows);
    offsets_.resize(blocks_ * ranges_);
    std::size_t total = 0;
    for_each_list(packed, [&](std::size_t tile, std::size_t i, std::span<const std::size_t> list) {
      if (i == 0) offsets_[tile] = total;
      const std::size_t fours = (list.size() / 2 + 3) / 4;
      std::size_t first = 0;  // of them, those that end in the first half
      while (8 * first + 6 < list.size() && list[8 * first + 6] % ListLayout::range_cols < ListLayout::half_cols)
        ++first;
      counts_[(tile * detail::tile_rows + i) * 2] = static_cast<std::uint8_t>(first);
      counts_[(tile * detail::tile_rows + i) * 2 + 1] = static_cast<std::uint8_t>(fours - first);
      total += 4 * fours;
    });
    values_ = detail::PaddedArray<Value>(total);
    columns_ = detail::PaddedArray<std::uint8_t>(total);
    std::size_t n = 0;
    for_each_list(packed, [&](std::size_t, std::size_t, std::span<const std::size_t> list) {
      std::uint8_t column = 0;
      for (std::size_t j = 0; j < list.size(); j += 2, ++n) {
        column = static_cast<std::uint8_t>(list[j] % ListLayout::range_cols);
        columns_.data()[n] = column;
        values_.data()[n] = value(list[j + 1]);
      }
      for (; n % 4 != 0; ++n) columns_.data()[n] = column;  // values are 0 from the start
    });
  }

  std::size_t rows_;
  std::size_t cols_;
  std::size_t kept_;
  std::size_t blocks_;
  std::size_t ranges_;
  std::vector<std::size_t> shares_;
  detail::PaddedArray<Value> values_;
  detail::PaddedArray<std::uint8_t> columns_;
  std::vector<std::uint8_t> counts_;
  std::vector<std::size_t> offsets_;
  std::vector<float> scales_;
};

}  // namespace losa::inline v0
