#pragma once
// Dense products in f32. A BLAS does the arithmetic if one was found, else Eigen; either is called on one thread at a
// time per tile, and the tiles are the same for every executor, so the bits do not depend on the number of threads.
//
//   llama::multiply(x, w, y, executor);              // y (tokens, out) = x (tokens, in) · w (out, in)ᵀ
//   llama::multiply_transposed(g, w, dx, executor);  // dx (tokens, in) = g (tokens, out) · w (out, in)
//
// Cost 2·tokens·out·in operations.

#include <cstddef>
#include <losa/core/executor.hpp>
#include <losa/core/view.hpp>
#include <string>

namespace llama {

using losa::MatrixView;

/// y = x·wᵀ, or y += x·wᵀ. Throws losa::ShapeError if the shapes do not fit.
void multiply(MatrixView<const float> x, MatrixView<const float> w, MatrixView<float> y,
              losa::ExecutorRef executor = {}, bool accumulate = false);

/// dx = g·w, or dx += g·w. Throws losa::ShapeError if the shapes do not fit.
void multiply_transposed(MatrixView<const float> g, MatrixView<const float> w, MatrixView<float> dx,
                         losa::ExecutorRef executor = {}, bool accumulate = false);

/// How an operand of gemm is read.
enum class Op { plain, transposed };

/// One product on the calling thread: c = scale·op(a)·op(b) + keep·c, all row-major. The shapes are not checked.
void gemm(Op op_a, Op op_b, float scale, MatrixView<const float> a, MatrixView<const float> b, float keep,
          MatrixView<float> c);

/// For a program whose address space is limited (`ulimit -v`), before its first product and while its threads are idle:
/// takes the memory that the BLAS needs for products on so many threads at once, or less, and then products wait for
/// one another. Without it they take it as they come, which may fail.
void prepare_products(std::size_t threads);

/// "OpenBLAS", "BLAS" or "Eigen".
std::string dense_backend();

}  // namespace llama
