#pragma once
// Exact counts. Sparsity is a number, zeros are integers: what follows turns one into the other so that totals come
// out to the weight.
//
//   std::size_t zeros = losa::zeros_target(out * in, 0.7);            // round(0.7 · out · in)
//   auto per_matrix = losa::apportion(wanted, total, lower, upper);   // sums to total exactly

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <span>
#include <vector>

#include <losa/core/error.hpp>

namespace losa::inline v0 {

/// round(sparsity · size), half away from zero. Throws RangeError unless sparsity is in [0, 1).
inline std::size_t zeros_target(std::size_t size, double sparsity) {
  if (!(sparsity >= 0.0 && sparsity < 1.0)) detail::raise<RangeError>("sparsity must be in [0, 1), got ", sparsity);
  return static_cast<std::size_t>(std::llround(sparsity * static_cast<double>(size)));
}

/// size − zeros_target(size, sparsity).
inline std::size_t kept_target(std::size_t size, double sparsity) { return size - zeros_target(size, sparsity); }

/// Zeros of row r when `zeros` are spread over `rows` as evenly as integers allow: ⌊(r+1)Z/rows⌋ − ⌊rZ/rows⌋.
constexpr std::size_t zeros_in_row(std::size_t zeros, std::size_t rows, std::size_t r) noexcept {
  // Z = q·rows + p, so ⌊(r+1)Z/rows⌋ − ⌊rZ/rows⌋ = q + ⌊(r+1)p/rows⌋ − ⌊rp/rows⌋, which cannot overflow.
  const std::size_t p = zeros % rows;
  return zeros / rows + (r + 1) * p / rows - r * p / rows;
}

/// Integers as close to `wanted` as possible that sum to `total` exactly, each within [lower, upper]: floors first,
/// then one more to the largest remainders, of equal remainders to the lower index; what the bounds cut off goes to
/// the others in proportion. `wanted` need not sum to `total`: it is shifted by the bounds alone.
/// Throws ShapeError on unequal lengths, RangeError if wanted is not finite or Σlower ≤ total ≤ Σupper fails.
/// Cost O(n log n) per round, at most n rounds.
inline std::vector<std::size_t> apportion(std::span<const double> wanted, std::size_t total,
                                          std::span<const std::size_t> lower, std::span<const std::size_t> upper) {
  const std::size_t n = wanted.size();
  if (lower.size() != n || upper.size() != n)
    detail::raise<ShapeError>("apportion: ", n, " shares need ", n, " bounds, got ", lower.size(), " lower and ",
                              upper.size(), " upper");
  std::size_t least = 0;
  std::size_t most = 0;
  for (std::size_t i = 0; i < n; ++i) {
    if (lower[i] > upper[i])
      detail::raise<RangeError>("apportion: bounds of share ", i, " run backwards: [", lower[i], ", ", upper[i], "]");
    if (!std::isfinite(wanted[i])) detail::raise<RangeError>("apportion: share ", i, " is not finite");
    least += lower[i];
    most += upper[i];
  }
  if (total < least || total > most)
    detail::raise<RangeError>("apportion: total ", total, " is outside [", least, ", ", most,
                              "], the sums of the lower and upper bounds");

  std::vector<std::size_t> count(n);
  std::vector<double> remainder(n);
  std::size_t sum = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const double floor = std::floor(std::max(wanted[i], 0.0));
    remainder[i] = std::max(wanted[i], 0.0) - floor;
    const bool above = floor >= static_cast<double>(upper[i]);
    count[i] = above ? upper[i] : std::max(lower[i], static_cast<std::size_t>(floor));
    sum += count[i];
  }
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  const bool adding = sum < total;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return adding ? remainder[a] > remainder[b] : remainder[a] < remainder[b];
  });
  while (sum != total) {
    // One round gives (or takes) one unit each in order of remainder; when many units are missing, a round first moves
    // an equal share of them, so that the number of rounds does not depend on the size of the matrices.
    std::size_t open = 0;
    for (std::size_t i : order) open += adding ? count[i] < upper[i] : count[i] > lower[i];
    const std::size_t missing = adding ? total - sum : sum - total;
    const std::size_t share = std::max<std::size_t>(1, missing / open);
    for (std::size_t i : order) {
      const std::size_t left = adding ? total - sum : sum - total;
      if (left == 0) break;
      const std::size_t room = adding ? upper[i] - count[i] : count[i] - lower[i];
      const std::size_t moved = std::min({share, room, left});
      count[i] = adding ? count[i] + moved : count[i] - moved;
      sum = adding ? sum + moved : sum - moved;
    }
  }
  return count;
}

}  // namespace losa::inline v0
