#pragma once
// Hessian of a layer's squared output error: H = XᵀX over all calibration tokens. (SparseGPT writes 2XᵀX/N; the factor
// makes no difference to it.)
//
// Shapes: batches x (tokens, in), H (in, in). Products and sums in double: merging shards equals one stream within
// tokens·2⁻⁵³ of Σ|x_i·x_j|. Cost tokens·in² flops, half of the full product: at in = 1536 one core of a server with
// AVX-512 does 50 GFlop/s, so 8,192 tokens take 0.4 s. Memory in² doubles and, during add, one chunk of tokens.
//
//   losa::Hessian hessian(in);
//   for (auto batch : calibration) hessian.add(batch, pool);
//   auto h = hessian.matrix();

#include <algorithm>
#include <cstddef>
#include <vector>

#include <losa/calibrate/columns.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/product_f64.hpp>
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
    const std::size_t strips = (in_ + width - 1) / width;
    std::vector<double> packed(std::min(chunk, x.rows) * strips * width);  // (strips, tokens of the chunk, width)
    for (std::size_t t = 0; t < x.rows; t += chunk) {
      const MatrixView<const float> part = x.block(t, 0, std::min(chunk, x.rows - t), in_);
      executor.parallel_for(strips, [&](std::size_t i) { pack(part, i, strip(packed, part.rows, i)); });
      executor.parallel_for((strips + task_strips - 1) / task_strips, [&](std::size_t task) {
        const std::size_t first = task * task_strips;
        for (std::size_t j = first; j < strips; ++j)
          for (std::size_t i = first; i < std::min(j + 1, first + task_strips); ++i)
            add_product(i, j, strip(packed, part.rows, i), strip(packed, part.rows, j), part.rows);
      });
    }
    tokens_ += x.rows;
  }

  /// Adds what another shard has seen. Throws ShapeError on another number of columns.
  void merge(const Hessian& other) {
    detail::expect_mergeable("Hessian", in_, other.in_);
    for (std::size_t i = 0; i < matrix_.size(); ++i) matrix_[i] += other.matrix_[i];
    tokens_ += other.tokens_;
  }

 private:
  // Tokens in double at a time: a strip of them is 48 KiB; a task's strips stay in a second-level cache while all
  // others pass.
  static constexpr std::size_t chunk = 256;
  static constexpr std::size_t task_strips = 4;
  static constexpr std::size_t width = detail::strip_width;

  static double* strip(std::vector<double>& packed, std::size_t tokens, std::size_t i) noexcept {
    return packed.data() + i * tokens * width;
  }

  /// Strip i of x in double, (tokens, width), zeros past the last column.
  void pack(MatrixView<const float> x, std::size_t i, double* to) const {
    const std::size_t cols = std::min(width, in_ - i * width);
    for (std::size_t t = 0; t < x.rows; ++t)
      for (std::size_t c = 0; c < width; ++c)
        to[t * width + c] = c < cols ? static_cast<double>(x(t, i * width + c)) : 0.0;
  }

  /// Adds the product of strips i and j ≥ i to its place in the upper triangle, and copies the sum to the lower one.
  void add_product(std::size_t i, std::size_t j, const double* a, const double* b, std::size_t tokens) {
    double sum[width * width] = {};
    detail::strip_kernels().multiply(a, b, tokens, 1.0, sum);
    const std::size_t rows = std::min(width, in_ - i * width);
    const std::size_t cols = std::min(width, in_ - j * width);
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < cols; ++c) {
        double& element = matrix_[(i * width + r) * in_ + j * width + c];
        element = sum[r * width + c] += element;
      }
    if (i == j) return;
    for (std::size_t c = 0; c < cols; ++c)
      for (std::size_t r = 0; r < rows; ++r) matrix_[(j * width + c) * in_ + i * width + r] = sum[r * width + c];
  }

  std::size_t in_;
  std::size_t tokens_ = 0;
  std::vector<double> matrix_;  // (in, in)
};

}  // namespace losa::inline v0
