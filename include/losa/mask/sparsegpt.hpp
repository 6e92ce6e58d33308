#pragma once
// SparseGPT (Frantar and Alistarh, ICML 2023): prunes column by column from the left and spreads the error of every
// removed weight over the columns to its right, so that x·Wᵀ changes least for the calibration inputs.
//   score of w_rj: w_rj² / U_jj²,   on removal  w_r,k −= (w_rj / U_jj)·U_jk  for k > j,   H⁻¹ = UᵀU
// Unstructured counts are chosen over all rows of a block of columns just before the block is worked on, N:M groups
// just before their first column. With a given mask only the weights are updated.
//
// Shapes: weight (out, in), hessian (in, in) = XᵀX. Arithmetic in double. Cost O(in³ + out·in²), the bulk in matrix
// products; memory in² + 2·out·in doubles. Rows run in parallel.
//
//   losa::SparseGpt policy{.damping = 0.01};
//   losa::Mask mask = policy.prune(weight, {.hessian = hessian.matrix()}, {.pattern = losa::Unstructured{0.7}});

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <variant>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/mask.hpp>
#include <losa/core/pattern.hpp>
#include <losa/core/view.hpp>
#include <losa/mask/counts.hpp>
#include <losa/mask/inverse_factor.hpp>
#include <losa/mask/policy.hpp>
#include <losa/mask/select.hpp>
#include <losa/mask/statistics.hpp>

namespace losa::inline v0 {

/// The policy, over a rule that says how many zeros each block of columns gets. Of the pattern it takes the number of
/// zeros; what competes with what is its own affair (`block` below, not the pattern's group).
template <CountRule Counts = ExactCounts>
struct BasicSparseGpt {
  static constexpr StatisticsNeeds needs{.hessian = true};

  double damping = 0.01;       // of the mean diagonal of the Hessian
  std::size_t block = 128;     // columns that choose together and are updated together
  std::size_t max_raises = 6;  // tenfold rises of the damping when the Hessian is not positive definite

  /// What the last call did; written by prune.
  struct Report {
    double damping = 0;
    std::size_t raises = 0;
    std::size_t dead_columns = 0;
  } report{};

  /// The damping that the last call ended with: above `damping` if the Hessian was not positive definite with it.
  double damping_used() const noexcept { return report.damping; }

  /// Prunes as told above. Weights outside `task.within` are gone already: they count as 0 and nothing makes up for
  /// them. Columns whose input is always 0 have score 0 and pass no error on. Weights that stay are rewritten, pruned
  /// ones keep what they held.
  /// Throws ShapeError (Hessian not (in, in), masks of another shape), RangeError (block = 0, damping, counts; as
  /// select), NumericError (a weight or Hessian that is not finite, a Hessian not positive definite with any damping
  /// allowed).
  Mask prune(MatrixView<float> weight, const LayerStatistics& statistics, const PruneTask& task);
};

using SparseGpt = BasicSparseGpt<>;

namespace detail {

/// One run over a matrix: the weights in double, the mask so far, and the columns of the current block.
class ObsSweep {
 public:
  // Rows per task: 32 rows of a 128-column block against the columns to its right are a product of ~10 MFlop.
  static constexpr std::size_t rows_per_task = 32;

  ObsSweep(MatrixView<float> weight, const Mask& start, const InverseFactor& factor, const ExecutorRef& executor)
      : weight_(weight),
        mask_(start),
        factor_(factor),
        executor_(executor),
        work_(index(weight.rows), index(weight.cols)) {
    for (std::size_t r = 0; r < weight.rows; ++r)
      for (std::size_t c = 0; c < weight.cols; ++c) {
        if (!std::isfinite(weight(r, c))) raise<NumericError>("SparseGpt: weight (", r, ", ", c, ") is not finite");
        work_(index(r), index(c)) = weight(r, c);
      }
  }

  /// Weights pruned by `mask` become 0 without anything making up for them.
  void drop(const Mask& mask) {
    for (std::size_t r = 0; r < weight_.rows; ++r)
      for (std::size_t c = 0; c < weight_.cols; ++c)
        if (!mask(r, c)) work_(index(r), index(c)) = 0;
  }

  double score(std::size_t r, std::size_t c) const {
    if (factor_.dead[c]) return 0;
    const double ratio = work_(index(r), index(c)) / factor_.upper()(c, c);
    return ratio * ratio;
  }

  /// Prunes the `zeros` lowest scores of columns [first, last), those pruned already counted in.
  void choose(std::size_t first, std::size_t last, std::size_t zeros) {
    candidates_.clear();
    for (std::size_t r = 0; r < weight_.rows; ++r)
      for (std::size_t c = first; c < last; ++c)
        if (mask_(r, c)) candidates_.add(r * weight_.cols + c, score(r, c));
    const std::size_t present = weight_.rows * (last - first) - candidates_.scores.size();
    candidates_.lowest(zeros - present, [&](std::size_t position) {
      mask_.set(position / weight_.cols, position % weight_.cols, false);
    });
  }

  /// Removes what the mask prunes in columns [first, last) and updates everything to the right. With `groups` every
  /// group chooses when its first column comes.
  void remove(std::size_t first, std::size_t last, const NofM* groups) {
    const Eigen::Map<const RowMajorMatrix> upper(factor_.values.data(), index(factor_.size), index(factor_.size));
    const Eigen::Index width = index(last - first);
    const Eigen::Index rest = index(weight_.cols - last);
    for_row_ranges(executor_, weight_.rows, rows_per_task, [&](std::size_t first_row, std::size_t last_row) {
      Candidates<double> candidates;
      RowMajorMatrix error = RowMajorMatrix::Zero(index(last_row - first_row), width);
      for (std::size_t r = first_row; r < last_row; ++r)
        for (std::size_t c = first; c < last; ++c) {
          if (groups != nullptr && c % groups->m == 0) choose_group(r, c, *groups, candidates);
          if (mask_(r, c)) continue;
          const double removed = work_(index(r), index(c)) / upper(index(c), index(c));
          error(index(r - first_row), index(c - first)) = removed;
          work_.row(index(r)).segment(index(c), index(last - c)) -=
              removed * upper.row(index(c)).segment(index(c), index(last - c));
        }
      if (rest > 0)
        work_.block(index(first_row), index(last), index(last_row - first_row), rest).noalias() -=
            error * upper.block(index(first), index(last), width, rest);
    });
  }

  Mask& mask() { return mask_; }

  /// Writes the weights that stay.
  void store() {
    for (std::size_t r = 0; r < weight_.rows; ++r)
      mask_.for_each_kept(r, [&](std::size_t c) { weight_(r, c) = static_cast<float>(work_(index(r), index(c))); });
  }

 private:
  void choose_group(std::size_t r, std::size_t first, const NofM& pattern, Candidates<double>& candidates) {
    candidates.clear();
    for (std::size_t c = first; c < first + pattern.m; ++c)
      if (mask_(r, c)) candidates.add(c, score(r, c));
    const std::size_t kept = candidates.scores.size();
    if (kept < pattern.n) raise_too_few("SparseGpt", r, first, kept, pattern);
    candidates.lowest(kept - pattern.n, [&](std::size_t c) { mask_.set(r, c, false); });
  }

  static Eigen::Index index(std::size_t i) noexcept { return static_cast<Eigen::Index>(i); }

  MatrixView<float> weight_;  // (out, in)
  Mask mask_;
  const InverseFactor& factor_;
  ExecutorRef executor_;
  RowMajorMatrix work_;  // (out, in)
  Candidates<double> candidates_;
};

}  // namespace detail

template <CountRule Counts>
Mask BasicSparseGpt<Counts>::prune(MatrixView<float> weight, const LayerStatistics& statistics, const PruneTask& task) {
  const std::size_t rows = weight.rows;
  const std::size_t cols = weight.cols;
  zeros_of(task.pattern, rows, cols, "SparseGpt");
  if (block == 0) detail::raise<RangeError>("SparseGpt: a column block must have at least one column, got 0");
  if (task.within != nullptr && (task.within->rows() != rows || task.within->cols() != cols))
    detail::raise<ShapeError>("SparseGpt: `within` is ", task.within->rows(), " × ", task.within->cols(),
                              ", the weight ", rows, " × ", cols);
  detail::expect_shape("SparseGpt", "hessian", statistics.hessian, cols, cols);
  const InverseFactor factor = inverse_factor(statistics.hessian, {damping, max_raises}, task.executor, "SparseGpt");
  report = {factor.damping, factor.raises,
            static_cast<std::size_t>(std::count(factor.dead.begin(), factor.dead.end(), true))};

  const auto* given = std::get_if<GivenMask>(&task.pattern);
  const auto* groups = std::get_if<NofM>(&task.pattern);
  Mask start = given != nullptr         ? detail::select_given("SparseGpt", *given, task.within)
               : task.within != nullptr ? *task.within
                                        : Mask::full(rows, cols);
  detail::ObsSweep sweep(weight, start, factor, task.executor);
  if (task.within != nullptr) sweep.drop(*task.within);

  std::vector<std::size_t> zeros;
  std::size_t width = block;
  if (groups != nullptr) {
    width = std::max(groups->m, block / groups->m * groups->m);  // a group never straddles two blocks
  } else if (given == nullptr && !weight.empty()) {
    zeros = detail::block_counts<Counts>("SparseGpt", budget_of(task.pattern, rows, cols, "SparseGpt"), rows, cols,
                                         block, task.within);
  }
  for (std::size_t first = 0; first < cols; first += width) {
    const std::size_t last = std::min(cols, first + width);
    if (!zeros.empty()) sweep.choose(first, last, zeros[first / width]);
    sweep.remove(first, last, groups);
  }
  sweep.store();
  return sweep.mask();
}

}  // namespace losa::inline v0
