#pragma once
// How a number of zeros is divided among what competes separately: output rows, or blocks of columns. A rule is a type,
// given to select, ScorePolicy and BasicSparseGpt as a template argument; ExactCounts is the default and meets the
// total to the weight.
//
//   struct MyCounts {                                             // models CountRule
//     static std::vector<std::size_t> row_zeros(const losa::ZeroBudget&, std::size_t rows, std::size_t cols);
//     static std::vector<std::size_t> block_zeros(const losa::ZeroBudget&, std::size_t rows, std::size_t cols,
//                                                 std::size_t block);
//   };
//   losa::Mask mask = losa::select<MyCounts>(score, weight, losa::Unstructured{0.5});

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <string_view>
#include <variant>
#include <vector>

#include <losa/core/apportion.hpp>
#include <losa/core/error.hpp>
#include <losa/core/mask.hpp>
#include <losa/core/pattern.hpp>

namespace losa::inline v0 {

/// One wish in both forms: a whole number of zeros, and the fraction of the matrix that it is.
struct ZeroBudget {
  std::size_t zeros = 0;
  double sparsity = 0;
};

/// Divides a budget: zeros of every row, and zeros of every block of `block` neighbouring columns (all rows; the last
/// block may be narrower). The sum of what it returns is what the mask will have.
template <class RuleType>
concept CountRule = requires(const ZeroBudget& budget, std::size_t rows, std::size_t cols, std::size_t block) {
  { RuleType::row_zeros(budget, rows, cols) } -> std::same_as<std::vector<std::size_t>>;
  { RuleType::block_zeros(budget, rows, cols, block) } -> std::same_as<std::vector<std::size_t>>;
};

/// Totals to the weight: row r gets ⌊(r+1)Z/rows⌋ − ⌊rZ/rows⌋; blocks get shares of Z by their width, by largest
/// remainder.
struct ExactCounts {
  static std::vector<std::size_t> row_zeros(const ZeroBudget& budget, std::size_t rows, std::size_t /*cols*/) {
    std::vector<std::size_t> zeros(rows);
    for (std::size_t r = 0; r < rows; ++r) zeros[r] = zeros_in_row(budget.zeros, rows, r);
    return zeros;
  }
  static std::vector<std::size_t> block_zeros(const ZeroBudget& budget, std::size_t rows, std::size_t cols,
                                              std::size_t block) {
    std::vector<double> wanted;
    std::vector<std::size_t> upper;
    for (std::size_t c = 0; c < cols; c += block) {
      const std::size_t width = std::min(block, cols - c);
      wanted.push_back(static_cast<double>(budget.zeros) * static_cast<double>(width) / static_cast<double>(cols));
      upper.push_back(rows * width);
    }
    return apportion(wanted, budget.zeros, std::vector<std::size_t>(upper.size()), upper);
  }
};

/// The budget of an unstructured pattern for a rows × cols matrix. Throws RangeError as zeros_of does, and if the
/// pattern is not a number of zeros (N:M, a given mask).
inline ZeroBudget budget_of(const Pattern& pattern, std::size_t rows, std::size_t cols,
                            std::string_view where = "mask") {
  const std::size_t zeros = zeros_of(pattern, rows, cols, where);
  if (const auto* fraction = std::get_if<Unstructured>(&pattern)) return {zeros, fraction->sparsity};
  if (!std::holds_alternative<ExactZeros>(pattern))
    detail::raise<RangeError>(where, ": an N:M pattern or a given mask has no budget to divide");
  const std::size_t size = rows * cols;
  return {zeros, size == 0 ? 0.0 : static_cast<double>(zeros) / static_cast<double>(size)};
}

namespace detail {

/// `counts`, none of them below the zeros that are there already (`lower`): what those exceed is taken evenly from the
/// others, so that the sum stays. Throws RangeError if there are more zeros already than the counts allow in all.
inline std::vector<std::size_t> fit_counts(std::string_view where, const std::vector<std::size_t>& counts,
                                           const std::vector<std::size_t>& lower,
                                           const std::vector<std::size_t>& upper) {
  std::size_t total = 0;
  std::size_t present = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    total += counts[i];
    present += lower[i];
  }
  if (present > total)
    raise<RangeError>(where, ": `within` has ", present, " zeros already, more than the ", total, " wanted");
  const std::vector<double> wanted(counts.begin(), counts.end());
  return apportion(wanted, total, lower, upper);
}

}  // namespace detail
}  // namespace losa::inline v0
