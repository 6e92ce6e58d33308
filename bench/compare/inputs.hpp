#pragma once
// Numbers to multiply and masks to prune by: the same on every machine.

#include <compare>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <losa/core/mask.hpp>
#include <losa/core/random.hpp>

namespace compare {

/// Uniform in [-1, 1): a linear congruence started by the stream.
inline std::vector<float> numbers(std::size_t n, std::uint32_t stream) {
  std::vector<float> v(n);
  std::uint32_t state = stream * 2654435761u + 12345u;
  for (float& x : v) {
    state = state * 1664525u + 1013904223u;
    x = static_cast<float>(state >> 8) * 0x1p-23f - 1.0f;
  }
  return v;
}

/// Which weights are pruned: each with the same probability, or all but n of every m consecutive columns.
struct Pruning {
  double sparsity = 0;
  unsigned n = 0;
  unsigned m = 0;  // 0: anywhere

  std::string pattern() const { return m == 0 ? "" : std::to_string(n) + ":" + std::to_string(m); }
  auto operator<=>(const Pruning&) const = default;
};

inline losa::Mask random_mask(std::size_t rows, std::size_t cols, const Pruning& pruning) {
  const losa::Random random{.seed = 1};
  losa::Mask mask(rows, cols);
  std::uint64_t i = 0;
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; ++c, ++i) {
      if (pruning.m == 0) {
        mask.set(r, c, random.uniform(i) >= pruning.sparsity);
        continue;
      }
      // Of what is left of the group, each column is as likely to be among the kept ones that are left.
      unsigned kept = 0;
      for (std::size_t before = c - c % pruning.m; before < c; ++before) kept += mask(r, before);
      const double left = pruning.m - static_cast<unsigned>(c % pruning.m);
      mask.set(r, c, random.uniform(i) * left < pruning.n - kept);
    }
  return mask;
}

}  // namespace compare
