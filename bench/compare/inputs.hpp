#pragma once
// Numbers to multiply and masks to prune by: the same on every machine.

#include <cstddef>
#include <cstdint>
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

inline losa::Mask random_mask(std::size_t rows, std::size_t cols, double sparsity) {
  losa::Mask mask(rows, cols);
  std::uint64_t i = 0;
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; ++c) mask.set(r, c, losa::Random{.seed = 1}.uniform(i++) >= sparsity);
  return mask;
}

}  // namespace compare
