#pragma once
// Hessian of a layer's squared output error: H = XᵀX over all calibration tokens. (SparseGPT writes 2XᵀX/N; the factor
// makes no difference to it.)
//
// Shapes: batches x (tokens, in), H (in, in). Products and sums in double: merging shards equals one stream within
// tokens·2⁻⁵³ of Σ|x_i·x_j|. Cost tokens·in² flops, half of the full product; memory in² doubles and one chunk of
// tokens.
//
//   losa::Hessian hessian(in);
//   for (auto batch : calibration) hessian.add(batch, pool);
//   auto h = hessian.matrix();

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <vector>

#include <losa/calibrate/columns.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/view.hpp>

namespace losa::inline v0 {

class Hessian {
 public:
  explicit Hessian(std::size_t in) : in_(in), matrix_(in * in) {}

  std::size_t in() const noexcept { return in_; }
  std::size_t tokens() const noexcept { return tokens_; }
  /// (in, in) XᵀX, symmetric bit for bit.
  MatrixView<const double> matrix() const noexcept { return {matrix_.data(), in_, in_}; }

  /// Adds x (tokens, in). Throws ShapeError on another number of columns.
  void add(MatrixView<const float> x, const ExecutorRef& executor = {}) {
    detail::expect_columns("Hessian", in_, x.cols);
    for (std::size_t t = 0; t < x.rows; t += chunk)
      add_chunk(x.block(t, 0, std::min(chunk, x.rows - t), in_), executor);
    tokens_ += x.rows;
  }

  /// Adds what another shard has seen. Throws ShapeError on another number of columns.
  void merge(const Hessian& other) {
    detail::expect_mergeable("Hessian", in_, other.in_);
    for (std::size_t i = 0; i < matrix_.size(); ++i) matrix_[i] += other.matrix_[i];
    tokens_ += other.tokens_;
  }

 private:
  static constexpr std::size_t chunk = 256;  // tokens in double at a time
  static constexpr std::size_t tile = 128;   // columns; a task multiplies two strips of them

  using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  static Eigen::Index index(std::size_t i) noexcept { return static_cast<Eigen::Index>(i); }

  void add_chunk(MatrixView<const float> x, const ExecutorRef& executor) {
    Matrix wide(index(x.rows), index(in_));
    detail::for_column_ranges(executor, in_, [&](std::size_t first, std::size_t last) {
      for (std::size_t t = 0; t < x.rows; ++t)
        for (std::size_t c = first; c < last; ++c) wide(index(t), index(c)) = x(t, c);
    });
    Eigen::Map<Matrix> sum(matrix_.data(), index(in_), index(in_));
    const std::size_t tiles = (in_ + tile - 1) / tile;
    executor.parallel_for(tiles * (tiles + 1) / 2, [&](std::size_t task) {
      // Task number → tile (i, j) of the upper triangle, row by row.
      std::size_t i = 0;
      for (std::size_t row = tiles; task >= row; --row, ++i) task -= row;
      const std::size_t j = i + task;
      const Eigen::Index height = index(std::min(tile, in_ - i * tile));
      const Eigen::Index width = index(std::min(tile, in_ - j * tile));
      auto upper = sum.block(index(i * tile), index(j * tile), height, width);
      upper.noalias() += wide.middleCols(index(i * tile), height).transpose() * wide.middleCols(index(j * tile), width);
      if (i == j) {
        for (Eigen::Index r = 1; r < height; ++r)
          for (Eigen::Index c = 0; c < r; ++c) upper(r, c) = upper(c, r);
      } else {
        sum.block(index(j * tile), index(i * tile), width, height) = upper.transpose();
      }
    });
  }

  std::size_t in_;
  std::size_t tokens_ = 0;
  std::vector<double> matrix_;  // (in, in)
};

}  // namespace losa::inline v0
