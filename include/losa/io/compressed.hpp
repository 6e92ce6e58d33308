#pragma once
// Sparse weights on disk in the `sparse-bitmask` layout of compressed-tensors 0.14.0.1, which is also our own run
// format. A weight X.weight of shape (out, in) becomes four tensors (compressed_names.hpp has the older names, which
// are read too):
//
//   X.shape        I64 [2]             out, in
//   X.bitmask      U8 [out, ⌈in/8⌉]    bit c % 8 of byte c / 8 of a row = 1: column c is kept
//   X.row_offsets  I64 [out]           values before each row
//   X.compressed   [kept]              the kept values, row by row
//
// Reading puts the rows' values in PackedMatrix's order straight from the mapped file, with no dense copy. A kept
// weight that is 0.0 keeps its bit and its value here; the other implementation reads such files alike, but when it
// compresses a dense weight it takes the mask from value ≠ 0, so that what it wrote has no kept zeros.
//
//   losa::io::add_compressed(writer, "model.layers.0.mlp.up_proj.weight", packed);
//   auto packed = losa::io::read_compressed<losa::bf16>(checkpoint, "model.layers.0.mlp.up_proj.weight");

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/core/finite.hpp>
#include <losa/core/mask.hpp>
#include <losa/core/types.hpp>
#include <losa/gemm/packed_matrix.hpp>
#include <losa/io/compressed_names.hpp>
#include <losa/io/dtype.hpp>
#include <losa/io/safetensors_writer.hpp>
#include <losa/io/tensor.hpp>

namespace losa::inline v0::io {

/// The tensors of one compressed weight, checked against each other.
struct CompressedWeight {
  const Tensor* values = nullptr;
  const Tensor* bitmask = nullptr;
  const Tensor* row_offsets = nullptr;
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t kept = 0;
  bool vector = false;  // stored with one extent; counts as one row here

  /// The mask that is stored; a kept weight may be 0. Cost: the bytes of the bitmask.
  Mask mask() const;
};

}  // namespace losa::inline v0::io

namespace losa::inline v0::detail {

/// "X" of "X.weight". Throws RangeError for other names, which the layout cannot hold.
inline std::string_view module_of(std::string_view weight) {
  constexpr std::string_view suffix = ".weight";
  if (!weight.ends_with(suffix) || weight.size() == suffix.size())
    raise<RangeError>("compressed weights must be called X.weight, got ", quote_name(weight));
  return weight.substr(0, weight.size() - suffix.size());
}

/// Bytes of mask per row.
constexpr std::size_t mask_row_bytes(std::size_t cols) noexcept { return cols / 8 + (cols % 8 != 0); }

/// A mask from rows × ⌈cols/8⌉ bytes that have been checked.
inline Mask mask_from_bytes(std::size_t rows, std::size_t cols, std::span<const std::byte> bytes) {
  Mask mask(rows, cols);
  for (std::size_t r = 0; r < rows; ++r)
    std::memcpy(mask.row_words(r).data(), bytes.data() + r * mask_row_bytes(cols), mask_row_bytes(cols));
  return mask;
}

/// Throws FileError if the mask keeps columns that do not exist.
inline void refuse_bits_past_columns(const io::Tensor& bitmask, std::size_t rows, std::size_t cols) {
  const std::size_t row_bytes = mask_row_bytes(cols);
  for (std::size_t r = 0; r < rows && cols % 8 != 0; ++r)
    if (std::to_integer<unsigned>(bitmask.bytes[(r + 1) * row_bytes - 1]) >> (cols % 8) != 0)
      raise_tensor(bitmask, "row ", r, " keeps a weight past the last column, ", cols - 1);
}

/// Checks a mask of rows × ⌈cols/8⌉ bytes and the offsets that go with it; returns the number of ones.
inline std::size_t checked_kept(const io::Tensor& bitmask, const io::Tensor& row_offsets, std::size_t rows,
                                std::size_t cols) {
  const std::vector<std::int64_t> offsets = io::read_values<std::int64_t>(row_offsets);
  refuse_bits_past_columns(bitmask, rows, cols);
  const std::size_t row_bytes = mask_row_bytes(cols);
  std::size_t kept = 0;
  for (std::size_t r = 0; r < rows; ++r) {
    if (offsets[r] < 0 || static_cast<std::uint64_t>(offsets[r]) != kept)
      raise_tensor(row_offsets, "row ", r, " starts at value ", offsets[r], ", but the bitmask has ", kept,
                   " ones before it");
    const std::byte* row = bitmask.bytes.data() + r * row_bytes;
    for (std::size_t i = 0; i < row_bytes; i += 8) {
      std::uint64_t word = 0;
      std::memcpy(&word, row + i, std::min<std::size_t>(8, row_bytes - i));
      kept += static_cast<std::size_t>(std::popcount(word));
    }
  }
  return kept;
}

}  // namespace losa::inline v0::detail

namespace losa::inline v0::io {

inline Mask CompressedWeight::mask() const { return detail::mask_from_bytes(rows, cols, bitmask->bytes); }

/// True if the tensor is stored compressed.
template <TensorSource Source>
bool is_compressed(const Source& source, std::string_view tensor) {
  return !compressed_prefix(source, tensor).empty();
}

/// Finds and checks the four parts of a compressed tensor. A vector counts as one row. Throws FileError if one of them
/// is missing, of another dtype or shape than the others ask for, or if mask, offsets and values disagree.
template <TensorSource Source>
CompressedWeight find_compressed(const Source& source, std::string_view tensor) {
  std::string prefix = compressed_prefix(source, tensor);
  if (prefix.empty()) prefix = tensor.ends_with(".weight") ? tensor.substr(0, tensor.size() - 7) : tensor;
  const Tensor& shape = source.at(prefix + ".shape");
  const Tensor& bitmask = source.at(prefix + ".bitmask");
  const Tensor& row_offsets = source.at(prefix + ".row_offsets");
  const Tensor& values = source.at(prefix + ".compressed");

  const std::vector<std::int64_t> extents = read_values<std::int64_t>(shape);
  if (shape.shape.size() != 1 || extents.empty() || extents.size() > 2)
    detail::raise_tensor(shape, "must hold the 2 extents of a matrix, got shape ", detail::shape_text(shape.shape));
  for (std::int64_t extent : extents)
    if (extent < 1) detail::raise_tensor(shape, "extents must be positive, got ", extent);
  const bool vector = extents.size() == 1;
  const std::size_t rows = vector ? 1 : static_cast<std::size_t>(extents[0]);
  const auto cols = static_cast<std::size_t>(extents.back());

  std::vector<std::size_t> mask_shape{rows, detail::mask_row_bytes(cols)};
  std::vector<std::size_t> offsets_shape{rows};
  if (vector) {
    mask_shape.erase(mask_shape.begin());
    offsets_shape.clear();
  }
  if (bitmask.dtype != Dtype::u8 || bitmask.shape != mask_shape)
    detail::raise_tensor(bitmask, "must be U8 of shape ", detail::shape_text(mask_shape), " for a weight of ", rows,
                         " × ", cols, ", got ", bitmask.dtype_name, " of shape ", detail::shape_text(bitmask.shape));
  if (row_offsets.dtype != Dtype::i64 || row_offsets.shape != offsets_shape)
    detail::raise_tensor(row_offsets, "must be I64 of shape ", detail::shape_text(offsets_shape), ", got ",
                         row_offsets.dtype_name, " of shape ", detail::shape_text(row_offsets.shape));
  const std::size_t kept = detail::checked_kept(bitmask, row_offsets, rows, cols);
  if (values.shape.size() != 1 || values.shape[0] != kept)
    detail::raise_tensor(values, "must hold the ", kept, " values that the bitmask keeps, got shape ",
                         detail::shape_text(values.shape));
  return {&values, &bitmask, &row_offsets, rows, cols, kept, vector};
}

/// The weight, packed. Element is the dtype of the file, or float, to which every float dtype is widened (F64 rounded).
/// Throws FileError if the dtype is another one or, on request (the default), a value is NaN or Inf.
template <Storage Element>
PackedMatrix<Element> read_compressed(const CompressedWeight& weight, bool check_finite = true) {
  const Tensor& values = *weight.values;
  if constexpr (std::same_as<Element, float>) {
    if (values.dtype != Dtype::f32) {
      std::vector<float> widened(weight.kept);
      read_f32(values, std::span<float>(widened), {.check_finite = check_finite});
      return PackedMatrix<float>::from_bytes(weight.rows, weight.cols, weight.bitmask->bytes,
                                             std::as_bytes(std::span(widened)));
    }
  }
  if (values.dtype != dtype_of<Element>())
    detail::raise_tensor(values, "dtype must be ", name(dtype_of<Element>()), ", got ", values.dtype_name);
  if (check_finite)
    if (const std::size_t finite =
            detail::count_below<Element>(values.bytes.data(), weight.kept, detail::infinity_bits<Element>);
        finite != weight.kept)
      detail::raise_tensor(values, "NaN or Inf at [", finite, "]");
  return PackedMatrix<Element>::from_bytes(weight.rows, weight.cols, weight.bitmask->bytes, values.bytes);
}
template <Storage Element, TensorSource Source>
PackedMatrix<Element> read_compressed(const Source& source, std::string_view weight, bool check_finite = true) {
  return read_compressed<Element>(find_compressed(source, weight), check_finite);
}

/// Rows [first_row, first_row + out.rows) of the weight as floats, zeros where nothing is kept. Throws ShapeError if
/// the rows are not the weight's, FileError as read_compressed. Cost: those rows' values alone.
inline void read_compressed_rows(const CompressedWeight& weight, std::size_t first_row, MatrixView<float> out,
                                 bool check_finite = true) {
  if (out.cols != weight.cols || first_row > weight.rows || out.rows > weight.rows - first_row)
    detail::raise<ShapeError>("read_compressed_rows: rows [", first_row, ", ", first_row + out.rows, ") of ", out.cols,
                              " columns from a weight of ", weight.rows, " × ", weight.cols);
  const std::size_t row_bytes = detail::mask_row_bytes(weight.cols);
  std::vector<float> kept;
  for (std::size_t r = 0; r < out.rows; ++r) {
    const std::byte* bits = weight.bitmask->bytes.data() + (first_row + r) * row_bytes;
    const auto keeps = [&](std::size_t c) { return (std::to_integer<unsigned>(bits[c / 8]) >> (c % 8) & 1u) != 0; };
    std::int64_t offset = 0;
    std::memcpy(&offset, weight.row_offsets->bytes.data() + (first_row + r) * sizeof offset, sizeof offset);
    std::size_t count = 0;
    for (std::size_t c = 0; c < weight.cols; ++c) count += keeps(c);
    kept.resize(count);
    read_f32(*weight.values, std::span<float>(kept),
             {.first_row = static_cast<std::size_t>(offset), .check_finite = check_finite});
    std::size_t next = 0;
    for (std::size_t c = 0; c < weight.cols; ++c) out(r, c) = keeps(c) ? kept[next++] : 0.0f;
  }
}

/// Declares the tensors of `weight` ("X.weight", rows × cols with `kept` weights) in a file being written, for
/// put_compressed. Throws RangeError unless the name ends in ".weight" and the matrix is not empty.
inline void declare_compressed(SafetensorsWriter& writer, std::string_view weight, Dtype dtype, std::size_t rows,
                               std::size_t cols, std::size_t kept) {
  const std::string prefix(detail::module_of(weight));
  if (rows == 0 || cols == 0) detail::raise<RangeError>("add_compressed: ", detail::quote_name(weight), " is empty");
  writer.declare(prefix + ".shape", Dtype::i64, {2});
  writer.declare(prefix + ".row_offsets", Dtype::i64, {rows});
  writer.declare(prefix + ".compressed", dtype, {kept});
  writer.declare(prefix + ".bitmask", Dtype::u8, {rows, detail::mask_row_bytes(cols)});
}

/// Calls put(tensor name, producer) for each tensor of `weight`, its values rounded to Element; a producer views
/// `packed`.
template <Storage Element, Storage Source, class Function>
void for_each_compressed(std::string_view weight, const PackedMatrix<Source>& packed, Function&& put) {
  const std::string prefix(detail::module_of(weight));
  put(prefix + ".shape", [&packed](TensorSink& sink) {
    const std::int64_t extents[] = {static_cast<std::int64_t>(packed.rows()), static_cast<std::int64_t>(packed.cols())};
    sink.write(std::span<const std::int64_t>(extents));
  });
  put(prefix + ".row_offsets", [&packed](TensorSink& sink) {
    const Mask mask = packed.mask();
    std::int64_t offset = 0;
    for (std::size_t r = 0; r < packed.rows(); ++r) {
      sink.write(std::span<const std::int64_t>(&offset, 1));
      offset += static_cast<std::int64_t>(mask.kept_in_row(r));
    }
  });
  put(prefix + ".compressed", [&packed](TensorSink& sink) {
    std::vector<Element> row;
    for (std::size_t r = 0; r < packed.rows(); ++r) {
      row.clear();
      packed.for_each_kept(r, [&](std::size_t, std::size_t k) {
        if constexpr (std::same_as<Element, Source>) {
          row.push_back(packed.values()[k]);
        } else {
          row.push_back(narrow<Element>(static_cast<float>(widen(packed.values()[k]))));
        }
      });
      sink.write(std::span<const Element>(row));
    }
  });
  put(prefix + ".bitmask", [&packed](TensorSink& sink) {
    const std::size_t row_bytes = detail::mask_row_bytes(packed.cols());
    const Mask mask = packed.mask();
    for (std::size_t r = 0; r < packed.rows(); ++r) sink.write(std::as_bytes(mask.row_words(r)).first(row_bytes));
  });
}

/// Writes a declared weight now, its values rounded to Element, the declared type.
template <Storage Element, Storage Source>
void put_compressed_as(SafetensorsWriter& writer, std::string_view weight, const PackedMatrix<Source>& packed) {
  for_each_compressed<Element>(weight, packed,
                               [&](const std::string& name, auto producer) { writer.put(name, std::move(producer)); });
}

/// Adds `weight` ("X.weight") to a file being written, its values rounded to Element. `packed` must outlive the
/// writer's commit(). Throws as declare_compressed does.
template <Storage Element, Storage Source>
void add_compressed_as(SafetensorsWriter& writer, std::string_view weight, const PackedMatrix<Source>& packed) {
  declare_compressed(writer, weight, dtype_of<Element>(), packed.rows(), packed.cols(), packed.kept());
  for_each_compressed<Element>(weight, packed,
                               [&](const std::string& name, auto producer) { writer.fill(name, std::move(producer)); });
}
/// The same in the matrix's own type.
template <Storage Element>
void add_compressed(SafetensorsWriter& writer, std::string_view weight, const PackedMatrix<Element>& packed) {
  add_compressed_as<Element>(writer, weight, packed);
}

}  // namespace losa::inline v0::io
