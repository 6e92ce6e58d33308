#pragma once
// The reference target: the products written down as their formulas, every sum in double and in order of rising index,
// rounded to float once at the end. The oracle for every other target, and what runs where nothing else does.

#include <cstddef>

#include <losa/core/view.hpp>
#include <losa/gemm/operation.hpp>

namespace losa::inline v0::detail::reference {

struct Target {
  using Parent = void;
  static constexpr const char* name = "reference";
  static bool supported() noexcept { return true; }
};

/// sums (tokens) += value · x[:, c].
inline void add(MatrixView<const float> x, std::size_t c, double value, double* sums) noexcept {
  for (std::size_t token = 0; token < x.rows; ++token) sums[token] += value * static_cast<double>(x(token, c));
}

/// y[t, first + i] ← [y +] sums (row, token) [+ bias] for the rows of a block.
inline void store(const double* sums, std::size_t first, std::size_t rows, const Multiply& to) noexcept {
  const std::size_t tokens = to.x.rows;
  for (std::size_t i = 0; i < rows; ++i)
    for (std::size_t token = 0; token < tokens; ++token) {
      double sum = sums[i * tokens + token];
      if (!to.bias.empty()) sum += static_cast<double>(to.bias[first + i]);
      if (to.accumulate) sum += static_cast<double>(to.y(token, first + i));
      to.y(token, first + i) = static_cast<float>(sum);
    }
}

}  // namespace losa::inline v0::detail::reference
