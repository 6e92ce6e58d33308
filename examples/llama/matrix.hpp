#pragma once
// A row-major matrix that owns its elements, for the engine's activations and weights.

#include <algorithm>
#include <cstddef>
#include <losa/core/view.hpp>
#include <vector>

namespace llama {

class Matrix {
 public:
  Matrix() = default;
  Matrix(std::size_t rows, std::size_t cols) : rows_(rows), cols_(cols), values_(rows * cols) {}

  std::size_t rows() const noexcept { return rows_; }
  std::size_t cols() const noexcept { return cols_; }
  std::size_t bytes() const noexcept { return values_.size() * sizeof(float); }
  losa::MatrixView<float> view() noexcept { return {values_.data(), rows_, cols_}; }
  losa::MatrixView<const float> view() const noexcept { return {values_.data(), rows_, cols_}; }
  losa::MatrixView<const float> cview() const noexcept { return view(); }

  void fill(float value) noexcept { std::fill_n(values_.data(), rows_ * cols_, value); }
  /// Gives the matrix another shape; memory is kept, so that buffers grow once. The content is undefined afterwards.
  void reshape(std::size_t rows, std::size_t cols) {
    rows_ = rows;
    cols_ = cols;
    if (values_.size() < rows * cols) values_.resize(rows * cols);
  }

 private:
  std::size_t rows_ = 0;
  std::size_t cols_ = 0;
  std::vector<float> values_;
};

}  // namespace llama
