#pragma once
// Plain LoRA on sparse weights (Hu et al., ICLR 2022), the control: the update is dense, and only merging masks it.
//
//   Y = X·(M⊙W)ᵀ + σ·(drop(X)·Aᵀ)·Bᵀ                       X (tokens, in), Y (tokens, out)
//
// Gradients from G = ∂L/∂Y, with Z = drop(X)·Aᵀ and H = σ·G·B, both (tokens, rank):
//
//   ∂L/∂B = σ·Gᵀ·Z    ∂L/∂A = Hᵀ·drop(X)    ∂L/∂X = G·(M⊙W) + drop′(H·A)
//
// Merging is not exact: W* = M⊙(W + σBA) drops what the adapter had learned at pruned positions.
// The thin dense products run on tiles of fixed size, each single-threaded, so that results do not depend on the number
// of threads; cost O(tokens·rank·(in + out)) beside the sparse products.
//
//   losa::Lora adapter(out, in, {.rank = 8, .scale = 2.0});
//   adapter.refresh(packed, base, executor);               // packed = base
//   adapter.forward(packed, x, y, key, executor, workspace);

#include <algorithm>
#include <cstddef>
#include <span>
#include <type_traits>
#include <vector>

#include <Eigen/Core>

#include <losa/adapter/concept.hpp>

namespace losa::inline v0 {

namespace detail {

template <class T>
using EigenView = Eigen::Map<
    std::conditional_t<std::is_const_v<T>, const Eigen::Matrix<std::remove_const_t<T>, -1, -1, Eigen::RowMajor>,
                       Eigen::Matrix<T, -1, -1, Eigen::RowMajor>>,
    Eigen::Unaligned, Eigen::OuterStride<>>;

template <class T>
EigenView<T> as_eigen(MatrixView<T> m) {
  return {m.data, static_cast<Eigen::Index>(m.rows), static_cast<Eigen::Index>(m.cols),
          Eigen::OuterStride<>(static_cast<Eigen::Index>(m.stride))};
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
    const auto scale = static_cast<float>(this->scale());
    detail::for_tiles(x.rows, detail::token_tile, executor, [&](std::size_t t, std::size_t count) {
      auto z_tile = detail::as_eigen(z.block(t, 0, count, rank()));  // (tile, rank)
      z_tile.noalias() = detail::as_eigen(input.block(t, 0, count, in())) * detail::as_eigen(a()).transpose();
      detail::as_eigen(y.block(t, 0, count, out())).noalias() += scale * (z_tile * detail::as_eigen(bt()));
    });
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
    const auto scale = static_cast<float>(this->scale());
    detail::for_tiles(x.rows, detail::token_tile, executor, [&](std::size_t t, std::size_t count) {
      detail::as_eigen(z.block(t, 0, count, rank())).noalias() =
          scale * (detail::as_eigen(input.block(t, 0, count, in())) * detail::as_eigen(a()).transpose());
      detail::as_eigen(h.block(t, 0, count, rank())).noalias() =
          scale * (detail::as_eigen(grad_y.block(t, 0, count, out())) * detail::as_eigen(bt()).transpose());
    });
    // Both sums run over all tokens: the tasks split the columns, each sums in one order.
    const MatrixView<float> grad_a{gradients.a.data(), rank(), in()};
    const MatrixView<float> grad_bt{gradients.bt.data(), rank(), out()};
    add_outer(z, grad_y, grad_bt, executor);
    add_outer(h, input, grad_a, executor);
    if (grad_x.empty()) return;
    detail::for_tiles(x.rows, detail::token_tile, executor, [&](std::size_t t, std::size_t count) {
      Eigen::Matrix<float, -1, -1, Eigen::RowMajor> through =
          detail::as_eigen(MatrixView<const float>(h.block(t, 0, count, rank()))) * detail::as_eigen(a());
      if (dropout_.active(key)) {
        std::vector<float> d(in());
        for (std::size_t i = 0; i < count; ++i) {
          dropout_.multipliers(key, t + i, d);
          float* row = through.data() + i * in();
          for (std::size_t c = 0; c < d.size(); ++c) row[c] *= d[c];
        }
      }
      detail::as_eigen(grad_x.block(t, 0, count, in())) += through;
    });
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
  template <class V>
  void visit(V& visitor) {
    LoraFactors::visit(visitor);
    visitor("dropout", p_);
    dropout_ = Dropout(p_, seed(), stream());
  }

 private:
  static constexpr std::size_t column_tile = 128;

  MatrixView<const float> dropped(MatrixView<const float> x, DropoutKey key, ExecutorRef executor,
                                  LoraWorkspace& workspace) const {
    if (!dropout_.active(key)) return x;
    const MatrixView<float> result = detail::scratch(workspace.tokens_in, x.rows, x.cols);
    detail::with_dropout(dropout_, key, x, result, executor, [](float d, float from, float) { return d * from; });
    return result;
  }

  /// sum (rank, width) += leftᵀ·right, left (tokens, rank), right (tokens, width)
  static void add_outer(MatrixView<const float> left, MatrixView<const float> right, MatrixView<float> sum,
                        ExecutorRef executor) {
    detail::for_tiles(right.cols, column_tile, executor, [&](std::size_t c, std::size_t count) {
      detail::as_eigen(sum.block(0, c, sum.rows, count)).noalias() +=
          detail::as_eigen(left).transpose() * detail::as_eigen(right.block(0, c, right.rows, count));
    });
  }

  double p_;
  Dropout dropout_;
};

static_assert(Adapter<Lora>);

}  // namespace losa::inline v0
