#pragma once
// One tensor of a file, and how its values are read. A tensor's bytes may lie unaligned, so they are copied out, never
// addressed as numbers. Reading by row ranges touches only those rows of the file; NaN and Inf are found while they are
// read, at no second pass.
//
//   losa::io::read_f32(tensor, losa::view(rows.data(), 16, in), {.first_row = 32});   // rows 32..47, widened

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/core/finite.hpp>
#include <losa/core/types.hpp>
#include <losa/core/view.hpp>
#include <losa/io/dtype.hpp>
#include <losa/io/json_events.hpp>

namespace losa::inline v0 {

namespace detail {

/// "[2, 3]".
inline std::string shape_text(std::span<const std::size_t> shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i == 16) return out + ", ...]";
    if (i != 0) out += ", ";
    append(out, shape[i]);
  }
  return out + "]";
}

/// Lets maps keyed by std::string be searched with views.
struct NameHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const noexcept { return std::hash<std::string_view>{}(text); }
};

}  // namespace detail

namespace io {

/// A tensor as a file describes it; the description has been checked against the file.
struct Tensor {
  std::string name;
  Dtype dtype = Dtype::other;
  std::string dtype_name;  // as the file spells it, also for types that are not read
  std::vector<std::size_t> shape;
  std::span<const std::byte> bytes;         // maybe unaligned; elements() · size_of(dtype) of them
  std::shared_ptr<const std::string> file;  // its path, for errors

  /// Product of the shape; 1 for a scalar.
  std::size_t elements() const noexcept {
    std::size_t product = 1;
    for (std::size_t extent : shape) product = extent == 0 ? 0 : product * extent;
    return product;
  }
  /// As a matrix: the first extent; 1 for vectors and scalars.
  std::size_t rows() const noexcept { return shape.size() < 2 ? 1 : shape[0]; }
  /// As a matrix: the product of the other extents.
  std::size_t cols() const noexcept {
    std::size_t product = 1;
    for (std::size_t i = shape.size() < 2 ? 0 : 1; i < shape.size(); ++i) product *= shape[i];
    return product;
  }
};

struct ReadOptions {
  std::size_t first_row = 0;  // of the tensor's matrix; with spans, the first element
  bool check_finite = true;   // NaN or Inf → FileError
};

}  // namespace io

namespace detail {

/// Raises FileError: `file: tensor "x": ...`.
template <class... Parts>
[[__noreturn__]] void raise_tensor(const io::Tensor& tensor, const Parts&... parts) {
  raise<FileError>(tensor.file ? std::string_view(*tensor.file) : std::string_view(), ": tensor ",
                   quote_name(tensor.name), ": ", parts...);
}

/// Position of an element as indices: "[3, 17]".
inline std::string index_text(const io::Tensor& tensor, std::size_t element) {
  std::vector<std::size_t> indices(tensor.shape.size());
  for (std::size_t i = indices.size(); i-- > 0;) {
    indices[i] = element % tensor.shape[i];
    element /= tensor.shape[i];
  }
  return shape_text(indices);
}

/// Raises FileError for an element that is no finite float.
template <Storage Element>
[[__noreturn__]] void raise_not_finite(const io::Tensor& tensor, std::size_t element) {
  StoredBits<Element> bits;
  std::memcpy(&bits, tensor.bytes.data() + element * sizeof bits, sizeof bits);
  const StoredBits<Element> magnitude = magnitude_bits(bits);
  raise_tensor(tensor,
               magnitude > infinity_bits<Element> ? "NaN"
               : magnitude == bits                ? "Inf"
                                                  : "-Inf",
               " at ", index_text(tensor, element));
}

/// Elements [first, first + out.size()) of a tensor whose values are stored as Element, widened to float.
template <Storage Element>
void widen_range(const io::Tensor& tensor, std::size_t first, std::span<float> out, bool check_finite) {
  constexpr std::size_t chunk = 1024;  // keeps the copy in the first-level cache
  constexpr StoredBits<Element> limit = [] {
    if constexpr (std::same_as<Element, double>)
      return double_past_floats;
    else
      return infinity_bits<Element>;
  }();
  Element stored[chunk];
  for (std::size_t begin = 0; begin < out.size(); begin += chunk) {
    const std::size_t n = std::min(chunk, out.size() - begin);
    const std::byte* const bytes = tensor.bytes.data() + (first + begin) * sizeof(Element);
    if (check_finite)
      if (const std::size_t finite = count_below<Element>(bytes, n, limit); finite != n)
        raise_not_finite<Element>(tensor, first + begin + finite);
    std::memcpy(stored, bytes, n * sizeof(Element));
    for (std::size_t i = 0; i < n; ++i) out[begin + i] = static_cast<float>(widen(stored[i]));
  }
}

}  // namespace detail

namespace io {

/// Elements [first_row, first_row + out.size()) in row-major order, as floats. F64 is rounded to the nearest float, the
/// 16-bit types are exact. Throws FileError for another dtype, RangeError if the range leaves the tensor, and, on
/// request, FileError with the index of the first NaN or Inf.
inline void read_f32(const Tensor& tensor, std::span<float> out, const ReadOptions& options = {}) {
  const std::size_t first = options.first_row;
  if (first > tensor.elements() || out.size() > tensor.elements() - first)
    detail::raise<RangeError>("read_f32: elements [", first, ", ", first + out.size(), ") of tensor ",
                              detail::quote_name(tensor.name), ", which has ", tensor.elements());
  const auto widen_as = [&]<class Element>(Element) {
    detail::widen_range<Element>(tensor, first, out, options.check_finite);
  };
  if (tensor.dtype == Dtype::f32) return widen_as(float{});
  if (tensor.dtype == Dtype::bf16) return widen_as(bf16{});
  if (tensor.dtype == Dtype::f16) return widen_as(f16{});
  if (tensor.dtype == Dtype::f64) return widen_as(double{});
  detail::raise_tensor(tensor, "dtype must be F32, BF16, F16 or F64, got ", tensor.dtype_name);
}

/// Rows [first_row, first_row + out.rows) of the tensor's matrix. Throws ShapeError if the columns differ, the rest as
/// above.
inline void read_f32(const Tensor& tensor, MatrixView<float> out, const ReadOptions& options = {}) {
  if (out.cols != tensor.cols() || options.first_row > tensor.rows() || out.rows > tensor.rows() - options.first_row)
    detail::raise<ShapeError>("read_f32: rows [", options.first_row, ", ", options.first_row + out.rows, ") of ",
                              out.cols, " columns from tensor ", detail::quote_name(tensor.name), " of shape ",
                              detail::shape_text(tensor.shape));
  for (std::size_t r = 0; r < out.rows; ++r)
    read_f32(tensor, out.row(r),
             {.first_row = (options.first_row + r) * tensor.cols(), .check_finite = options.check_finite});
}

/// Every value, whose dtype must be that of Element. Throws FileError otherwise.
template <class Element>
std::vector<Element> read_values(const Tensor& tensor) {
  static_assert(dtype_of<Element>() != Dtype::other, "read_values: no safetensors dtype holds values of this type");
  static_assert(!std::same_as<Element, bool>, "read_values: read BOOL as std::uint8_t, which checks that it is 0 or 1");
  const bool boolean = std::same_as<Element, std::uint8_t> && tensor.dtype == Dtype::boolean;
  if (tensor.dtype != dtype_of<Element>() && !boolean)
    detail::raise_tensor(tensor, "dtype must be ", name(dtype_of<Element>()), ", got ", tensor.dtype_name);
  std::vector<Element> out(tensor.elements());
  if (!out.empty()) std::memcpy(out.data(), tensor.bytes.data(), tensor.bytes.size());
  if constexpr (std::same_as<Element, std::uint8_t>)
    for (std::size_t i = 0; boolean && i < out.size(); ++i)
      if (out[i] > 1)
        detail::raise_tensor(tensor, "BOOL at ", detail::index_text(tensor, i), " must be 0 or 1, got ", out[i]);
  return out;
}

}  // namespace io
}  // namespace losa::inline v0
