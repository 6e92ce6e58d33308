#pragma once
// A packed matrix with values of 8 or 4 bits, symmetric: value = scale · integer.
//
//   int8   integers −127 … 127, one float scale a row                       d + 1/8 bytes per weight at density d
//   int4   integers −7 … 7, one f16 scale for each row and 64 columns       d/2 + 1/8 + 1/32, and half a byte at most
//                                                                           for each row and 64 columns
//
// An image, immutable and shared by copies. A kept weight that rounds to 0 stays kept.
//
//   auto small = losa::quantize<losa::Int8>(packed);
//   losa::spmm(small, losa::view(x, tokens, in), losa::view(y, tokens, out), pool);

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/finite.hpp>
#include <losa/core/opaque.hpp>
#include <losa/core/types.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/image_header.hpp>
#include <losa/gemm/image_memory.hpp>
#include <losa/gemm/packed_matrix.hpp>
#include <losa/gemm/packed_structure.hpp>
#include <losa/gemm/weights.hpp>

namespace losa::inline v0 {

struct Int8 {
  using Weights = Int8Weights;
  static constexpr float largest = 127;
};
struct Int4 {
  using Weights = Int4Weights;
  static constexpr float largest = 7;
};

template <class IntegerType>
concept Integer = std::same_as<IntegerType, Int8> || std::same_as<IntegerType, Int4>;

template <Integer IntegerType>
class QuantizedMatrix {
  static constexpr bool per_row = std::same_as<IntegerType, Int8>;

 public:
  using Scale = std::conditional_t<per_row, float, f16>;

  /// The nearest integers; a scale is largest |value| / largest integer, for int4 rounded up to f16.
  /// Throws NumericError if a value is not finite, or too large for a scale in f16.
  template <Storage Element>
  explicit QuantizedMatrix(const PackedMatrix<Element>& packed, ExecutorRef executor = {},
                           const detail::ImageMemory& memory = {})
      : structure_(std::make_shared<const detail::PackedStructure>(packed.structure(), format(), memory)) {
    // As bits: without its sign a value that is not finite is larger than all others.
    const std::span<Scale> to = structure_->template part<Scale>(detail::ImagePart::scales);
    std::vector<std::uint32_t> largest(to.size());
    executor.parallel_for(structure_->row_blocks, [&](std::size_t b) {
      for_each_row(packed, b, [&](std::size_t scale, const Element* values, std::size_t n) {
        for (std::size_t k = 0; k < n; ++k) largest[scale] = std::max(largest[scale], magnitude(values[k]));
      });
    });
    for (std::size_t i = 0; i < largest.size(); ++i) choose_scale(largest[i], to[i]);
    executor.parallel_for(structure_->row_blocks, [&](std::size_t b) { store(packed, b); });
  }

  /// From a mask and what integers() and scales() of such a matrix gave. Throws ShapeError unless their numbers match,
  /// RangeError for an integer that rounding never gives or a position past the last column, NumericError if a scale is
  /// negative or not finite. Safe on arbitrary input.
  static QuantizedMatrix from_parts(const Mask& mask, std::span<const std::uint8_t> integers,
                                    std::span<const Scale> scales) {
    detail::expect_inside("QuantizedMatrix", mask);
    const QuantizedMatrix matrix(std::make_shared<const detail::PackedStructure>(mask, format()));
    if (integers.size() != matrix.integers().size() || scales.size() != matrix.scales().size())
      detail::raise<ShapeError>("QuantizedMatrix: the mask needs ", matrix.integers().size(), " bytes of integers and ",
                                matrix.scales().size(), " scales, got ", integers.size(), " and ", scales.size());
    for (Scale scale : scales)
      if (!(detail::is_finite(scale) && widen(scale) >= 0))
        detail::raise<NumericError>("QuantizedMatrix: a scale is ", widen(scale));
    std::ranges::copy(integers, matrix.structure_->template part<std::uint8_t>(detail::ImagePart::values).data());
    std::ranges::copy(scales, matrix.structure_->template part<Scale>(detail::ImagePart::scales).data());
    matrix.check_integers();
    return matrix;
  }

  std::size_t rows() const noexcept { return structure_->rows; }
  std::size_t cols() const noexcept { return structure_->cols; }
  std::size_t size() const noexcept { return rows() * cols(); }
  std::size_t kept() const noexcept { return structure_->kept(); }
  /// Memory held: integers, scales, mask and offsets. Copies share all of it.
  std::size_t bytes() const noexcept {
    return integers().size() + scales().size_bytes() + value_offsets().size_bytes() + structure_->bytes();
  }
  Mask mask() const { return structure_->mask(); }

  /// dense[r, c] = the weight as the products see it, +0 where pruned. Throws ShapeError unless dense is rows × cols.
  void to_dense(MatrixView<float> dense) const {
    detail::expect_shape("to_dense", "dense", dense, rows(), cols());
    for (std::size_t r = 0; r < rows(); ++r) std::ranges::fill(dense.row(r), 0.0f);
    const PackedLayout layout = structure_->layout();
    const typename IntegerType::Weights all = weights();
    for (std::size_t b = 0; b < layout.row_blocks; ++b)
      for (std::size_t t = 0; t < layout.tiles; ++t) {
        auto cursor = all.begin(layout, b, t);
        for (std::size_t i = 0; i < detail::tile_rows; ++i) {
          std::size_t j = 0;
          for (std::uint64_t word = layout.words[(b * layout.tiles + t) * detail::tile_rows + i]; word != 0;
               word &= word - 1)
            dense(b * detail::tile_rows + i, t * detail::tile_cols + static_cast<std::size_t>(std::countr_zero(word))) =
                cursor.at(i, j++);
          cursor.advance(j);
        }
      }
  }

  /// The integers as they lie in memory, tile by tile: a byte each (int8, two's complement) or a nibble, plus 8.
  std::span<const std::uint8_t> integers() const noexcept {
    return structure_->template part<std::uint8_t>(detail::ImagePart::values);
  }
  /// One for each row of every row block of 32 (int8), or for each row of every tile (int4).
  std::span<const Scale> scales() const noexcept { return structure_->template part<Scale>(detail::ImagePart::scales); }

  /// For backends.
  const detail::PackedStructure& structure() const noexcept { return *structure_; }
  PackedLayout layout() const noexcept { return structure_->layout(); }
  typename IntegerType::Weights weights() const noexcept {
    if constexpr (per_row) {
      return {reinterpret_cast<const std::int8_t*>(integers().data()), scales().data()};
    } else {
      return {integers().data(), value_offsets().data(), scales().data()};
    }
  }

  std::size_t image_bytes() const noexcept { return structure_->header.bytes; }
  std::span<const std::byte> image() const noexcept { return {structure_->image.get(), image_bytes()}; }

 private:
  explicit QuantizedMatrix(std::shared_ptr<const detail::PackedStructure> structure)
      : structure_(std::move(structure)) {}

  static constexpr ImageFormat format() noexcept {
    return per_row ? ImageFormat::bitmask_int8 : ImageFormat::bitmask_int4;
  }
  std::span<const std::uint64_t> value_offsets() const noexcept {
    return structure_->template part<std::uint64_t>(detail::ImagePart::value_offsets);
  }

  /// Calls f(index of its scale, its values, how many) for every row of the tiles of row block b, in packed order.
  template <Storage Element, class Function>
  void for_each_row(const PackedMatrix<Element>& packed, std::size_t b, Function&& f) const {
    const detail::PackedStructure& s = *structure_;
    const Element* values = packed.values().data() + s.offsets[b * s.tiles];
    for (std::size_t row = b * s.tiles * detail::tile_rows; row < (b + 1) * s.tiles * detail::tile_rows; ++row) {
      const auto n = static_cast<std::size_t>(std::popcount(s.words.data()[row]));
      f(per_row ? b * detail::tile_rows + row % detail::tile_rows : row, values, n);
      values += n;
    }
  }

  template <Storage Element>
  static std::uint32_t magnitude(const Element& value) noexcept {
    std::uint32_t bits;
    if constexpr (std::same_as<Element, float>) {
      std::memcpy(&bits, &value, sizeof bits);
    } else if constexpr (std::same_as<Element, bf16>) {
      bits = std::uint32_t{value.bits} << 16;
    } else {
      bits = detail::opaque_bits<std::uint32_t>(static_cast<float>(widen(value)));
    }
    return bits & 0x7fffffffu;
  }

  /// `magnitude` is the largest of what shares the scale, as bits.
  static void choose_scale(std::uint32_t magnitude, Scale& scale) {
    if (magnitude > 0x7f800000u) detail::raise<NumericError>("quantize: a value is nan");
    if (magnitude == 0x7f800000u) detail::raise<NumericError>("quantize: a value is inf");
    const auto largest = std::bit_cast<float>(magnitude);
    scale = narrow<Scale>(largest == 0.0f ? 1.0f : largest / IntegerType::largest);
    // Rounded up, so that the largest value has an integer.
    if constexpr (per_row) {
      scale = std::max(scale, std::numeric_limits<float>::denorm_min());
    } else {
      while (widen(scale) * IntegerType::largest < largest) ++scale.bits;
    }
    if (!detail::is_finite(scale))
      detail::raise<NumericError>("quantize: ", largest, " is too large for a scale in f16");
  }

  void check_integers() const {
    const auto refuse = [](int integer) {
      detail::raise<RangeError>("QuantizedMatrix: integers must be in [", -IntegerType::largest, ", ",
                                IntegerType::largest, "], got ", integer);
    };
    const std::uint8_t* byte = integers().data();
    if constexpr (per_row) {
      for (std::size_t k = 0; k < kept(); ++k)
        if (byte[k] == 0x80) refuse(-128);
    } else {
      structure_->for_each_word([&](std::size_t, std::size_t, std::uint64_t word) {
        const auto n = static_cast<std::size_t>(std::popcount(word));
        for (std::size_t j = 0; j < n; ++j)
          if ((byte[j / 2] >> (j % 2 * 4) & 15) == 0) refuse(-8);
        byte += (n + 1) / 2;
      });
    }
  }

  /// The integer nearest to value / scale, to even between two.
  template <Storage Element>
  static int integer(Element value, float scale) noexcept {
    const float quotient =
        std::clamp(static_cast<float>(widen(value)) / scale, -IntegerType::largest, IntegerType::largest);
    // At this size floats are the integers; std::nearbyint is a call without SSE4.1.
    constexpr float rounding = 0x1.8p23f;
    return std::bit_cast<int>(quotient + rounding) - std::bit_cast<int>(rounding);
  }

  template <Storage Element>
  void store(const PackedMatrix<Element>& packed, std::size_t b) {
    const detail::PackedStructure& s = *structure_;
    std::uint8_t* out =
        s.part<std::uint8_t>(detail::ImagePart::values).data() + (per_row ? s.offsets : value_offsets())[b * s.tiles];
    for_each_row(packed, b, [&](std::size_t scale_at, const Element* values, std::size_t n) {
      const float scale = widen(scales()[scale_at]);
      if constexpr (per_row) {
        for (std::size_t k = 0; k < n; ++k)
          out[k] = static_cast<std::uint8_t>(static_cast<std::int8_t>(integer(values[k], scale)));
        out += n;
      } else {
        for (std::size_t k = 0; k < n; k += 2) {
          const int high = k + 1 < n ? integer(values[k + 1], scale) + 8 : 0;
          *out++ = static_cast<std::uint8_t>(integer(values[k], scale) + 8 + high * 16);
        }
      }
    });
  }

  std::shared_ptr<const detail::PackedStructure> structure_;
};

/// `packed` with values of 8 bits (Int8) or 4 (Int4); see QuantizedMatrix.
template <Integer IntegerType, Storage Element>
QuantizedMatrix<IntegerType> quantize(const PackedMatrix<Element>& packed, ExecutorRef executor = {}) {
  return QuantizedMatrix<IntegerType>(packed, executor);
}

}  // namespace losa::inline v0
