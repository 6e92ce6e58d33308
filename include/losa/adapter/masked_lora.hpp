#pragma once
// Masked LoRA, the adapter of LoSA (Eq. 1): the low-rank update lives under the mask of the weights.
//
//   Y = X·(M⊙(W + σBA))ᵀ                                   X (tokens, in), Y (tokens, out)
//   Y = X·(M⊙W)ᵀ + drop(X)·(M⊙σBA)ᵀ                        with dropout on the adapter's input
//
// Gradients from G = ∂L/∂Y, with Ĝ = (Gᵀ·drop(X))⊙M sampled at the kept positions only:
//
//   ∂L/∂B = σ·Ĝ·Aᵀ    ∂L/∂A = σ·Bᵀ·Ĝ    ∂L/∂X = G·(M⊙W) + drop′(G·(M⊙σBA))
//
// Merging is exact, since the mask is inside the product: pruned positions get no gradient and no update. A product
// costs as much as with the sparse weights alone; backward three such products, dropout one more each way. Scratch:
// kept + rank·max(in, out) floats, and tokens·in with dropout, in a LoraWorkspace (concept.hpp).
//
//   losa::MaskedLora adapter(out, in, {.rank = 8, .scale = 2.0});
//   adapter.refresh(packed, base, executor);               // W + σBA at the kept positions
//   adapter.forward(packed, x, y, key, executor, workspace);

#include <algorithm>
#include <cstddef>
#include <span>

#include <losa/adapter/concept.hpp>
#include <losa/adapter/lora_factors.hpp>
#include <losa/gemm/sddmm.hpp>
#include <losa/gemm/spmm.hpp>

namespace losa::inline v0 {

class MaskedLora : public LoraFactors {
 public:
  static constexpr bool mergeable = true;

  /// Throws RangeError if the rank is above min(out, in), the scale not finite or dropout outside [0, 1).
  MaskedLora(std::size_t out, std::size_t in, const LoraOptions& options = {})
      : LoraFactors(out, in, options), p_(options.dropout), dropout_(p_, options.seed, options.stream) {}

  double dropout() const noexcept { return p_; }

  /// packed = base + σBA at the kept positions; `base` (kept) in packed order. With dropout it also keeps σBA at those
  /// positions, another `kept` floats. Throws ShapeError on other sizes.
  void refresh(PackedMatrix<float>& packed, std::span<const float> base, ExecutorRef executor = {}) {
    add_to(packed, base, executor);
    if (p_ == 0) return;
    if (delta_.same_structure(packed)) {
      std::fill(delta_.values().begin(), delta_.values().end(), 0.0f);
    } else {
      delta_ = packed.like();
    }
    add_to(delta_, delta_.values(), executor);
  }

  /// Lets go of what refresh keeps besides; refresh brings it back.
  void park() { delta_ = PackedMatrix<float>(); }

  /// y (tokens, out), overwritten, from x (tokens, in). `packed` as refresh left it.
  /// Throws ShapeError on other sizes, also where dropout is asked for and refresh has not seen these weights.
  void forward(const PackedMatrix<float>& packed, MatrixView<const float> x, MatrixView<float> y, DropoutKey key,
               ExecutorRef executor, LoraWorkspace& workspace) const {
    detail::check_product("MaskedLora::forward", *this, packed, x, y, "y");
    spmm(packed, x, y, executor);
    if (!dropping("MaskedLora::forward", packed, key)) return;
    // packed holds W + Δ, so X·(M⊙W)ᵀ + drop(X)·Δᵀ = X·packedᵀ + (drop(X) − X)·Δᵀ.
    const MatrixView<float> change = detail::scratch(workspace.tokens_in, x.rows, x.cols);
    detail::with_dropout(dropout_, key, x, change, executor, [](float d, float from, float) { return (d - 1) * from; });
    spmm(delta_, change, y, executor, {.accumulate = true});
  }

  /// Adds ∂L/∂A and ∂L/∂Bᵀ to `gradients` and writes grad_x (tokens, in) unless that view is empty; x and key as in
  /// forward, grad_y (tokens, out). grad_x must not overlap x or grad_y. Throws ShapeError as forward.
  void backward(const PackedMatrix<float>& packed, MatrixView<const float> x, MatrixView<const float> grad_y,
                LoraGradients& gradients, MatrixView<float> grad_x, DropoutKey key, ExecutorRef executor,
                LoraWorkspace& workspace) const {
    detail::check_product("MaskedLora::backward", *this, packed, x, grad_y, "grad_y");
    detail::prepare_gradients("MaskedLora::backward", gradients, *this);
    const bool drop = dropping("MaskedLora::backward", packed, key);
    if (rank() != 0) {
      MatrixView<const float> input = x;
      if (drop) {
        const MatrixView<float> dropped = detail::scratch(workspace.tokens_in, x.rows, x.cols);
        detail::with_dropout(dropout_, key, x, dropped, executor, [](float d, float from, float) { return d * from; });
        input = dropped;
      }
      PackedMatrix<float>& g = workspace.weight_gradient;
      if (!g.same_structure(packed)) g = packed.like();
      sddmm(grad_y, input, g, executor);
      const auto scale = static_cast<float>(this->scale());
      const MatrixView<float> grad_bt = detail::scratch(workspace.factor, rank(), out());
      spmm(g, a(), grad_bt, executor);  // (Ĝ·Aᵀ)ᵀ
      detail::add_scaled(gradients.bt, grad_bt, scale);
      const MatrixView<float> grad_a = detail::scratch(workspace.factor, rank(), in());
      spmm_transposed(g, bt(), grad_a, executor);  // Bᵀ·Ĝ
      detail::add_scaled(gradients.a, grad_a, scale);
    }
    if (grad_x.empty()) return;
    detail::expect_shape("MaskedLora::backward", "grad_x", grad_x, x.rows, x.cols);
    spmm_transposed(packed, grad_y, grad_x, executor);
    if (!drop) return;
    const MatrixView<float> through = detail::scratch(workspace.tokens_in, x.rows, x.cols);
    spmm_transposed(delta_, grad_y, through, executor);
    detail::with_dropout(dropout_, key, through, grad_x, executor,
                         [](float d, float from, float to) { return to + (d - 1) * from; });
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

  /// As LoraFactors::visit; σBA under the mask is not state: call refresh after reading.
  template <class Visitor>
  void visit(Visitor& visitor) {
    LoraFactors::visit(visitor);
    visitor("dropout", p_);
    dropout_ = Dropout(p_, seed(), stream());
  }

 private:
  bool dropping(const char* where, const PackedMatrix<float>& packed, DropoutKey key) const {
    if (rank() == 0 || !dropout_.active(key)) return false;
    if (!delta_.same_structure(packed))
      detail::raise<ShapeError>(where, ": with dropout, refresh must have seen the packed weights first");
    return true;
  }

  double p_;
  Dropout dropout_;
  PackedMatrix<float> delta_;  // M⊙σBA, with dropout only
};

static_assert(Adapter<MaskedLora>);

}  // namespace losa::inline v0
