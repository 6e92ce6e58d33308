#pragma once
// Exact counts. Sparsity is a number, zeros are integers: what follows turns one into the other so that totals come
// out to the weight.
//
//   std::size_t zeros = losa::zeros_target(out * in, 0.7);            // round(0.7 · out · in)
//   auto per_matrix = losa::apportion(wanted, total, lower, upper);   // sums to total exactly

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/core/finite.hpp>

namespace losa::inline v0 {

/// round(sparsity · size), half away from zero. Throws RangeError unless sparsity is in [0, 1).
inline std::size_t zeros_target(std::size_t size, const double& sparsity) {
  if (!(detail::is_finite(sparsity) && sparsity >= 0.0 && sparsity < 1.0))
    detail::raise<RangeError>("zeros_target: sparsity must be in [0, 1), got ", sparsity);
  return static_cast<std::size_t>(std::llround(sparsity * static_cast<double>(size)));
}

/// size − zeros_target(size, sparsity).
inline std::size_t kept_target(std::size_t size, const double& sparsity) { return size - zeros_target(size, sparsity); }

/// Zeros of row r when `zeros` are spread over `rows` as evenly as integers allow: ⌊(r+1)Z/rows⌋ − ⌊rZ/rows⌋.
constexpr std::size_t zeros_in_row(std::size_t zeros, std::size_t rows, std::size_t r) noexcept {
  // Z = q·rows + p, so ⌊(r+1)Z/rows⌋ − ⌊rZ/rows⌋ = q + ⌊(r+1)p/rows⌋ − ⌊rp/rows⌋, which cannot overflow.
  const std::size_t p = zeros % rows;
  return zeros / rows + (r + 1) * p / rows - r * p / rows;
}

/// The integers closest to `wanted` (least Σ(count − wanted)²) that sum to `total` exactly, each within [lower, upper].
/// Where `wanted` sums to `total` and no bound binds this is the largest remainder method: floors, then one more to the
/// largest remainders. What bounds cut off, or what `wanted` lacks, is spread evenly over the others. Of equal
/// remainders the lower index is served first. Throws ShapeError on unequal lengths, RangeError if wanted is not finite
/// or Σlower ≤ total ≤ Σupper fails. Cost O(n log n).
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
    if (!detail::is_finite(wanted[i])) detail::raise<RangeError>("apportion: share ", i, " is not finite");
    least += lower[i];
    most += upper[i];
  }
  if (total < least || total > most)
    detail::raise<RangeError>("apportion: total ", total, " is outside [", least, ", ", most,
                              "], the sums of the lower and upper bounds");

  // Counts as a function of a common shift of all shares; it grows with the shift.
  std::vector<std::size_t> count(n);
  const auto fill = [&](double shift) {
    std::size_t sum = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const double floor = std::floor(wanted[i] + shift);
      count[i] = floor <= static_cast<double>(lower[i])   ? lower[i]
                 : floor >= static_cast<double>(upper[i]) ? upper[i]
                                                          : static_cast<std::size_t>(floor);
      sum += count[i];
    }
    return sum;
  };
  // The largest shift that does not exceed the total leaves fewer units to hand out than there are shares.
  std::size_t sum = fill(0.0);
  if (sum > total || total - sum > n) {
    double low = 0;
    double high = 0;
    for (std::size_t i = 0; i < n; ++i) {
      low = std::min(low, static_cast<double>(lower[i]) - wanted[i]);
      high = std::max(high, static_cast<double>(upper[i]) + 1.0 - wanted[i]);
    }
    for (int halving = 0; halving < 100; ++halving) {
      const double middle = low + (high - low) / 2;
      (fill(middle) <= total ? low : high) = middle;
    }
    sum = fill(low);
  }
  // One unit after another to the share that lacks most.
  const auto lacks_less = [&](std::size_t a, std::size_t b) {
    const double lack_a = wanted[a] - static_cast<double>(count[a]);
    const double lack_b = wanted[b] - static_cast<double>(count[b]);
    return lack_a < lack_b || (lack_a == lack_b && a > b);
  };
  std::vector<std::size_t> heap;
  for (std::size_t i = 0; i < n; ++i)
    if (count[i] < upper[i]) heap.push_back(i);
  std::make_heap(heap.begin(), heap.end(), lacks_less);
  for (; sum < total; ++sum) {
    std::pop_heap(heap.begin(), heap.end(), lacks_less);
    const std::size_t i = heap.back();
    if (++count[i] < upper[i]) {
      std::push_heap(heap.begin(), heap.end(), lacks_less);
    } else {
      heap.pop_back();
    }
  }
  return count;
}

}  // namespace losa::inline v0
