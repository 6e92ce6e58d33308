#pragma once
// Gram matrix of N sequences' features, K = F·Fᵀ with F (N, positions·width): what RMI compares (LoSA, Eq. 4). F comes
// in chunks of columns, in any number, and is never held whole: chunks over different columns simply add up.
//
// Shapes: chunks (N, columns), K (N, N). Products and sums in double: merging equals one stream within columns·2⁻⁵³ of
// Σ|f_i·f_j|. Cost N²·columns; memory about 5·N² doubles and 8 pieces of the chunk.
//
//   losa::FeatureGram gram(sequences);
//   for (auto chunk : features) gram.add(chunk, pool);             // (sequences, columns of this chunk)

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

#include <losa/calibrate/columns.hpp>
#include <losa/core/error.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/product_f64.hpp>
#include <losa/core/view.hpp>

namespace losa::inline v0 {

class FeatureGram {
 public:
  explicit FeatureGram(std::size_t sequences) : sequences_(sequences), matrix_(sequences * sequences) {}

  std::size_t sequences() const noexcept { return sequences_; }
  /// Features per sequence so far.
  std::size_t cols() const noexcept { return columns_; }
  /// (N, N) F·Fᵀ, symmetric bit for bit.
  MatrixView<const double> matrix() const noexcept { return {matrix_.data(), sequences_, sequences_}; }

  /// Adds a chunk (N, columns): the same further features of every sequence. Throws ShapeError on another N.
  void add(MatrixView<const float> chunk, const ExecutorRef& executor = {}) {
    if (chunk.rows != sequences_)
      detail::raise<ShapeError>("FeatureGram: a chunk must have one row for each of ", sequences_, " sequences, got ",
                                chunk.rows);
    for (std::size_t c = 0; c < chunk.cols; c += pieces * piece)
      add_pieces(chunk.block(0, c, sequences_, std::min(pieces * piece, chunk.cols - c)), executor);
    columns_ += chunk.cols;
  }

  /// Adds what another shard, over other columns, has seen. Throws ShapeError on another N.
  void merge(const FeatureGram& other) {
    detail::expect_mergeable("FeatureGram", sequences_, other.sequences_);
    for (std::size_t i = 0; i < matrix_.size(); ++i) matrix_[i] += other.matrix_[i];
    columns_ += other.columns_;
  }

 private:
  static constexpr std::size_t piece = 512;  // columns multiplied by one task
  static constexpr std::size_t pieces = 8;   // tasks before their sums are joined

  void add_pieces(MatrixView<const float> chunk, const ExecutorRef& executor) {
    std::array<std::vector<double>, pieces> part;  // tiles (I, J), J ≤ I, of F·Fᵀ, one after the other
    const std::size_t count = (chunk.cols + piece - 1) / piece;
    const std::size_t strips = (sequences_ + detail::strip_width - 1) / detail::strip_width;
    executor.parallel_for(count, [&](std::size_t p) {
      const std::size_t first = p * piece;
      const std::size_t width = std::min(piece, chunk.cols - first);
      const std::size_t strip = width * detail::strip_width;
      std::vector<double> features(strips * strip);  // strips of sequences side by side, column after column
      for (std::size_t r = 0; r < sequences_; ++r) {
        double* at = features.data() + r / detail::strip_width * strip + r % detail::strip_width;
        for (std::size_t c = 0; c < width; ++c) at[c * detail::strip_width] = static_cast<double>(chunk(r, first + c));
      }
      part[p].resize(strips * (strips + 1) / 2 * detail::tile_size);
      double* tile = part[p].data();
      for (std::size_t i = 0; i < strips; ++i)
        for (std::size_t j = 0; j <= i; ++j, tile += detail::tile_size)
          detail::strip_kernels().multiply(features.data() + i * strip, features.data() + j * strip, width, 1.0, tile);
    });
    for (std::size_t p = 0; p < count; ++p)
      for (std::size_t r = 0; r < sequences_; ++r)
        for (std::size_t c = 0; c <= r; ++c) {
          const std::size_t i = r / detail::strip_width, j = c / detail::strip_width;
          const double value = part[p][(i * (i + 1) / 2 + j) * detail::tile_size +
                                       r % detail::strip_width * detail::strip_width + c % detail::strip_width];
          matrix_[r * sequences_ + c] += value;
          if (r != c) matrix_[c * sequences_ + r] += value;
        }
  }

  std::size_t sequences_;
  std::size_t columns_ = 0;
  std::vector<double> matrix_;  // (N, N)
};

}  // namespace losa::inline v0
