#pragma once
// Merging an adapter into the weights: W* = M⊙(W + σBA) (LoSA, Eq. 1). Pruned positions become +0 whatever the adapter
// says, so the support never grows; kept positions get the very bits that refresh writes for the masked adapter.
//
// Adding and later subtracting does not restore weights: (W + Δ) − Δ ≠ W when |W| is below half a unit in the last
// place of Δ, and a weight that comes out as 0 is lost where the mask is inferred from W ≠ 0. Here the mask is given
// and the weights before the merge are kept, so that they come back bit for bit.
//
//   losa::merge(adapter, weight, mask);                      // for good
//   losa::Merge merged(adapter, weight, mask);               // for a while …
//   merged.undo();                                           // … and back

#include <algorithm>
#include <cstddef>
#include <vector>

#include <losa/adapter/concept.hpp>
#include <losa/gemm/pack.hpp>

namespace losa::inline v0 {

/// weight (out, in) ← M⊙(weight + ΔW), +0 where pruned; a mergeable adapter's model stays the same function.
/// Throws ShapeError if weight, mask and adapter differ in shape. Cost O(kept·rank), memory 2·kept floats.
template <Adapter AdapterType>
void merge(const AdapterType& adapter, MatrixView<float> weight, const Mask& mask, ExecutorRef executor = {}) {
  detail::expect_shape("merge", "weight", weight, adapter.out(), adapter.in());
  if (mask.rows() != weight.rows || mask.cols() != weight.cols)
    detail::raise<ShapeError>("merge: mask must be ", weight.rows, " × ", weight.cols, ", got ", mask.rows(), " × ",
                              mask.cols());
  PackedMatrix<float> packed = pack(weight, mask, executor);
  const std::vector<float> base(packed.values().begin(), packed.values().end());
  adapter.add_to(packed, base, executor);
  packed.to_dense(weight);
}

/// A merge that can be taken back. The weights must outlive it; several on the same weights are undone in reverse
/// order.
class Merge {
 public:
  /// Merges as merge() does, after saving `weight` (out·in floats).
  template <Adapter AdapterType>
  Merge(const AdapterType& adapter, MatrixView<float> weight, const Mask& mask, ExecutorRef executor = {})
      : weight_(weight), saved_(weight.size()) {
    for (std::size_t r = 0; r < weight.rows; ++r)
      std::copy_n(weight.row(r).data(), weight.cols, saved_.data() + r * weight.cols);
    merge(adapter, weight, mask, executor);
  }
  Merge(Merge&&) = default;
  Merge& operator=(Merge&&) = default;
  Merge(const Merge&) = delete;
  Merge& operator=(const Merge&) = delete;

  /// The weights as they were, bit for bit, pruned positions included. A second call does nothing.
  void undo() {
    if (saved_.empty()) return;
    for (std::size_t r = 0; r < weight_.rows; ++r)
      std::copy_n(saved_.data() + r * weight_.cols, weight_.cols, weight_.row(r).data());
    saved_ = std::vector<float>();  // `= {}` would keep the memory
  }

 private:
  MatrixView<float> weight_;
  std::vector<float> saved_;
};

}  // namespace losa::inline v0
