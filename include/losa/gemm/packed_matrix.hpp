#pragma once
// A masked weight matrix in the bitmask format: one bit per weight (Mask), and the values of the kept weights in
// row-major order without gaps. At density d that is sizeof(T)·d + 1/8 bytes per weight.
//
//   bit c % 64 of word c / 64 of row r = 1  ⇔  (r, c) is kept; its value is
//   values[row_offset(r) + ones of row r before column c]
//
// A kept weight may be 0.0 and stays kept. The structure (mask, offsets, row blocks) is immutable and shared between
// the copies that like() makes; a const matrix may be read from any number of threads.
//
//   auto packed = losa::pack(losa::view(weight, out, in), mask);
//   packed.bytes();                                        // what it costs
//   losa::PackedMatrix<float> gradient = packed.like();    // same positions, zero values

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/core/mask.hpp>
#include <losa/core/types.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/scratch.hpp>

namespace losa::inline v0 {

namespace detail {

/// What all matrices with the same kept positions share.
struct PackedStructure {
  Mask mask;
  std::vector<std::size_t> offsets;  // (rows + 1): values before each row
  std::vector<std::size_t> blocks;   // boundaries of the row blocks that parallel products work on

  explicit PackedStructure(Mask m) : mask(std::move(m)), offsets(mask.rows() + 1) {
    for (std::size_t r = 0; r < mask.rows(); ++r) offsets[r + 1] = offsets[r] + mask.kept_in_row(r);
    blocks = row_blocks(offsets);
  }

  /// Blocks of about equal kept count, whole rows each. Depends on the matrix alone, never on the number of threads.
  /// 16 blocks or more where there are rows enough (16 rows amortise a task), so that a few threads share them evenly.
  static std::vector<std::size_t> row_blocks(std::span<const std::size_t> offsets) {
    const std::size_t rows = offsets.size() - 1;
    const std::size_t kept = offsets.back();
    const std::size_t wanted = std::max((rows + 255) / 256, std::min<std::size_t>(16, (rows + 15) / 16));
    std::vector<std::size_t> bounds{0};
    for (std::size_t i = 1; i < wanted; ++i) {
      const std::size_t share = kept / wanted * i + kept % wanted * i / wanted;
      const auto at = std::lower_bound(offsets.begin(), offsets.end(), share);
      const auto row = std::min(static_cast<std::size_t>(at - offsets.begin()), rows);
      if (row > bounds.back()) bounds.push_back(row);
    }
    if (rows > bounds.back()) bounds.push_back(rows);
    return bounds;
  }
};

}  // namespace detail

template <Storage T = float>
class PackedMatrix {
 public:
  using value_type = T;

  PackedMatrix() : PackedMatrix(Mask{}) {}
  /// The kept positions of `mask`, every value zero.
  explicit PackedMatrix(Mask mask)
      : structure_(std::make_shared<const detail::PackedStructure>(std::move(mask))),
        values_(structure_->offsets.back()) {}

  /// From mask words (rows × ⌈cols/64⌉) and values. Throws ShapeError unless the counts of words and values match,
  /// RangeError if a bit past the last column is set, there are rows without columns,
  /// or rows · cols overflows. Safe on arbitrary input.
  static PackedMatrix from_parts(std::size_t rows, std::size_t cols, std::span<const std::uint64_t> words,
                                 std::span<const T> values) {
    check_sizes(rows, cols, words.size(), 64, "mask words");
    Mask mask(rows, cols);
    for (std::size_t r = 0; r < rows; ++r)
      std::ranges::copy(words.subspan(r * mask.words_per_row(), mask.words_per_row()), mask.row_words(r).begin());
    return assemble(std::move(mask), values.size(), values.data());
  }
  /// The same from bytes as files hold them, at any alignment: a mask of rows × ⌈cols/8⌉ bytes (bit c % 8 of byte
  /// c / 8 belongs to column c) and the values in little-endian order.
  static PackedMatrix from_bytes(std::size_t rows, std::size_t cols, std::span<const std::byte> mask_bytes,
                                 std::span<const std::byte> value_bytes) {
    check_sizes(rows, cols, mask_bytes.size(), 8, "mask bytes");
    if (value_bytes.size() % sizeof(T) != 0)
      detail::raise<ShapeError>("PackedMatrix: ", value_bytes.size(), " bytes of values are no multiple of ",
                                sizeof(T));
    const std::size_t row_bytes = cols / 8 + (cols % 8 != 0);
    Mask mask(rows, cols);
    for (std::size_t r = 0; r < rows && row_bytes != 0; ++r)
      std::memcpy(mask.row_words(r).data(), mask_bytes.data() + r * row_bytes, row_bytes);
    return assemble(std::move(mask), value_bytes.size() / sizeof(T), value_bytes.data());
  }

  std::size_t rows() const noexcept { return structure_->mask.rows(); }
  std::size_t cols() const noexcept { return structure_->mask.cols(); }
  std::size_t size() const noexcept { return structure_->mask.size(); }
  /// Number of kept weights.
  std::size_t kept() const noexcept { return values_.size(); }
  /// Memory held: values, mask and offsets. Matrices made by like() hold the last two in common.
  std::size_t bytes() const noexcept {
    return values_.size() * sizeof(T) + structure_->mask.bytes() +
           (structure_->offsets.size() + structure_->blocks.size()) * sizeof(std::size_t);
  }

  const Mask& mask() const noexcept { return structure_->mask; }
  /// Values of the kept weights in row-major order; one readable cache line follows them.
  std::span<const T> values() const noexcept { return {values_.data(), values_.size()}; }
  std::span<T> values() noexcept { return {values_.data(), values_.size()}; }
  std::span<const std::uint64_t> row_words(std::size_t r) const noexcept { return structure_->mask.row_words(r); }
  /// Index of the first value of row r; row_offset(rows()) == kept().
  std::size_t row_offset(std::size_t r) const noexcept { return structure_->offsets[r]; }
  std::span<const T> row_values(std::size_t r) const noexcept {
    return values().subspan(row_offset(r), row_offset(r + 1) - row_offset(r));
  }
  std::span<T> row_values(std::size_t r) noexcept {
    return values().subspan(row_offset(r), row_offset(r + 1) - row_offset(r));
  }

  /// Same structure (shared, not copied), zero values.
  PackedMatrix like() const { return PackedMatrix(structure_); }
  /// True if both hold the same kept positions.
  template <Storage U>
  bool same_structure(const PackedMatrix<U>& other) const noexcept {
    return structure_ == other.structure_ || structure_->mask == other.structure_->mask;
  }

  /// dense[r, c] = the weight, +0 where pruned. Throws ShapeError unless dense is rows × cols.
  void to_dense(MatrixView<float> dense) const {
    detail::expect_shape("to_dense", "dense", dense, rows(), cols());
    for (std::size_t r = 0; r < rows(); ++r) {
      std::ranges::fill(dense.row(r), 0.0f);
      const T* value = values_.data() + row_offset(r);
      mask().for_each_kept(r, [&](std::size_t c) { dense(r, c) = static_cast<float>(widen(*value++)); });
    }
  }

  /// For backends: the shared structure.
  const detail::PackedStructure& structure() const noexcept { return *structure_; }

 private:
  template <Storage U>
  friend class PackedMatrix;

  explicit PackedMatrix(std::shared_ptr<const detail::PackedStructure> structure)
      : structure_(std::move(structure)), values_(structure_->offsets.back()) {}

  static void check_sizes(std::size_t rows, std::size_t cols, std::size_t got, std::size_t unit_bits,
                          const char* what) {
    // Every later product, offsets and bytes included, stays below 2⁶³ once rows · cols does; rows without columns
    // would ask for memory that no input bytes back.
    const std::size_t limit = std::numeric_limits<std::size_t>::max() / 64;
    if (cols == 0 && rows != 0) detail::raise<RangeError>("PackedMatrix: ", rows, " rows have no columns");
    if (cols > limit || (rows != 0 && cols > limit / rows))
      detail::raise<RangeError>("PackedMatrix: ", rows, " × ", cols, " is too large");
    const std::size_t per_row = cols / unit_bits + (cols % unit_bits != 0);
    if (got != rows * per_row)
      detail::raise<ShapeError>("PackedMatrix: ", rows, " × ", cols, " needs ", rows * per_row, " ", what, ", got ",
                                got);
  }

  static PackedMatrix assemble(Mask mask, std::size_t count, const void* values) {
    for (std::size_t r = 0; r < mask.rows() && mask.words_per_row() != 0; ++r) {
      const std::size_t last = mask.words_per_row() - 1;
      if ((mask.row_words(r)[last] & ~mask.valid_bits(last)) != 0)
        detail::raise<RangeError>("PackedMatrix: mask row ", r, " keeps a weight past the last column, ", mask.cols());
    }
    const std::size_t kept = mask.kept();
    if (count != kept)
      detail::raise<ShapeError>("PackedMatrix: the mask keeps ", kept, " weights, got ", count, " values");
    PackedMatrix packed(std::move(mask));
    if (kept != 0) std::memcpy(packed.values_.data(), values, kept * sizeof(T));
    return packed;
  }

  std::shared_ptr<const detail::PackedStructure> structure_;
  detail::PaddedArray<T> values_;
};

}  // namespace losa::inline v0
