#pragma once
// Plain LoRA on sparse weights (Hu et al., ICLR 2022), the control: the update is dense, and only merging masks it.
//
//   Y = X·(M⊙W)ᵀ + σ·(drop(X)·Aᵀ)·Bᵀ                       X (tokens, in), Y (tokens, out)
//
// Gradients from G = ∂L/∂Y, with Z = σ·drop(X)·Aᵀ and H = σ·G·B, both (tokens, rank):
//
//   ∂L/∂B = Gᵀ·Z    ∂L/∂A = Hᵀ·drop(X)    ∂L/∂X = G·(M⊙W) + drop′(H·A)
//
// Merging is not exact: W* = M⊙(W + σBA) drops what the adapter had learned at pruned positions.
// The thin dense products use the sparse kernels with every position kept: as fast, and no more dependent on the number
// of threads. Cost O(tokens·rank·(in + out)) beside the sparse products.
//
//   losa::Lora adapter(out, in, {.rank = 8, .scale = 2.0});
//   adapter.refresh(packed, base, executor);               // packed = base
//   adapter.forward(packed, x, y, key, executor, workspace);

#include <algorithm>
#include <cstddef>
#include <span>

#include <losa/adapter/concept.hpp>
#include <losa/adapter/lora_factors.hpp>
#include <losa/gemm/sddmm.hpp>
#include <losa/gemm/spmm.hpp>

namespace losa::inline v0 {

namespace detail {

/// `packed` with every position kept and the values of `m`.
inline void pack_all(MatrixView<const float> m, PackedMatrix<float>& packed) {
  if (packed.rows() != m.rows || packed.cols() != m.cols || packed.kept() != m.size())
    packed = PackedMatrix<float>(Mask::full(m.rows, m.cols));
  gather_kept(m, packed, {});
}

/// dense, row-major, += packed.
inline void add_packed(const PackedMatrix<float>& packed, std::span<float> dense) {
  for (std::size_t r = 0; r < packed.rows(); ++r)
    packed.for_each_kept(r, [&](std::size_t c, std::size_t k) { dense[r * packed.cols() + c] += packed.values()[k]; });
}

}  // namespace detail

class Lora : public LoraFactors {
 public:
  static constexpr bool mergeable = false;

  /// Throws RangeError if the rank is above min(out, in), the scale not finite or dropout outside [0, 1).
  Lora(std::size_t out, std::size_t in, const LoraOptions& options = {})
      : LoraFactors(out, in, options), p_(options.dropout), dropout_(p_, options.seed, options.stream) {}

  double dropout() const noexcept { return p_; }

  /// packed = base (kept): the update is multiplied apart. Throws ShapeError on other sizes.
  void refresh(PackedMatrix<float>& packed, std::span<const float> base, ExecutorRef = {}) const {
    if (base.size() != packed.kept())
      detail::raise<ShapeError>("Lora::refresh: base must have ", packed.kept(), " values, got ", base.size());
    std::copy(base.begin(), base.end(), packed.values().begin());
  }

  /// y (tokens, out), overwritten, from x (tokens, in). Throws ShapeError on other sizes.
  void forward(const PackedMatrix<float>& packed, MatrixView<const float> x, MatrixView<float> y, DropoutKey key,
               ExecutorRef executor, LoraWorkspace& workspace) const {
    detail::check_product("Lora::forward", *this, packed, x, y, "y");
    spmm(packed, x, y, executor);
    if (rank() == 0) return;
    const MatrixView<const float> input = dropped(x, key, executor, workspace);
    const MatrixView<float> z = detail::scratch(workspace.tokens_rank, x.rows, rank());
    pack_factors(workspace);
    project(workspace.factor_a, input, z, executor);  // σ·drop(X)·Aᵀ
    spmm_transposed(workspace.factor_bt, z, y, executor, {.accumulate = true});
  }

  /// Adds ∂L/∂A and ∂L/∂Bᵀ to `gradients` and writes grad_x (tokens, in) unless that view is empty; x and key as in
  /// forward, grad_y (tokens, out). grad_x must not overlap x or grad_y. Throws ShapeError as forward.
  void backward(const PackedMatrix<float>& packed, MatrixView<const float> x, MatrixView<const float> grad_y,
                LoraGradients& gradients, MatrixView<float> grad_x, DropoutKey key, ExecutorRef executor,
                LoraWorkspace& workspace) const {
    detail::check_product("Lora::backward", *this, packed, x, grad_y, "grad_y");
    detail::prepare_gradients("Lora::backward", gradients, *this);
    if (!grad_x.empty()) {
      detail::expect_shape("Lora::backward", "grad_x", grad_x, x.rows, x.cols);
      spmm_transposed(packed, grad_y, grad_x, executor);
    }
    if (rank() == 0) return;
    const MatrixView<const float> input = dropped(x, key, executor, workspace);
    const MatrixView<float> z = detail::scratch(workspace.tokens_rank, x.rows, rank());
    const MatrixView<float> h = detail::scratch(workspace.tokens_rank2, x.rows, rank());
    pack_factors(workspace);
    project(workspace.factor_a, input, z, executor);    // Z = σ·drop(X)·Aᵀ
    project(workspace.factor_bt, grad_y, h, executor);  // H = σ·G·B
    if (!grad_x.empty() && !dropout_.active(key))
      spmm_transposed(workspace.factor_a, h, grad_x, executor, {.accumulate = true});
    PackedMatrix<float>& product = workspace.factor_bt;
    sddmm(z, grad_y, product, executor);  // Zᵀ·G
    detail::add_packed(product, gradients.bt);
    // drop(X) is needed until the gradient of A is there, A until that of X: with dropout A is packed once more.
    sddmm(h, input, workspace.factor_a, executor);  // Hᵀ·drop(X)
    detail::add_packed(workspace.factor_a, gradients.a);
    if (grad_x.empty() || !dropout_.active(key)) return;
    detail::pack_all(a(), workspace.factor_a);
    const MatrixView<float> through = detail::scratch(workspace.tokens_in, x.rows, x.cols);
    spmm_transposed(workspace.factor_a, h, through, executor);
    detail::with_dropout(dropout_, key, through, grad_x, executor,
                         [](float d, float from, float to) { return to + d * from; });
  }

  /// As above with scratch of the call's own.
  void forward(const PackedMatrix<float>& packed, MatrixView<const float> x, MatrixView<float> y, DropoutKey key = {},
               ExecutorRef executor = {}) const {
    LoraWorkspace workspace;
    forward(packed, x, y, key, executor, workspace);
  }
  void backward(const PackedMatrix<float>& packed, MatrixView<const float> x, MatrixView<const float> grad_y,
                LoraGradients& gradients, MatrixView<float> grad_x = {}, DropoutKey key = {},
                ExecutorRef executor = {}) const {
    LoraWorkspace workspace;
    backward(packed, x, grad_y, gradients, grad_x, key, executor, workspace);
  }

  /// As LoraFactors::visit.
  template <class Visitor>
  void visit(Visitor& visitor) {
    LoraFactors::visit(visitor);
    visitor("dropout", p_);
    dropout_ = Dropout(p_, seed(), stream());
  }

 private:
  MatrixView<const float> dropped(MatrixView<const float> x, DropoutKey key, ExecutorRef executor,
                                  LoraWorkspace& workspace) const {
    if (!dropout_.active(key)) return x;
    const MatrixView<float> result = detail::scratch(workspace.tokens_in, x.rows, x.cols);
    detail::with_dropout(dropout_, key, x, result, executor, [](float d, float from, float) { return d * from; });
    return result;
  }

  void pack_factors(LoraWorkspace& workspace) const {
    detail::pack_all(a(), workspace.factor_a);
    detail::pack_all(bt(), workspace.factor_bt);
  }
  /// result (tokens, rank) = σ·x·factorᵀ
  void project(const PackedMatrix<float>& factor, MatrixView<const float> x, MatrixView<float> result,
               ExecutorRef executor) const {
    spmm(factor, x, result, executor);
    const auto scale = static_cast<float>(this->scale());
    for (std::size_t t = 0; t < result.rows; ++t)
      for (float& value : result.row(t)) value *= scale;
  }

  double p_;
  Dropout dropout_;
};

static_assert(Adapter<Lora>);

}  // namespace losa::inline v0
