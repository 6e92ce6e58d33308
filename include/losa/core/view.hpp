#pragma once
// A view of a row-major matrix that somebody else owns: pointer, rows, cols, stride (elements between row starts).
//
//   auto w = losa::view(weight, out, in);          // (out, in), contiguous
//   auto part = w.block(0, 8, 16, 32);             // rows 0..15, columns 8..39

#include <cassert>
#include <cstddef>
#include <span>
#include <type_traits>

#include <losa/core/error.hpp>

namespace losa::inline v0 {

/// Non-owning row-major matrix. Copying copies the pointer.
template <class Element>
struct MatrixView {
  Element* data = nullptr;
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t stride = 0;  // elements from one row to the next, ≥ cols

  constexpr MatrixView() = default;
  constexpr MatrixView(Element* data_, std::size_t rows_, std::size_t cols_, std::size_t stride_) noexcept
      : data(data_), rows(rows_), cols(cols_), stride(stride_) {}
  constexpr MatrixView(Element* data_, std::size_t rows_, std::size_t cols_) noexcept
      : MatrixView(data_, rows_, cols_, cols_) {}

  /// A view of mutable elements converts to one of const elements.
  constexpr operator MatrixView<const Element>() const noexcept requires(!std::is_const_v<Element>) {
    return {data, rows, cols, stride};
  }

  constexpr Element& operator()(std::size_t r, std::size_t c) const noexcept {
    assert(r < rows && c < cols);
    return data[r * stride + c];
  }
  constexpr std::span<Element> row(std::size_t r) const noexcept {
    assert(r < rows);
    return {data + r * stride, cols};
  }
  constexpr MatrixView block(std::size_t r, std::size_t c, std::size_t n_rows, std::size_t n_cols) const noexcept {
    assert(r + n_rows <= rows && c + n_cols <= cols);
    return {data + r * stride + c, n_rows, n_cols, stride};
  }
  constexpr std::size_t size() const noexcept { return rows * cols; }
  constexpr bool empty() const noexcept { return rows == 0 || cols == 0; }
  constexpr bool contiguous() const noexcept { return stride == cols || rows <= 1; }
};

/// View of `rows × cols` elements at `data`; `stride` elements lie between row starts.
/// Throws ShapeError if the stride is shorter than a row.
template <class Element>
constexpr MatrixView<Element> view(Element* data, std::size_t rows, std::size_t cols, std::size_t stride) {
  if (stride < cols) detail::raise<ShapeError>("view: stride ", stride, " is shorter than a row of ", cols, " columns");
  return {data, rows, cols, stride};
}
template <class Element>
constexpr MatrixView<Element> view(Element* data, std::size_t rows, std::size_t cols) noexcept {
  return {data, rows, cols, cols};
}

namespace detail {

template <class Element>
std::string shape(const MatrixView<Element>& m) {
  return text(m.rows, " × ", m.cols);
}

/// Throws ShapeError unless `m` is rows × cols; the sentence starts with "where: name".
template <class Element>
void expect_shape(std::string_view where, std::string_view name, const MatrixView<Element>& m, std::size_t rows,
                  std::size_t cols) {
  if (m.rows != rows || m.cols != cols)
    raise<ShapeError>(where, ": ", name, " must be ", rows, " × ", cols, ", got ", m.rows, " × ", m.cols);
}

}  // namespace detail
}  // namespace losa::inline v0
