#pragma once
// One linear layer while it is being adapted: the dense master weights (the engine's), the mask, the adapter, and the
// packed sparse weights that forward and backward multiply with.
//
//   y = x·(M⊙(W + σBA))ᵀ        x (tokens, in) → y (tokens, out)          LoSA, Eq. 1
//
// The master stays dense, so that a later mask may bring a pruned weight back; only packed values are multiplied.
// An engine whose model is larger than memory parks the layers of all blocks but one: what is left of a parked layer
// is its adapter, its optimiser state and what it says of itself.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <losa/adapter/concept.hpp>
#include <losa/adapter/lora_factors.hpp>
#include <losa/adapter/optimizer.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/mask.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/pack.hpp>
#include <losa/gemm/packed_matrix.hpp>
#include <losa/gemm/sddmm.hpp>
#include <losa/gemm/spmm.hpp>

namespace losa::inline v0 {

template <Adapter AdapterType>
class AdaptedLinear {
 public:
  std::string name;          // as in the checkpoint
  std::size_t input = 0;     // which of its block's inputs it reads; layers that share one share its statistics
  MatrixView<float> weight;  // (out, in) dense master, owned by the engine
  LoraGradients gradients;   // of the adapter's factors, filled by backward
  Moments moments_a;         // optimiser state of the factors
  Moments moments_bt;
  std::uint64_t optimizer_steps = 0;  // since the moments were empty

  AdaptedLinear(std::string name_, std::size_t input_, MatrixView<float> weight_)
      : name(std::move(name_)), input(input_), weight(weight_) {}

  std::size_t out() const noexcept { return weight.rows; }
  std::size_t in() const noexcept { return weight.cols; }

  /// True once there is a mask; before that the engine multiplies with the dense `weight` itself.
  bool pruned() const noexcept { return pruned_; }
  /// True if the master differs from the checkpoint's weights.
  bool rewritten() const noexcept { return rewritten_; }
  /// Pruned weights. Known of a parked layer too, as are out, in, the adapter and its optimiser state; nothing else is.
  std::size_t zeros() const noexcept { return zeros_; }
  const Mask& mask() const noexcept { return mask_; }
  /// True after restrict_to. Known of a parked layer too, as are the zeros outside of the support, 0 without one.
  bool restricted() const noexcept { return restricted_; }
  std::size_t support_zeros() const noexcept { return support_zeros_; }
  /// What every mask of the layer must stay within; null if anything may be kept.
  const Mask* support() const noexcept { return restricted_ ? &support_ : nullptr; }
  const PackedMatrix<float>& packed() const { return *packed_; }
  bool has_adapter() const noexcept { return adapter_.has_value(); }
  AdapterType& adapter() { return *adapter_; }
  const AdapterType& adapter() const { return *adapter_; }

  /// Rises with every change of master or mask.
  std::uint64_t changes() const noexcept { return changes_; }

  /// For weights that are sparse already: `support` becomes the layer's mask, and no later mask keeps what it prunes.
  /// Throws ShapeError if the shapes differ. Of a parked layer (weight.data is null) nothing is packed yet.
  void restrict_to(Mask support, ExecutorRef executor = {}) {
    detail::expect_shape("AdaptedLinear::restrict_to", "weight", weight, support.rows(), support.cols());
    ++changes_;
    pruned_ = restricted_ = true;
    zeros_ = support_zeros_ = support.zeros();
    support_ = support;
    if (weight.data == nullptr)
      mask_ = std::move(support);
    else
      repack(std::move(support), executor);
  }

  /// Sets the mask and packs the master weights under it. Throws ShapeError if the shapes differ, RangeError if it
  /// keeps what the support prunes.
  void set_mask(Mask mask, ExecutorRef executor = {}) {
    detail::expect_shape("AdaptedLinear::set_mask", "weight", weight, mask.rows(), mask.cols());
    if (restricted_ && !mask.subset_of(support_))
      detail::raise<RangeError>("AdaptedLinear::set_mask: the mask of ", name,
                                " keeps weights that its support prunes");
    ++changes_;
    pruned_ = true;
    zeros_ = mask.zeros();
    repack(std::move(mask), executor);
  }

  /// Mask and support of a layer; empty where there is none.
  struct Masks {
    Mask mask{};
    Mask support{};
  };
  /// Takes everything whose size is that of the weight out of memory, and returns the masks. The caller keeps them, and
  /// what `weight` viewed if it was rewritten.
  Masks park() {
    packed_.reset();
    base_ = std::vector<float>();  // `= {}` would keep the memory
    workspace_ = LoraWorkspace();
    if constexpr (requires { adapter_->park(); })
      if (has_adapter()) adapter_->park();
    weight.data = nullptr;
    return {std::exchange(mask_, Mask{}), std::exchange(support_, Mask{})};
  }
  /// Bytes of what has the size of the weight: masks, packed values and their copy without the adapter. Not what
  /// `weight` views, nor the adapter.
  std::size_t bytes() const noexcept {
    return mask_.bytes() + support_.bytes() + (packed_ ? packed_->bytes() : 0) + base_.capacity() * sizeof(float);
  }
  /// Undoes park(): `values` (out, in) hold the master as it was, `masks` what park() returned.
  void unpark(float* values, Masks masks, ExecutorRef executor = {}) {
    weight.data = values;
    support_ = std::move(masks.support);
    if (pruned_) repack(std::move(masks.mask), executor);
  }
  /// Gives the layer its adapter and fresh optimiser state. Throws ShapeError if it is not out × in.
  void attach(AdapterType adapter) {
    if (adapter.in() != in() || adapter.out() != out())
      detail::raise<ShapeError>("AdaptedLinear::attach: adapter of ", name, " must be ", out(), " × ", in(), ", got ",
                                adapter.out(), " × ", adapter.in());
    adapter_ = std::move(adapter);
    reset_optimizer();
    if (pruned()) rebase();
  }
  void reset_optimizer() {
    moments_a = {};
    moments_bt = {};
    optimizer_steps = 0;
  }
  /// Changes the adapter's rank without changing the function (the master takes what a smaller rank cannot hold).
  void resize(std::size_t rank, std::uint64_t fresh_stream, ExecutorRef executor = {}) {
    if (rank == adapter_->rank()) return;
    if (rank < adapter_->rank()) rewritten_ = true;
    const RankChange change = adapter_->resize(rank, weight, mask_, fresh_stream);
    if (optimizer_steps != 0) change.apply(moments_a, moments_bt);
    gradients = {};
    set_mask(std::move(mask_), executor);
  }

  /// To be called after the adapter's factors have changed: the next product brings the packed values up to date.
  void refresh() noexcept { stale_ = has_adapter(); }

  /// The merged weights M⊙(W + σBA). Needs a mask.
  PackedMatrix<float> merged(ExecutorRef executor = {}) const {
    PackedMatrix<float> result = *packed_;
    if (has_adapter()) adapter_->add_to(result, base_, executor);
    return result;
  }

  /// y (tokens, out) = x (tokens, in) times the adapted weights. Needs a mask.
  void forward(MatrixView<const float> x, MatrixView<float> y, DropoutKey key = {}, ExecutorRef executor = {}) {
    if (!has_adapter()) return spmm(*packed_, x, y, executor);
    catch_up(executor);
    adapter_->forward(*packed_, x, y, key, executor, workspace_);
  }

  /// Adds to `gradients`, writes grad_x (tokens, in); an empty grad_x is not computed. Needs a mask.
  void backward(MatrixView<const float> x, MatrixView<const float> grad_y, MatrixView<float> grad_x,
                DropoutKey key = {}, ExecutorRef executor = {}) {
    backward_dense(grad_y);
    if (measure_ == Measure::weight_gradient) sddmm(grad_y, x, *weight_gradient_, executor, {.accumulate = true});
    if (has_adapter()) {
      catch_up(executor);
      adapter_->backward(*packed_, x, grad_y, gradients, grad_x, key, executor, workspace_);
    } else if (!grad_x.empty()) {
      spmm_transposed(*packed_, grad_y, grad_x, executor);
    }
  }

  /// To be called in the backward pass of a layer that is not pruned yet, which the engine multiplies itself.
  void backward_dense(MatrixView<const float> grad_y) {
    if (measure_ == Measure::output_squares) accumulate_squares(grad_y);
  }

  void zero_gradients() {
    if (!has_adapter()) return;
    gradients.a.assign(adapter_->rank() * in(), 0.0f);
    gradients.bt.assign(adapter_->rank() * out(), 0.0f);
  }

  /// W + σBA at every position, pruned ones too: what a weight would be if it were kept. `effective` is (out, in).
  void effective_weight(MatrixView<float> effective) const {
    std::vector<float> delta(in());
    for (std::size_t r = 0; r < out(); ++r) {
      if (has_adapter()) adapter_->delta_row(r, delta);
      for (std::size_t c = 0; c < in(); ++c) effective(r, c) = weight(r, c) + delta[c];
    }
  }

  /// Adds `change` (out, in) to the master at the kept positions of `mask` where it is not zero.
  void absorb(MatrixView<const float> before, MatrixView<const float> after, const Mask& mask) {
    ++changes_;
    for (std::size_t r = 0; r < out(); ++r)
      mask.for_each_kept(r, [&](std::size_t c) {
        if (before(r, c) == after(r, c)) return;
        weight(r, c) += after(r, c) - before(r, c);
        rewritten_ = true;
      });
  }

  /// What backward sums up beside its gradients, from here on: the squared output gradients per row
  /// (Σ over tokens of (∂ℓ/∂y)²), or the gradient of the kept weights, (GᵀX)⊙M, which needs a mask.
  enum class Measure { nothing, output_squares, weight_gradient };
  void measure(Measure what) {
    measure_ = what;
    if (what == Measure::output_squares) output_squares_.assign(out(), 0.0);
    if (what == Measure::weight_gradient) weight_gradient_ = packed_->like();
    if (what == Measure::nothing) weight_gradient_.reset();
  }
  std::span<const double> output_gradient_squares() const noexcept { return output_squares_; }
  const PackedMatrix<float>& weight_gradient() const { return *weight_gradient_; }

  /// Everything that a resumed run needs. The engine must hold the checkpoint's own weights when state is read.
  template <class Visitor>
  void visit(Visitor& visitor) {
    std::uint64_t rewritten = rewritten_;
    std::uint64_t adapted = has_adapter();
    visitor("rewritten", rewritten);
    visitor("adapted", adapted);
    visitor("optimizer_steps", optimizer_steps);
    visitor("mask", mask_);
    pruned_ = mask_.size() != 0;
    zeros_ = mask_.zeros();
    rewritten_ = rewritten != 0;
    ++changes_;
    if (rewritten_) visitor("weight", weight);
    if (adapted != 0) {
      if (!has_adapter()) adapter_.emplace(out(), in(), LoraOptions{.rank = 0});
      adapter_->visit(visitor);
      visitor("adam_a.m", moments_a.m);
      visitor("adam_a.v", moments_a.v);
      visitor("adam_bt.m", moments_bt.m);
      visitor("adam_bt.v", moments_bt.v);
    }
  }
  /// Packs again after visit has read a state.
  void restore(ExecutorRef executor = {}) {
    if (mask_.size() != 0) set_mask(std::move(mask_), executor);
  }

 private:
  void repack(Mask mask, ExecutorRef executor) {
    packed_ = pack(weight, mask, executor);
    mask_ = std::move(mask);
    workspace_ = {};
    rebase();
  }
  void catch_up(ExecutorRef executor) {
    if (std::exchange(stale_, false)) adapter_->refresh(*packed_, base_, executor);
  }
  void rebase() {
    if (!has_adapter()) return;
    base_.assign(packed_->values().begin(), packed_->values().end());
    refresh();
  }
  void accumulate_squares(MatrixView<const float> grad_y) {
    for (std::size_t t = 0; t < grad_y.rows; ++t)
      for (std::size_t r = 0; r < out(); ++r)
        output_squares_[r] += static_cast<double>(grad_y(t, r)) * static_cast<double>(grad_y(t, r));
  }

  Mask mask_;
  Mask support_;  // empty: anything may be kept
  std::optional<AdapterType> adapter_;
  std::optional<PackedMatrix<float>> packed_;
  std::vector<float> base_;  // master values at the kept positions, in packed order
  LoraWorkspace workspace_;
  Measure measure_ = Measure::nothing;
  std::vector<double> output_squares_;  // (out)
  std::optional<PackedMatrix<float>> weight_gradient_;
  bool pruned_ = false;
  bool restricted_ = false;
  bool stale_ = false;      // the packed values lag behind the adapter
  bool rewritten_ = false;  // the master differs from the checkpoint
  std::size_t zeros_ = 0;
  std::size_t support_zeros_ = 0;
  std::uint64_t changes_ = 0;
};

}  // namespace losa::inline v0
