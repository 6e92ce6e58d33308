#pragma once
// Squared norms of the input columns, Σ_t x_tj²: what Wanda scores with.
//
// Shapes: batches x (tokens, in). Sums in double, so that merging shards equals one stream within tokens·2⁻⁵³ relative.
// Cost tokens·in; memory in doubles.
//
//   losa::ColumnNorms norms(in);
//   for (auto batch : calibration) norms.add(batch);

#include <cstddef>
#include <span>
#include <vector>

#include <losa/calibrate/columns.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/view.hpp>

namespace losa::inline v0 {

class ColumnNorms {
 public:
  explicit ColumnNorms(std::size_t in) : sum_squares_(in) {}

  std::size_t in() const noexcept { return sum_squares_.size(); }
  std::size_t tokens() const noexcept { return tokens_; }
  /// (in) Σ x² over all tokens so far.
  std::span<const double> sum_squares() const noexcept { return sum_squares_; }

  /// Adds x (tokens, in). Throws ShapeError on another number of columns.
  void add(MatrixView<const float> x, const ExecutorRef& executor = {}) {
    detail::expect_columns("ColumnNorms", in(), x.cols);
    detail::for_column_ranges(executor, in(), [&](std::size_t first, std::size_t last) {
      for (std::size_t t = 0; t < x.rows; ++t)
        for (std::size_t c = first; c < last; ++c) {
          const auto value = static_cast<double>(x(t, c));
          sum_squares_[c] += value * value;
        }
    });
    tokens_ += x.rows;
  }

  /// Adds what another shard has seen. Throws ShapeError on another number of columns.
  void merge(const ColumnNorms& other) {
    detail::expect_mergeable("ColumnNorms", in(), other.in());
    for (std::size_t c = 0; c < in(); ++c) sum_squares_[c] += other.sum_squares_[c];
    tokens_ += other.tokens_;
  }

 private:
  std::size_t tokens_ = 0;
  std::vector<double> sum_squares_;  // (in)
};

}  // namespace losa::inline v0
