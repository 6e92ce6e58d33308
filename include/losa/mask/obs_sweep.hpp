#pragma once
// The optimal brain surgeon's sweep over a weight matrix: columns from the left, each removed weight's error spread
// over the columns to its right by the rows of U (inverse_factor.hpp). For a removed w_rj:
//   e_rj = w_rj / U_jj,   w_rk −= e_rj·U_jk  for k > j
//
// A block of columns is updated at once, a strip of it (24 columns) column by column, what lies to the right of either
// by products of strips: out·in² flops for all blocks. Weights are held in double, 24 rows side by side, so that
// columns are contiguous and the rows of a strip go through one column together.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/finite.hpp>
#include <losa/core/mask.hpp>
#include <losa/core/pattern.hpp>
#include <losa/core/product_f64.hpp>
#include <losa/core/view.hpp>
#include <losa/mask/inverse_factor.hpp>
#include <losa/mask/select.hpp>

namespace losa::inline v0::detail {

/// One run over a matrix (out, in): the weights in double and the mask so far.
class ObsSweep {
 public:
  /// Throws NumericError if a weight is not finite.
  ObsSweep(MatrixView<float> weight, Mask start, const InverseFactor& factor, const ExecutorRef& executor)
      : weight_(weight),
        mask_(std::move(start)),
        factor_(factor),
        executor_(executor),
        row_strips_(strips_for(weight.rows)),
        alive_(weight.cols),
        pivots_(weight.cols, 1.0),
        work_(row_strips_ * factor.upper.strips() * tile_size) {
    for (std::size_t c = 0; c < weight.cols; ++c)
      if (!factor.dead[c]) {
        alive_[c] = 1.0;
        pivots_[c] = factor.upper(c, c);
      }
    for (std::size_t r = 0; r < weight.rows; ++r)
      for (std::size_t c = 0; c < weight.cols; ++c)
        if (!detail::is_finite(weight(r, c))) raise<NumericError>("SparseGpt: weight (", r, ", ", c, ") is not finite");
    for_weights(0, weight.cols, [&](std::size_t r, std::size_t c) { work(r, c) = static_cast<double>(weight(r, c)); });
  }

  /// Weights pruned by `mask` become 0 without anything making up for them.
  void drop(const Mask& mask) {
    for_weights(0, weight_.cols, [&](std::size_t r, std::size_t c) {
      if (!mask(r, c)) work(r, c) = 0;
    });
  }

  /// Prunes the `zeros` lowest scores of columns [first, last), those pruned already counted in; of equal scores the
  /// lower index (row-major) goes first.
  void choose(std::size_t first, std::size_t last, std::size_t zeros) {
    // Weights that are gone have a score above all others and are not chosen again.
    const std::size_t width = last - first;
    scores_.resize(weight_.rows * width);
    for_weights(first, last, [&](std::size_t r, std::size_t c) {
      scores_[r * width + c - first] = mask_(r, c) ? std::min(highest, score(r, c)) : gone;
    });
    const auto [threshold, ties] = cut(zeros);
    std::size_t equal = ties;
    const double* one = scores_.data();
    for (std::size_t r = 0; r < weight_.rows; ++r)
      for (std::size_t c = first; c < last; ++c, ++one) {
        bool prune = *one < threshold;
        if (*one == threshold && equal > 0) {
          --equal;
          prune = true;
        }
        mask_.row_words(r)[c / 64] &= ~(std::uint64_t{prune} << c % 64);  // no branch: there is no guessing it
      }
  }

  /// Removes what the mask prunes in columns [first, last) and updates everything to the right. With `groups` every
  /// group chooses when its first column comes; `first` and `last` are multiples of its M then.
  void remove(std::size_t first, std::size_t last, const NofM* groups) {
    const UpperStrips& upper = factor_.upper;
    const std::size_t tasks = (row_strips_ + strips_per_task - 1) / strips_per_task;
    executor_.parallel_for(tasks, [&](std::size_t task) {
      const std::size_t begin = task * strips_per_task;
      const std::size_t end = std::min(row_strips_, begin + strips_per_task);
      std::vector<double> errors((end - begin) * (last - first) * strip_width);  // (strip, last − first, 24)
      const auto errors_of = [&](std::size_t s) { return errors.data() + (s - begin) * (last - first) * strip_width; };
      for (std::size_t s = begin; s < end; ++s) remove_in_block(s, first, last, groups, errors_of(s));
      for (std::size_t j = strips_for(last); j < upper.strips(); ++j)
        for (std::size_t s = begin; s < end; ++s)
          strip_kernels().multiply(upper.strip(j) + first * strip_width, errors_of(s), last - first, -1.0, tile(s, j));
    });
  }

  Mask& mask() noexcept { return mask_; }

  /// Writes the weights that stay.
  void store() {
    for_weights(0, weight_.cols, [&](std::size_t r, std::size_t c) {
      const float either[] = {weight_(r, c), static_cast<float>(work(r, c))};  // no branch, as above
      weight_(r, c) = either[mask_(r, c)];
    });
  }

 private:
  // 96 rows per task: four strips of errors (24 KiB each for 128 columns) stay in a second-level cache while U passes.
  static constexpr std::size_t strips_per_task = 4;
  // No infinities: -ffast-math takes every number for finite. The two differ in the bits that cut() sorts by.
  static constexpr double highest = 0x1p1023;
  static constexpr double gone = std::numeric_limits<double>::max();

  static std::size_t strips_for(std::size_t n) noexcept { return (n + strip_width - 1) / strip_width; }

  /// Columns of strip j (24) of the rows of strip s (24).
  double* tile(std::size_t s, std::size_t j) noexcept {
    return work_.data() + (s * factor_.upper.strips() + j) * tile_size;
  }
  double& work(std::size_t r, std::size_t c) noexcept {
    return tile(r / strip_width, 0)[c * strip_width + r % strip_width];
  }

  double score(std::size_t r, std::size_t c) noexcept {
    const double error = work(r, c) * alive_[c] / pivots_[c];
    return error * error;
  }

  struct Cut {
    double threshold = 0;   // scores below it go
    std::size_t equal = 0;  // and as many of those equal to it
  };
  /// Where the lowest scores end, `zeros` of them together with those that are gone. A histogram over exponents and
  /// four bits more finds the range of the threshold, so that few scores are left to sort.
  Cut cut(std::size_t zeros) {
    const auto bucket = [](double value) { return std::bit_cast<std::uint64_t>(value) >> 48; };  // values are ≥ +0
    histogram_.assign(bucket(gone) + 1, 0);
    for (double one : scores_) ++histogram_[bucket(one)];
    const std::size_t count = zeros - histogram_[bucket(gone)];
    if (count == 0) return {};
    std::size_t below = 0;
    std::size_t range = 0;
    while (below + histogram_[range] < count) below += histogram_[range++];
    in_range_.clear();
    for (double one : scores_)
      if (bucket(one) == range) in_range_.push_back(one);
    const auto nth = in_range_.begin() + static_cast<std::ptrdiff_t>(count - below - 1);
    std::nth_element(in_range_.begin(), nth, in_range_.end());
    const auto less = std::count_if(in_range_.begin(), nth, [&](double one) { return one < *nth; });
    return {*nth, count - below - static_cast<std::size_t>(less)};
  }

  /// Calls f(row, column) for all rows of columns [first, last), rows in parallel, tile by tile.
  template <class Function>
  void for_weights(std::size_t first, std::size_t last, Function&& f) {
    for_row_ranges(executor_, weight_.rows, strip_width, [&](std::size_t row, std::size_t row_end) {
      for (std::size_t begin = first; begin < last;) {
        const std::size_t end = std::min(last, (begin / strip_width + 1) * strip_width);
        for (std::size_t r = row; r < row_end; ++r)
          for (std::size_t c = begin; c < end; ++c) f(r, c);
        begin = end;
      }
    });
  }

  /// The block for the rows of strip s: its errors, and its columns up to the end of the strip that `last` lies in.
  void remove_in_block(std::size_t s, std::size_t first, std::size_t last, const NofM* groups, double* errors) {
    const UpperStrips& upper = factor_.upper;
    Candidates<double> candidates;
    for (std::size_t from = first; from < last;) {
      // Up to the next strip; further if a group of N:M would not fit, all of which must be up to date when it chooses.
      std::size_t to = (from / strip_width + 1) * strip_width;
      if (groups != nullptr) to = std::max(from + groups->m, to / groups->m * groups->m);
      to = std::min(to, last);
      for (std::size_t c = from; c < to; ++c) {
        if (groups != nullptr && c % groups->m == 0) choose_groups(s, c, *groups, candidates);
        double* error = errors + (c - first) * strip_width;
        if (!errors_in_column(s, c, error)) continue;
        for (std::size_t k = c + 1; k < strips_for(to) * strip_width;) {
          const std::size_t j = k / strip_width;
          const std::size_t rows = (j + 1) * strip_width - k;
          strip_kernels().subtract(upper.strip(j) + c * strip_width + k % strip_width, rows, error,
                                   tile(s, 0) + k * strip_width);
          k += rows;
        }
      }
      for (std::size_t j = strips_for(to); j < strips_for(last); ++j)
        strip_kernels().multiply(upper.strip(j) + from * strip_width, errors + (from - first) * strip_width, to - from,
                                 -1.0, tile(s, j));
      from = to;
    }
  }

  /// Errors of column c for the rows of strip s; false if nothing is pruned there.
  bool errors_in_column(std::size_t s, std::size_t c, double* error) {
    const double* column = tile(s, 0) + c * strip_width;
    bool any = false;
    for (std::size_t i = 0; i < std::min(strip_width, weight_.rows - s * strip_width); ++i) {
      const bool kept = mask_(s * strip_width + i, c);
      const double either[] = {column[i] * alive_[c] / pivots_[c], 0.0};
      error[i] = either[kept];
      any = any || !kept;
    }
    return any;
  }

  void choose_groups(std::size_t s, std::size_t first, const NofM& pattern, Candidates<double>& candidates) {
    for (std::size_t r = s * strip_width; r < std::min(weight_.rows, (s + 1) * strip_width); ++r) {
      candidates.clear();
      for (std::size_t c = first; c < first + pattern.m; ++c)
        if (mask_(r, c)) candidates.add(c, score(r, c));
      const std::size_t kept = candidates.scores.size();
      if (kept < pattern.n) raise_too_few("SparseGpt", r, first, kept, pattern);
      candidates.lowest(kept - pattern.n, [&](std::size_t c) { mask_.set(r, c, false); });
    }
  }

  MatrixView<float> weight_;  // (out, in)
  Mask mask_;
  const InverseFactor& factor_;
  ExecutorRef executor_;
  std::size_t row_strips_;
  std::vector<double> alive_;   // (in) 0 where the input is always 0: score 0 and no error to pass on; 1 elsewhere
  std::vector<double> pivots_;  // (in) U_jj, 1 where the input is always 0
  std::vector<double> work_;    // (strips of rows, in, 24), `in` rounded up to a strip
  std::vector<double> scores_;
  std::vector<double> in_range_;
  std::vector<std::size_t> histogram_;
};

}  // namespace losa::inline v0::detail
