#pragma once
// Mean and variance of the input columns. Each batch is reduced in two passes; batches and shards are joined by
//   M2 = M2_a + M2_b + (mean_b − mean_a)²·n_a·n_b/(n_a + n_b)
// (Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979), which
// does not cancel when the mean is large against the spread.
//
// Shapes: batches x (tokens, in). Sums in double. Cost 2·tokens·in; memory 3·in doubles.
//
//   losa::ColumnMoments moments(in);
//   moments.add(batch);
//   auto variance = moments.variance();                           // (in), of the population

#include <cstddef>
#include <span>
#include <vector>

#include <losa/calibrate/columns.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/view.hpp>

namespace losa::inline v0 {

class ColumnMoments {
 public:
  explicit ColumnMoments(std::size_t in) : mean_(in), variance_(in), squares_(in) {}

  std::size_t in() const noexcept { return mean_.size(); }
  std::size_t tokens() const noexcept { return tokens_; }
  /// (in) Mean over all tokens so far; 0 before the first.
  std::span<const double> mean() const noexcept { return mean_; }
  /// (in) Variance over all tokens so far, divided by their number; 0 before the first.
  std::span<const double> variance() const noexcept { return variance_; }

  /// Adds x (tokens, in). Throws ShapeError on another number of columns.
  void add(MatrixView<const float> x, const ExecutorRef& executor = {}) {
    detail::expect_columns("ColumnMoments", in(), x.cols);
    if (x.rows == 0) return;
    const auto tokens = static_cast<double>(x.rows);
    detail::for_column_ranges(executor, in(), [&](std::size_t first, std::size_t last) {
      double mean[detail::columns_per_task] = {};
      double squares[detail::columns_per_task] = {};
      for (std::size_t t = 0; t < x.rows; ++t)
        for (std::size_t c = first; c < last; ++c) mean[c - first] += static_cast<double>(x(t, c));
      for (std::size_t c = first; c < last; ++c) mean[c - first] /= tokens;
      for (std::size_t t = 0; t < x.rows; ++t)
        for (std::size_t c = first; c < last; ++c) {
          const double deviation = static_cast<double>(x(t, c)) - mean[c - first];
          squares[c - first] += deviation * deviation;
        }
      for (std::size_t c = first; c < last; ++c) join(c, tokens, mean[c - first], squares[c - first]);
    });
    tokens_ += x.rows;
  }

  /// Adds what another shard has seen. Throws ShapeError on another number of columns.
  void merge(const ColumnMoments& other) {
    detail::expect_mergeable("ColumnMoments", in(), other.in());
    if (other.tokens_ == 0) return;
    for (std::size_t c = 0; c < in(); ++c)
      join(c, static_cast<double>(other.tokens_), other.mean_[c], other.squares_[c]);
    tokens_ += other.tokens_;
  }

 private:
  void join(std::size_t c, double tokens, double mean, double squares) {
    const auto before = static_cast<double>(tokens_);
    const double all = before + tokens;
    const double difference = mean - mean_[c];
    mean_[c] += difference * (tokens / all);
    squares_[c] += squares + difference * difference * (before * tokens / all);
    variance_[c] = squares_[c] / all;
  }

  std::size_t tokens_ = 0;
  std::vector<double> mean_;      // (in)
  std::vector<double> variance_;  // (in)
  std::vector<double> squares_;   // (in) Σ (x − mean)²
};

}  // namespace losa::inline v0
