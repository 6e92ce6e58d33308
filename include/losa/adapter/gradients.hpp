#pragma once
// What the backward pass of an adapter adds to.

#include <algorithm>
#include <vector>

namespace losa::inline v0 {

/// Gradients of an adapter's factors, in their layout. Empty ones count as zeros of the right size.
struct LoraGradients {
  std::vector<float> a;   // (rank, in)
  std::vector<float> bt;  // (rank, out)

  void zero() noexcept {
    std::fill(a.begin(), a.end(), 0.0f);
    std::fill(bt.begin(), bt.end(), 0.0f);
  }
};

}  // namespace losa::inline v0
