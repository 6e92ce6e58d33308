#pragma once
// A masked weight matrix in the bitmask format: one bit per weight, and the values of the kept weights without gaps,
// both in the tile order of packed_structure.hpp. At density d that is sizeof(Element)·d + 1/8 bytes per weight.
//
// A kept weight may be 0.0 and stays kept. A matrix owns an image (image_header.hpp), one block with everything in it.
// The structure (mask, offsets) is immutable, and copies and what like() makes share it: they have values of their own
// and keep the image of the first for the rest. A const matrix may be read from any number of threads.
//
//   auto packed = losa::pack(losa::view(weight, out, in), mask);
//   packed.bytes();                                        // what it costs
//   packed.for_each_kept(r, [&](std::size_t c, std::size_t k) { use(r, c, packed.values()[k]); });
//   losa::PackedMatrix<float> gradient = packed.like();    // same positions, zero values

#include <algorithm>
#include <bit>
#include <concepts>
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
#include <losa/gemm/image_header.hpp>
#include <losa/gemm/image_memory.hpp>
#include <losa/gemm/packed_structure.hpp>
#include <losa/gemm/weights.hpp>

namespace losa::inline v0 {

template <Storage Element = float>
class PackedMatrix {
 public:
  using value_type = Element;

  PackedMatrix() : PackedMatrix(Mask{}) {}
  /// The kept positions of `mask`, every value zero.
  explicit PackedMatrix(const Mask& mask, const detail::ImageMemory& memory = {})
      : structure_(std::make_shared<const detail::PackedStructure>(mask, format(), memory)),
        values_(structure_->image, structure_->template part<Element>(detail::ImagePart::values).data()) {}
  PackedMatrix(const PackedMatrix& other) : structure_(other.structure_), values_(own_values(*structure_)) {
    std::memcpy(static_cast<void*>(values_.get()), other.values_.get(), kept() * sizeof(Element));
  }
  PackedMatrix(PackedMatrix&&) noexcept = default;
  PackedMatrix& operator=(PackedMatrix other) noexcept {
    structure_.swap(other.structure_);
    values_.swap(other.values_);
    return *this;
  }
  ~PackedMatrix() = default;

  /// From mask words (rows × ⌈cols/64⌉) and the values in row-major order. Throws ShapeError unless the counts of words
  /// and values match, RangeError if a bit past the last column is set, there are rows without columns, or rows · cols
  /// overflows. Safe on arbitrary input.
  static PackedMatrix from_parts(std::size_t rows, std::size_t cols, std::span<const std::uint64_t> words,
                                 std::span<const Element> values) {
    check_sizes(rows, cols, words.size(), 64, "mask words");
    Mask mask(rows, cols);
    for (std::size_t r = 0; r < rows; ++r)
      std::ranges::copy(words.subspan(r * mask.words_per_row(), mask.words_per_row()), mask.row_words(r).begin());
    return assemble(mask, values.size(), reinterpret_cast<const std::byte*>(values.data()));
  }
  /// The same from bytes as files hold them, at any alignment: a mask of rows × ⌈cols/8⌉ bytes (bit c % 8 of byte
  /// c / 8 belongs to column c) and the values in row-major order, little-endian.
  static PackedMatrix from_bytes(std::size_t rows, std::size_t cols, std::span<const std::byte> mask_bytes,
                                 std::span<const std::byte> value_bytes) {
    check_sizes(rows, cols, mask_bytes.size(), 8, "mask bytes");
    if (value_bytes.size() % sizeof(Element) != 0)
      detail::raise<ShapeError>("PackedMatrix: ", value_bytes.size(), " bytes of values are no multiple of ",
                                sizeof(Element));
    const std::size_t row_bytes = cols / 8 + (cols % 8 != 0);
    Mask mask(rows, cols);
    for (std::size_t r = 0; r < rows && row_bytes != 0; ++r)
      std::memcpy(mask.row_words(r).data(), mask_bytes.data() + r * row_bytes, row_bytes);
    return assemble(mask, value_bytes.size() / sizeof(Element), value_bytes.data());
  }

  std::size_t rows() const noexcept { return structure_->rows; }
  std::size_t cols() const noexcept { return structure_->cols; }
  std::size_t size() const noexcept { return rows() * cols(); }
  /// Number of kept weights.
  std::size_t kept() const noexcept { return structure_->kept(); }
  /// Memory held: values, mask and offsets. Matrices made by like() hold the last two in common.
  std::size_t bytes() const noexcept { return kept() * sizeof(Element) + structure_->bytes(); }

  /// The mask, made anew: O(size/64).
  Mask mask() const { return structure_->mask(); }
  /// Values of the kept weights in tile order; one readable cache line follows them.
  std::span<const Element> values() const noexcept { return {values_.get(), kept()}; }
  std::span<Element> values() noexcept { return {values_.get(), kept()}; }
  /// Calls f(column, index into values()) for every kept weight of row r, in rising order of columns. Costs a walk over
  /// half the mask words of a row block, so rows are for export and inspection, not for products.
  template <class Function>
  void for_each_kept(std::size_t r, Function&& f) const {
    structure_->for_each_kept(r, std::forward<Function>(f));
  }

  /// Same structure (shared, not copied), zero values.
  PackedMatrix like() const { return PackedMatrix(structure_); }
  /// True if both hold the same kept positions.
  template <Storage OtherElement>
  bool same_structure(const PackedMatrix<OtherElement>& other) const noexcept {
    return structure_ == other.structure_ || *structure_ == *other.structure_;
  }

  /// dense[r, c] = the weight, +0 where pruned. Throws ShapeError unless dense is rows × cols.
  void to_dense(MatrixView<float> dense) const {
    detail::expect_shape("to_dense", "dense", dense, rows(), cols());
    for (std::size_t r = 0; r < rows(); ++r) std::ranges::fill(dense.row(r), 0.0f);
    const Element* value = values_.get();
    structure_->for_each_word([&](std::size_t r, std::size_t c, std::uint64_t word) {
      for (; word != 0; word &= word - 1)
        dense(r, c + static_cast<std::size_t>(std::countr_zero(word))) = static_cast<float>(widen(*value++));
    });
  }

  /// For backends: the shared structure.
  const detail::PackedStructure& structure() const noexcept { return *structure_; }
  const std::shared_ptr<const detail::PackedStructure>& shared_structure() const noexcept { return structure_; }
  PackedLayout layout() const noexcept { return structure_->layout(); }
  FloatWeights<Element> weights() const noexcept { return {values_.get()}; }

  /// Bytes of the image.
  std::size_t image_bytes() const noexcept { return structure_->header.bytes; }
  /// The image. Empty if the values are not in it, as in a copy or what like() made: copy_image() has it.
  std::span<const std::byte> image() const noexcept {
    if (structure_->template part<Element>(detail::ImagePart::values).data() != values_.get()) return {};
    return {structure_->image.get(), image_bytes()};
  }
  /// Throws ShapeError unless `to` is aligned to 64 and has image_bytes().
  void copy_image(std::span<std::byte> to) const {
    const detail::ImageMemory memory(to);
    const std::shared_ptr<std::byte> copy = memory.take(image_bytes());
    const detail::ImageHeader::Part& part = structure_->header.part(detail::ImagePart::values);
    std::memcpy(copy.get(), structure_->image.get(), part.offset);
    if (part.bytes != 0) std::memcpy(copy.get() + part.offset, values_.get(), part.bytes);
  }

 private:
  template <Storage OtherElement>
  friend class PackedMatrix;

  explicit PackedMatrix(std::shared_ptr<const detail::PackedStructure> structure)
      : structure_(std::move(structure)), values_(own_values(*structure_)) {}

  static constexpr ImageFormat format() noexcept {
    if constexpr (std::same_as<Element, float>) return ImageFormat::bitmask_f32;
    if constexpr (std::same_as<Element, bf16>) return ImageFormat::bitmask_bf16;
    if constexpr (std::same_as<Element, f16>) return ImageFormat::bitmask_f16;
    return ImageFormat::bitmask_f64;
  }
  /// Zeros, apart from the image, and a cache line that may be read.
  static std::shared_ptr<Element> own_values(const detail::PackedStructure& structure) {
    const std::shared_ptr<std::byte> block =
        detail::ImageMemory().take(structure.kept() * sizeof(Element) + detail::cache_line);
    return {block, reinterpret_cast<Element*>(block.get())};
  }

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

  /// `values` in row-major order, at any alignment.
  static PackedMatrix assemble(const Mask& mask, std::size_t count, const std::byte* values) {
    detail::expect_inside("PackedMatrix", mask);
    PackedMatrix packed(mask);
    if (count != packed.kept())
      detail::raise<ShapeError>("PackedMatrix: the mask keeps ", packed.kept(), " weights, got ", count, " values");
    if (packed.kept() == 0) return packed;  // however many columns are said to be
    const detail::PackedStructure& s = *packed.structure_;
    std::vector<std::size_t> cursors(s.tiles);
    for (std::size_t b = 0; b < s.row_blocks; ++b) {
      std::copy_n(s.offsets.data() + b * s.tiles, s.tiles, cursors.data());
      for (std::size_t i = 0; i < detail::tile_rows; ++i)
        for (std::size_t t = 0; t < s.tiles; ++t) {
          const auto n =
              static_cast<std::size_t>(std::popcount(s.words.data()[(b * s.tiles + t) * detail::tile_rows + i]));
          if (n == 0) continue;
          std::memcpy(packed.values_.get() + cursors[t], values, n * sizeof(Element));
          cursors[t] += n;
          values += n * sizeof(Element);
        }
    }
    return packed;
  }

  std::shared_ptr<const detail::PackedStructure> structure_;
  std::shared_ptr<Element> values_;  // in the image, or of one's own
};

}  // namespace losa::inline v0
