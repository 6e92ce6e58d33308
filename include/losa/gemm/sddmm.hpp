#pragma once
// Products of which only the kept positions are wanted:
//
//   sddmm            values = (gᵀ · x) at the mask            (gradient with respect to the weights)
//   refresh_values   values = base + scale · (B·A) at the mask      (W + σBA of masked LoRA, without repacking)
//
// 2·kept·tokens and 2·kept·rank flops; pruned positions cost nothing. B is held transposed, (rank, out), so that the
// adapter's gradients are the products of spmm.hpp with rank in place of tokens:
//
//   losa::PackedMatrix<float> g_hat = packed.like();
//   losa::sddmm(grad_y, x, g_hat, pool);                     // Ĝ = M ⊙ (Gᵀ·X)
//   losa::spmm(g_hat, a, grad_bt, pool);                     // dBᵀ = A·Ĝᵀ        (rank, out)
//   losa::spmm_transposed(g_hat, bt, grad_a, pool);          // dA  = Bᵀ·Ĝ        (rank, in)

#include <algorithm>
#include <cstddef>
#include <span>

#include <losa/core/error.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/backend.hpp>
#include <losa/gemm/pack.hpp>
#include <losa/gemm/packed_matrix.hpp>
#include <losa/gemm/plan.hpp>
#include <losa/gemm/run_plan.hpp>
#include <losa/gemm/spmm.hpp>

namespace losa::inline v0 {

/// result = (gᵀ · x) at the kept positions of result, from g (tokens, out) and x (tokens, in).
/// Throws ShapeError, before anything is written, if the shapes do not fit.
inline void sddmm(MatrixView<const float> g, MatrixView<const float> x, PackedMatrix<float>& result,
                  ExecutorRef executor = {}, const ProductOptions& options = {}) {
  detail::expect_columns("sddmm", "g", g, result.rows());
  detail::expect_columns("sddmm", "x", x, result.cols());
  detail::expect_tokens("sddmm", "g", g, "x", x);
  const Plan<Sample> made(result, g.rows, detail::plan_options(executor, options.backend));
  const std::span<float> values = result.values();
  const std::span<const float> base = options.accumulate ? values : std::span<float>{};
  const Sample arguments{.g = g, .x = x, .values = values, .base = base};
  made.expect(arguments, "sddmm");
  detail::run_plan(made, arguments, executor);
}

/// Values of `packed` (out, in) ← base + scale · (B·A) at its kept positions, from bt = Bᵀ (rank, out), a (rank, in)
/// and the base values in packed order; they may be packed's own. Which arithmetic is done depends on the backend and
/// on the rank alone, so the same arguments give the same bits. Throws ShapeError if the shapes do not fit.
inline void refresh_values(PackedMatrix<float>& packed, std::span<const float> base_values, MatrixView<const float> bt,
                           MatrixView<const float> a, float scale, ExecutorRef executor = {},
                           const Backend* backend = nullptr) {
  if (base_values.size() != packed.kept())
    detail::raise<ShapeError>("refresh_values: base_values must have ", packed.kept(), " elements, got ",
                              base_values.size());
  detail::expect_columns("refresh_values", "bt", bt, packed.rows());
  detail::expect_columns("refresh_values", "a", a, packed.cols());
  if (bt.rows != a.rows) detail::raise<ShapeError>("refresh_values: bt has rank ", bt.rows, ", a has rank ", a.rows);
  const Plan<Sample> made(packed, bt.rows, detail::plan_options(executor, backend));
  detail::run_plan(made, {.g = bt, .x = a, .values = packed.values(), .base = base_values, .scale = scale}, executor);
}

/// The same with the base in a dense matrix `weight` (out, in), of which only the kept positions are used.
inline void refresh_values(PackedMatrix<float>& packed, MatrixView<const float> weight, MatrixView<const float> bt,
                           MatrixView<const float> a, float scale, ExecutorRef executor = {},
                           const Backend* backend = nullptr) {
  detail::expect_shape("refresh_values", "weight", weight, packed.rows(), packed.cols());
  detail::expect_columns("refresh_values", "bt", bt, packed.rows());
  detail::expect_columns("refresh_values", "a", a, packed.cols());
  if (bt.rows != a.rows) detail::raise<ShapeError>("refresh_values: bt has rank ", bt.rows, ", a has rank ", a.rows);
  detail::gather_kept(weight, packed, executor);
  refresh_values(packed, packed.values(), bt, a, scale, executor, backend);
}

}  // namespace losa::inline v0
