#pragma once
// Products of activations with packed weights W (out, in) = M ⊙ W:
//
//   spmm              y (tokens, out) = x (tokens, in) · Wᵀ + bias
//   spmm_transposed  dx (tokens, in)  = g (tokens, out) · W            (gradient with respect to x)
//
// Only kept weights are multiplied: 2·kept·tokens flops. Sums are float (double in the reference backend), in an order
// that does not depend on the number of threads; it does depend on the backend and on the number of tokens, so one
// token alone and the same token in a batch may differ in the last bits, and with 16-, 8- and 4-bit weights by what
// rounding activations to bf16 or integers costs where a backend does that (docs/kernels/README.md).
// NaN and Inf in x[t, c] reach y[t, r] wherever (r, c) is kept; where it is pruned they may or may not.
// Weights are expected to be finite: one that is not may spoil the outputs of its neighbours in packed order.
// Scratch for a transposed copy of x, g and y belongs to the calling threads and is kept by them (see scratch.hpp).
//
//   losa::spmm(packed, losa::view(x, tokens, in), losa::view(y, tokens, out), pool, {.bias = b});

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <span>
#include <string_view>

#include <losa/core/error.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/types.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/backend.hpp>
#include <losa/gemm/list_matrix.hpp>
#include <losa/gemm/packed_matrix.hpp>
#include <losa/gemm/plan.hpp>
#include <losa/gemm/quantized_matrix.hpp>
#include <losa/gemm/registry.hpp>
#include <losa/gemm/run_plan.hpp>

namespace losa::inline v0 {

struct SpmmOptions {
  std::span<const float> bias = {};  // (out), added to every token; empty = none
  bool accumulate = false;           // y += … instead of y = …
  const Backend* backend = nullptr;  // null = default_backend()
};

struct ProductOptions {
  bool accumulate = false;           // add to the output instead of overwriting it
  const Backend* backend = nullptr;  // null = default_backend()
};

namespace detail {

template <class Element, class OtherElement>
void expect_tokens(std::string_view where, std::string_view a_name, const MatrixView<Element>& a,
                   std::string_view b_name, const MatrixView<OtherElement>& b) {
  if (a.rows != b.rows) raise<ShapeError>(where, ": ", a_name, " has ", a.rows, " tokens, ", b_name, " has ", b.rows);
}

template <class Element>
void expect_columns(std::string_view where, std::string_view name, const MatrixView<Element>& m, std::size_t cols) {
  if (m.cols != cols)
    raise<ShapeError>(where, ": ", name, " must have ", cols, " columns, got ", m.rows, " × ", m.cols);
}

inline PlanOptions plan_options(ExecutorRef executor, const Backend* backend) {
  return {.threads = std::max<std::size_t>(1, executor.concurrency()), .backend = backend};
}

template <class Matrix>
void multiply(const Matrix& packed, MatrixView<const float> x, MatrixView<float> y, ExecutorRef executor,
              const SpmmOptions& options) {
  expect_columns("spmm", "x", x, packed.cols());
  expect_columns("spmm", "y", y, packed.rows());
  expect_tokens("spmm", "x", x, "y", y);
  const Plan<Multiply> made(packed, x.rows, plan_options(executor, options.backend));
  const Multiply arguments{.x = x, .y = y, .bias = options.bias, .accumulate = options.accumulate};
  made.expect(arguments, "spmm");
  run_plan(made, arguments, executor);
}

}  // namespace detail

/// y (tokens, out) = x (tokens, in) · (M ⊙ W)ᵀ + bias. x and y must not overlap.
/// Throws ShapeError, before anything is written, if the shapes do not fit.
template <Storage Element>
void spmm(const PackedMatrix<Element>& packed, MatrixView<const float> x, MatrixView<float> y,
          ExecutorRef executor = {}, const SpmmOptions& options = {}) {
  static_assert(!std::same_as<Element, double>,
                "spmm multiplies float, bf16 and f16 weights; pack double weights as float");
  detail::multiply(packed, x, y, executor, options);
}
/// The same with 8- or 4-bit weights. Activations stay float, or become integers of 8 or 16 bits where that is faster
/// (docs/kernels/README.md).
template <Integer IntegerType>
void spmm(const QuantizedMatrix<IntegerType>& packed, MatrixView<const float> x, MatrixView<float> y,
          ExecutorRef executor = {}, const SpmmOptions& options = {}) {
  detail::multiply(packed, x, y, executor, options);
}
/// The same with lists of columns.
template <ListValue Element>
void spmm(const ListMatrix<Element>& list, MatrixView<const float> x, MatrixView<float> y, ExecutorRef executor = {},
          const SpmmOptions& options = {}) {
  detail::multiply(list, x, y, executor, options);
}

/// dx (tokens, in) = g (tokens, out) · (M ⊙ W). g and dx must not overlap.
/// Throws ShapeError, before anything is written, if the shapes do not fit.
inline void spmm_transposed(const PackedMatrix<float>& packed, MatrixView<const float> g, MatrixView<float> dx,
                            ExecutorRef executor = {}, const ProductOptions& options = {}) {
  detail::expect_columns("spmm_transposed", "g", g, packed.rows());
  detail::expect_columns("spmm_transposed", "dx", dx, packed.cols());
  detail::expect_tokens("spmm_transposed", "g", g, "dx", dx);
  const Plan<MultiplyTransposed> made(packed, g.rows, detail::plan_options(executor, options.backend));
  const MultiplyTransposed arguments{.g = g, .dx = dx, .accumulate = options.accumulate};
  made.expect(arguments, "spmm_transposed");
  detail::run_plan(made, arguments, executor);
}

}  // namespace losa::inline v0
