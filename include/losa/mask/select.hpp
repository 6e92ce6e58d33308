#pragma once
// A score turned into a mask: within every group of the pattern the weights with the lowest scores are pruned.
// A score is any callable (row, column, weight) → float; low means expendable. Of equal scores the lower index goes
// first (row-major); counts are exact, whatever the scores.
//
// Shapes: weight (out, in). Cost O(out·in) calls of the score and as many comparisons; rows run in parallel.
//
//   losa::Mask mask = losa::select(losa::Magnitude{}, weight, losa::Unstructured{0.7});
//   losa::Mask next = losa::select(losa::Magnitude{}, weight, losa::Unstructured{0.8}, {.within = &mask});

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <span>
#include <string_view>
#include <variant>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/finite.hpp>
#include <losa/core/mask.hpp>
#include <losa/core/pattern.hpp>
#include <losa/core/view.hpp>
#include <losa/mask/counts.hpp>

namespace losa::inline v0 {

/// How much a weight is worth; pure. It may also have `validate(rows, cols) const`, called once before it is used, to
/// throw if its data does not fit a weight of that shape.
template <class ScoreType>
concept MaskScore = requires(const ScoreType& score, std::size_t row, std::size_t col, float weight) {
  { score(row, col, weight) } -> std::convertible_to<float>;
};

struct SelectOptions {
  const Mask* within = nullptr;  // if set, what it prunes stays pruned: masks nest (monotone mode)
  ExecutorRef executor{};
};

/// Calls prune(i) for the `count` lowest of `scores` in rising i; of equal scores the lower index goes first.
/// `scratch` is overwritten. Scores must not be NaN; count ≤ scores.size(). Cost O(n).
template <std::floating_point Floating, class Function>
void select_lowest(std::span<const Floating> scores, std::size_t count, std::vector<Floating>& scratch,
                   Function&& prune) {
  if (count == 0) return;
  scratch.assign(scores.begin(), scores.end());
  const auto nth = scratch.begin() + static_cast<std::ptrdiff_t>(count - 1);
  std::nth_element(scratch.begin(), nth, scratch.end());
  const Floating threshold = *nth;
  std::size_t equal = count - static_cast<std::size_t>(std::count_if(scratch.begin(), nth, [&](Floating s) {
                        return s < threshold;
                      }));  // how many of those equal to the threshold must go
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (scores[i] < threshold) {
      prune(i);
    } else if (scores[i] == threshold && equal > 0) {
      --equal;
      prune(i);
    }
  }
}

namespace detail {

// Rows per task: a row of a few hundred weights takes microseconds, a task should take tens of them.
inline constexpr std::size_t select_rows_per_task = 16;

/// Runs f(first, last) over all rows in tasks of fixed shape.
template <class Function>
void for_row_ranges(const ExecutorRef& executor, std::size_t rows, std::size_t per_task, Function&& f) {
  executor.parallel_for((rows + per_task - 1) / per_task,
                        [&](std::size_t task) { f(task * per_task, std::min(rows, (task + 1) * per_task)); });
}

/// The candidates among which a group chooses: position (row-major within the group) and score.
template <std::floating_point Floating>
struct Candidates {
  std::vector<Floating> scores;
  std::vector<std::size_t> positions;
  std::vector<Floating> scratch;
  void clear() {
    scores.clear();
    positions.clear();
  }
  void add(std::size_t position, Floating score) {
    positions.push_back(position);
    scores.push_back(score);
  }
  template <class Function>
  void lowest(std::size_t count, Function&& f) {
    select_lowest(std::span<const Floating>(scores), count, scratch, [&](std::size_t i) { f(positions[i]); });
  }
};

template <class ScoreType>
float checked_score(const ScoreType& score, std::size_t r, std::size_t c, float weight) {
  const float value = score(r, c, weight);
  if (detail::is_nan(value)) raise<NumericError>("select: the score of weight (", r, ", ", c, ") is not a number");
  return value;
}

/// Pruned entries of `mask` in columns [first, last) of all rows; 0 without a mask.
inline std::size_t zeros_in_columns(const Mask* mask, std::size_t first, std::size_t last) {
  std::size_t zeros = 0;
  if (mask != nullptr)
    for (std::size_t r = 0; r < mask->rows(); ++r)
      for (std::size_t c = first; c < last; ++c) zeros += !(*mask)(r, c);
  return zeros;
}

/// Zeros of every block of columns by the rule, not below what `within` has already.
template <CountRule Counts>
std::vector<std::size_t> block_counts(std::string_view where, const ZeroBudget& budget, std::size_t rows,
                                      std::size_t cols, std::size_t block, const Mask* within) {
  std::vector<std::size_t> counts = Counts::block_zeros(budget, rows, cols, block);
  if (within == nullptr) return counts;
  std::vector<std::size_t> lower;
  std::vector<std::size_t> upper;
  for (std::size_t c = 0; c < cols; c += block) {
    const std::size_t last = std::min(cols, c + block);
    lower.push_back(zeros_in_columns(within, c, last));
    upper.push_back(rows * (last - c));
  }
  return fit_counts(where, counts, lower, upper);
}

[[__noreturn__]] inline void raise_too_few(std::string_view where, std::size_t row, std::size_t first, std::size_t kept,
                                           const NofM& pattern) {
  raise<RangeError>(where, ": `within` keeps ", kept, " of the ", pattern.m, " columns from ", first, " in row ", row,
                    ", pattern ", pattern.n, ":", pattern.m, " needs ", pattern.n);
}

template <class ScoreType>
Mask select_n_of_m(const ScoreType& score, MatrixView<const float> weight, const NofM& pattern,
                   const SelectOptions& options) {
  Mask mask = options.within != nullptr ? *options.within : Mask::full(weight.rows, weight.cols);
  for_row_ranges(options.executor, weight.rows, select_rows_per_task, [&](std::size_t first, std::size_t last) {
    Candidates<float> candidates;
    for (std::size_t r = first; r < last; ++r)
      for (std::size_t c0 = 0; c0 < weight.cols; c0 += pattern.m) {
        candidates.clear();
        for (std::size_t c = c0; c < c0 + pattern.m; ++c)
          if (mask(r, c)) candidates.add(c, checked_score(score, r, c, weight(r, c)));
        const std::size_t kept = candidates.scores.size();
        if (kept < pattern.n) raise_too_few("select", r, c0, kept, pattern);
        candidates.lowest(kept - pattern.n, [&](std::size_t c) { mask.set(r, c, false); });
      }
  });
  return mask;
}

template <CountRule Counts, class ScoreType>
Mask select_in_rows(const ScoreType& score, MatrixView<const float> weight, const ZeroBudget& budget,
                    const SelectOptions& options) {
  Mask mask = options.within != nullptr ? *options.within : Mask::full(weight.rows, weight.cols);
  std::vector<std::size_t> zeros = Counts::row_zeros(budget, weight.rows, weight.cols);
  std::vector<std::size_t> present(weight.rows);
  if (options.within != nullptr) {
    for (std::size_t r = 0; r < weight.rows; ++r) present[r] = weight.cols - mask.kept_in_row(r);
    zeros = fit_counts("select", zeros, present, std::vector<std::size_t>(weight.rows, weight.cols));
  }
  for_row_ranges(options.executor, weight.rows, select_rows_per_task, [&](std::size_t first, std::size_t last) {
    Candidates<float> candidates;
    for (std::size_t r = first; r < last; ++r) {
      candidates.clear();
      mask.for_each_kept(r, [&](std::size_t c) { candidates.add(c, checked_score(score, r, c, weight(r, c))); });
      candidates.lowest(zeros[r] - present[r], [&](std::size_t c) { mask.set(r, c, false); });
    }
  });
  return mask;
}

template <CountRule Counts, class ScoreType>
Mask select_in_blocks(const ScoreType& score, MatrixView<const float> weight, const ZeroBudget& budget,
                      std::size_t block, const SelectOptions& options) {
  Mask mask = options.within != nullptr ? *options.within : Mask::full(weight.rows, weight.cols);
  const std::vector<std::size_t> zeros =
      block_counts<Counts>("select", budget, weight.rows, weight.cols, block, options.within);
  // Neighbouring blocks share words of the mask, so blocks only note their choice in parallel and write it in turn.
  std::vector<std::vector<std::size_t>> pruned(zeros.size());
  options.executor.parallel_for(zeros.size(), [&](std::size_t b) {
    const std::size_t first = b * block;
    const std::size_t last = std::min(weight.cols, first + block);
    Candidates<float> candidates;
    for (std::size_t r = 0; r < weight.rows; ++r)
      for (std::size_t c = first; c < last; ++c)
        if (mask(r, c)) candidates.add(r * weight.cols + c, checked_score(score, r, c, weight(r, c)));
    const std::size_t present = weight.rows * (last - first) - candidates.scores.size();
    candidates.lowest(zeros[b] - present, [&](std::size_t position) { pruned[b].push_back(position); });
  });
  for (const std::vector<std::size_t>& positions : pruned)
    for (std::size_t position : positions) mask.set(position / weight.cols, position % weight.cols, false);
  return mask;
}

/// The given mask itself. Throws RangeError if it keeps what `within` prunes.
inline Mask select_given(std::string_view where, const GivenMask& pattern, const Mask* within) {
  if (within != nullptr && !pattern.mask->subset_of(*within))
    raise<RangeError>(where, ": the given mask keeps weights that `within` prunes");
  return *pattern.mask;
}

}  // namespace detail

/// The mask of `pattern` over weight (out, in) in which the weights with the lowest scores are pruned.
///
/// Unstructured and ExactZeros compare per output row, per layer or per column block and have exactly zeros_of(pattern)
/// zeros (with another rule than ExactCounts: what the rule says); N:M prunes M − N of every group; GivenMask is
/// returned as it is. With `options.within` nothing outside it is kept: a group that has more zeros already than its
/// share keeps them, and the others take fewer, evenly, so that the total stays.
///
/// Throws ShapeError (`within`, N:M that does not divide `in`, score data of another shape), RangeError (sparsity or
/// count out of range, block = 0, `within` with more zeros than wanted), NumericError (a score that is NaN).
template <CountRule Counts = ExactCounts, MaskScore ScoreType>
Mask select(const ScoreType& score, MatrixView<const float> weight, const Pattern& pattern,
            const SelectOptions& options = {}) {
  zeros_of(pattern, weight.rows, weight.cols, "select");
  if (options.within != nullptr && (options.within->rows() != weight.rows || options.within->cols() != weight.cols))
    detail::raise<ShapeError>("select: `within` is ", options.within->rows(), " × ", options.within->cols(),
                              ", the weight ", weight.rows, " × ", weight.cols);
  if constexpr (requires { score.validate(weight.rows, weight.cols); }) score.validate(weight.rows, weight.cols);
  const auto divide = [&](const auto& p) {
    const ZeroBudget budget = budget_of(pattern, weight.rows, weight.cols, "select");
    if (weight.empty()) return Mask(weight.rows, weight.cols);
    if (p.group == Group::row) return detail::select_in_rows<Counts>(score, weight, budget, options);
    const std::size_t block = p.group == Group::layer ? weight.cols : p.block;
    if (block == 0) detail::raise<RangeError>("select: a column block must have at least one column, got 0");
    return detail::select_in_blocks<Counts>(score, weight, budget, block, options);
  };
  return std::visit(
      detail::overloaded{[&](const Unstructured& p) { return divide(p); },
                         [&](const ExactZeros& p) { return divide(p); },
                         [&](const NofM& p) { return detail::select_n_of_m(score, weight, p, options); },
                         [&](const GivenMask& p) { return detail::select_given("select", p, options.within); }},
      pattern);
}

}  // namespace losa::inline v0
