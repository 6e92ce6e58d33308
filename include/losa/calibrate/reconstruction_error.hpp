#pragma once
// Reconstruction error of a block (LoSA, Eq. 6): with dense outputs D and outputs Z of the sparse model,
//   e = (1/d)·Σ_c ‖D_c − Z_c‖² / ‖D_c‖²        over the d hidden channels c, norms over all tokens.
// A channel whose dense output is always 0 counts 0 if the sparse one is 0 as well; otherwise its relative error has no
// value, and it is left out of the mean (undefined_channels says how many).
//
// Shapes: batches D, Z (tokens, channels). Sums in double. Cost tokens·channels; memory 2·channels doubles.
//
//   losa::ReconstructionError error(channels);
//   error.add(dense, sparse);
//   double e = error.value();

#include <cstddef>
#include <span>
#include <vector>

#include <losa/calibrate/columns.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/view.hpp>

namespace losa::inline v0 {

class ReconstructionError {
 public:
  explicit ReconstructionError(std::size_t channels) : error_(channels), signal_(channels) {}

  std::size_t channels() const noexcept { return error_.size(); }
  std::size_t tokens() const noexcept { return tokens_; }
  /// (channels) Σ (d − z)².
  std::span<const double> error() const noexcept { return error_; }
  /// (channels) Σ d².
  std::span<const double> signal() const noexcept { return signal_; }

  /// Adds the same tokens as both models put them out (tokens, channels). Throws ShapeError on other shapes.
  void add(MatrixView<const float> dense, MatrixView<const float> sparse, const ExecutorRef& executor = {}) {
    detail::expect_columns("ReconstructionError", channels(), dense.cols);
    detail::expect_shape("ReconstructionError", "sparse output", sparse, dense.rows, dense.cols);
    detail::for_column_ranges(executor, channels(), [&](std::size_t first, std::size_t last) {
      for (std::size_t t = 0; t < dense.rows; ++t)
        for (std::size_t c = first; c < last; ++c) {
          const auto wanted = static_cast<double>(dense(t, c));
          const double difference = wanted - static_cast<double>(sparse(t, c));
          error_[c] += difference * difference;
          signal_[c] += wanted * wanted;
        }
    });
    tokens_ += dense.rows;
  }

  /// Adds what another shard has seen. Throws ShapeError on another number of channels.
  void merge(const ReconstructionError& other) {
    detail::expect_mergeable("ReconstructionError", channels(), other.channels());
    for (std::size_t c = 0; c < channels(); ++c) {
      error_[c] += other.error_[c];
      signal_[c] += other.signal_[c];
    }
    tokens_ += other.tokens_;
  }

  /// The mean relative squared error; 0 if no channel has one.
  double value() const noexcept {
    double sum = 0;
    for (std::size_t c = 0; c < channels(); ++c)
      if (signal_[c] != 0) sum += error_[c] / signal_[c];
    const std::size_t counted = channels() - undefined_channels();
    return counted == 0 ? 0.0 : sum / static_cast<double>(counted);
  }

  /// Channels without signal that have an error nevertheless.
  std::size_t undefined_channels() const noexcept {
    std::size_t count = 0;
    for (std::size_t c = 0; c < channels(); ++c) count += signal_[c] == 0 && error_[c] != 0;
    return count;
  }

 private:
  std::size_t tokens_ = 0;
  std::vector<double> error_;   // (channels)
  std::vector<double> signal_;  // (channels)
};

}  // namespace losa::inline v0
