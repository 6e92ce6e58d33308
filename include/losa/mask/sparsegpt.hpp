#pragma once
// SparseGPT (Frantar and Alistarh, ICML 2023): prunes column by column from the left and spreads the error of every
// removed weight over the columns to its right, so that x·Wᵀ changes least for the calibration inputs.
//   score of w_rj: w_rj² / U_jj²,   on removal  w_r,k −= (w_rj / U_jj)·U_jk  for k > j,   H⁻¹ = UᵀU
// Unstructured counts are chosen over all rows of a block of columns just before the block is worked on, N:M groups
// just before their first column. With a given mask only the weights are updated.
//
// Shapes: weight (out, in), hessian (in, in) = XᵀX. Arithmetic in double. Cost 2in³/3 + out·in² flops, the bulk in
// matrix products (obs_sweep.hpp); memory in²/2 + out·in doubles. Layers that read the same input share the factor of
// its Hessian where their statistics have a place for it (LayerStatistics::derived).
//
//   losa::SparseGpt policy{.damping = 0.01};
//   losa::Mask mask = policy.prune(weight, {.hessian = hessian.matrix()}, {.pattern = losa::Unstructured{0.7}});

#include <algorithm>
#include <any>
#include <cstddef>
#include <memory>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/mask.hpp>
#include <losa/core/pattern.hpp>
#include <losa/core/view.hpp>
#include <losa/mask/counts.hpp>
#include <losa/mask/inverse_factor.hpp>
#include <losa/mask/obs_sweep.hpp>
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

/// What SparseGPT leaves for other layers that read the same input, and what it was made of.
struct SharedFactor {
  const double* hessian = nullptr;
  std::size_t size = 0;
  std::size_t tokens = 0;
  DampingOptions options{};
  std::shared_ptr<const InverseFactor> factor;
};

/// The factor of the layer's Hessian: the one in `statistics.derived` if it was made of the same with the same options,
/// else a new one, which is put there.
inline std::shared_ptr<const InverseFactor> shared_inverse_factor(const LayerStatistics& statistics,
                                                                  const DampingOptions& options,
                                                                  const ExecutorRef& executor, std::string_view where) {
  const MatrixView<const double>& hessian = statistics.hessian;
  if (const auto* found = std::any_cast<SharedFactor>(statistics.derived);
      found != nullptr && found->hessian == hessian.data && found->size == hessian.rows &&
      found->tokens == statistics.tokens && found->options == options)
    return found->factor;
  if (statistics.derived != nullptr) statistics.derived->reset();  // before the new one needs the memory
  auto factor = std::make_shared<const InverseFactor>(inverse_factor(hessian, options, executor, where));
  if (statistics.derived != nullptr)
    *statistics.derived = SharedFactor{hessian.data, hessian.rows, statistics.tokens, options, factor};
  return factor;
}

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
  const std::shared_ptr<const InverseFactor> factor =
      detail::shared_inverse_factor(statistics, {damping, max_raises}, task.executor, "SparseGpt");
  report = {factor->damping, factor->raises,
            static_cast<std::size_t>(std::count(factor->dead.begin(), factor->dead.end(), true))};

  const auto* given = std::get_if<GivenMask>(&task.pattern);
  const auto* groups = std::get_if<NofM>(&task.pattern);
  Mask start = given != nullptr         ? detail::select_given("SparseGpt", *given, task.within)
               : task.within != nullptr ? *task.within
                                        : Mask::full(rows, cols);
  detail::ObsSweep sweep(weight, std::move(start), *factor, task.executor);
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
  return std::move(sweep.mask());
}

}  // namespace losa::inline v0
