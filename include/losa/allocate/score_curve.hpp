#pragma once
// Distribution of the squared scores q of a matrix (Wanda: q = w²·E[x²], what removing one weight costs if inputs are
// uncorrelated) as a histogram of fixed memory: 16 bins per octave, linear within a bin. From it the distortion
// D(s) = Σ of the s·n smallest q, convex in s, and its slope, the score at which a fraction s is removed.
// Histograms of shards merge exactly. Memory 64 KiB; cost O(1) per weight; resolution of q 1/16 of an octave.
//
//   losa::ScoreCurve curve;
//   curve.add(losa::Wanda{norms}, weight);         // any score; or curve.add(q) one by one

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/core/finite.hpp>
#include <losa/core/view.hpp>

namespace losa::inline v0 {

class ScoreCurve {
 public:
  static constexpr std::size_t bins = 4096;

  ScoreCurve() : count_(bins), sum_(bins) {}

  /// One weight. Throws NumericError unless q ≥ 0 is finite.
  void add(const double& square_score) {
    if (!(detail::is_finite(square_score) && square_score >= 0.0))
      detail::raise<NumericError>("ScoreCurve: a squared score must be at least 0 and finite, got ", square_score);
    const std::size_t bin = bin_of(square_score);
    ++count_[bin];
    sum_[bin] += square_score;
    ++size_;
  }
  /// Every weight of `weight` (out, in) by its score, squared.
  template <class Score>
  void add(const Score& score, MatrixView<const float> weight) {
    for (std::size_t r = 0; r < weight.rows; ++r)
      for (std::size_t c = 0; c < weight.cols; ++c) {
        const double value = static_cast<double>(score(r, c, weight(r, c)));
        add(value * value);
      }
  }
  /// Every weight by q = w²·Σx²·Σg², the loss that its removal costs to second order with the Kronecker-factored
  /// diagonal for the curvature. `inputs` (in) Σx² of each column over some tokens, `outputs` (out) Σ(∂ℓ/∂y)² of each
  /// row.
  void add(MatrixView<const float> weight, std::span<const double> inputs, std::span<const double> outputs) {
    for (std::size_t r = 0; r < weight.rows; ++r)
      for (std::size_t c = 0; c < weight.cols; ++c) {
        const double w = static_cast<double>(weight(r, c));
        add(w * w * inputs[c] * outputs[r]);
      }
  }
  /// As if every weight of the other had been added here.
  void merge(const ScoreCurve& other) {
    for (std::size_t b = 0; b < bins; ++b) {
      count_[b] += other.count_[b];
      sum_[b] += other.sum_[b];
    }
    size_ += other.size_;
  }

  /// Number of weights.
  std::size_t size() const noexcept { return size_; }

  /// Number of weights with q below `threshold`, as a continuous, non-decreasing function of it; 0 at 0.
  double count_below(const double& threshold) const noexcept {
    if (detail::is_nan(threshold) || !(threshold > 0.0)) return 0.0;
    const std::size_t bin = bin_of(threshold);
    double count = 0;
    for (std::size_t b = 0; b < bin; ++b) count += static_cast<double>(count_[b]);
    const double low = edge(bin);
    const double high = edge(bin + 1);
    const double part = std::clamp((threshold - low) / (high - low), 0.0, 1.0);
    return count + part * static_cast<double>(count_[bin]);
  }
  /// Smallest q at which a fraction `sparsity` in [0, 1] is removed, to the width of a bin: the slope of D.
  double threshold(double sparsity) const noexcept {
    double left = sparsity * static_cast<double>(size_);
    std::size_t last = 0;
    for (std::size_t b = 0; b < bins; ++b) {
      const double count = static_cast<double>(count_[b]);
      if (count == 0) continue;
      if (left <= count) return edge(b) + (edge(b + 1) - edge(b)) * (b == 0 ? 0.0 : std::max(left, 0.0) / count);
      left -= count;
      last = b;
    }
    return edge(last + 1);
  }
  /// D(sparsity): total of the smallest q. Exact at bin edges; within a bin every weight counts as the bin's mean.
  double distortion(double sparsity) const noexcept {
    double left = sparsity * static_cast<double>(size_);
    double total = 0;
    for (std::size_t b = 0; b < bins && left > 0; ++b) {
      const double count = static_cast<double>(count_[b]);
      if (count == 0) continue;
      total += sum_[b] * std::min(1.0, left / count);
      left -= count;
    }
    return total;
  }

 private:
  // The upper 16 bits of a positive double are its exponent and 4 bits of mantissa. Bin 0 holds zero and everything
  // below 2⁻¹⁹²; the last bin everything above 2⁶³.
  static constexpr std::uint64_t offset = (std::uint64_t{1023 - 192} << 4) - 1;

  static std::size_t bin_of(double value) noexcept {
    const std::uint64_t top = std::bit_cast<std::uint64_t>(value) >> 48;
    return top <= offset ? 0 : std::min<std::size_t>(top - offset, bins - 1);
  }
  /// Lower edge of a bin, upper edge of the one before.
  static double edge(std::size_t bin) noexcept { return bin == 0 ? 0.0 : std::bit_cast<double>((offset + bin) << 48); }

  std::vector<std::uint64_t> count_;
  std::vector<double> sum_;
  std::size_t size_ = 0;
};

}  // namespace losa::inline v0
