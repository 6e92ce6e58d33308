#pragma once
// The sparse product for an engine that has tensors and threads of its own: pointers, strides, a callback; no type of
// Eigen or xsimd.
//
//   losa::plain::Weights w = losa::plain::pack(weight, out, in, in, nullptr, losa::plain::Type::bf16);
//   losa::plain::multiply(w, x, tokens, in, y, out, bias, {run_on_my_threads, my_pool});
//
// What it costs. Memory: w.bytes(), at density d about 4d + 1/8 bytes a weight in f32, 2d + 1/8 in bf16 and f16,
// d + 1/8 in int8, d/2 + 5/32 in int4; the dense weights may be freed. Time to pack: once over the dense weights, and
// for int8 and int4 by way of the same in f32.
// Scratch: kept by each thread from product to product, so only the first product of its size allocates; after
// reserve() on a thread none does.
// When it pays: docs/kernels.md says from which sparsity on, for how many tokens.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/mask.hpp>
#include <losa/core/types.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/pack.hpp>
#include <losa/gemm/packed_matrix.hpp>
#include <losa/gemm/quantized_matrix.hpp>
#include <losa/gemm/spmm.hpp>

namespace losa::inline v0::plain {

enum class Type { f32, bf16, f16, int8, int4 };

/// The engine's threads: run(pool, n, task, context) calls task(context, i) once for every i < n, on whatever threads,
/// and returns when all are done. By default everything runs on the calling thread. No result depends on it. A task
/// throws only std::bad_alloc, when a thread has no scratch yet.
struct Threads {
  void (*run)(void* pool, std::size_t n, void (*task)(void* context, std::size_t i), void* context) = nullptr;
  void* pool = nullptr;
};

/// Packed weights, rows = outputs. Read-only, so any number of products may use them at once.
class Weights {
 public:
  std::size_t rows() const noexcept {
    return std::visit([](const auto& m) { return m.rows(); }, matrix_);
  }
  std::size_t cols() const noexcept {
    return std::visit([](const auto& m) { return m.cols(); }, matrix_);
  }
  std::size_t kept() const noexcept {
    return std::visit([](const auto& m) { return m.kept(); }, matrix_);
  }
  /// Memory held.
  std::size_t bytes() const noexcept {
    return std::visit([](const auto& m) { return m.bytes(); }, matrix_);
  }
  Type type() const noexcept { return static_cast<Type>(matrix_.index()); }

 private:
  using Matrix = std::variant<PackedMatrix<float>, PackedMatrix<bf16>, PackedMatrix<f16>, QuantizedMatrix<Int8>,
                              QuantizedMatrix<Int4>>;
  explicit Weights(Matrix matrix) : matrix_(std::move(matrix)) {}

  friend Weights pack(const float*, std::size_t, std::size_t, std::size_t, const unsigned char*, Type, Threads);
  friend void multiply(const Weights&, const float*, std::size_t, std::size_t, float*, std::size_t, const float*,
                       Threads);
  Matrix matrix_;
};

namespace detail {

struct Executor {
  Threads threads;
  std::size_t concurrency() const noexcept { return 1; }
  void parallel_for(std::size_t n, losa::detail::TaskRef task) const {
    threads.run(
        threads.pool, n, [](void* context, std::size_t i) { (*static_cast<losa::detail::TaskRef*>(context))(i); },
        &task);
  }
};

template <class F>
void with_executor(const Threads& threads, F&& f) {
  if (threads.run == nullptr) return f(ExecutorRef{});
  Executor executor{threads};
  f(ExecutorRef{executor});
}

}  // namespace detail

/// Packs weight (rows, cols), row r at weight + r · stride. `keep` says which weights are kept, one byte each, without
/// gaps between rows; without it those that are not zero. Throws ShapeError if stride < cols, NumericError where int8
/// or int4 meet a weight that is not finite.
inline Weights pack(const float* weight, std::size_t rows, std::size_t cols, std::size_t stride,
                    const unsigned char* keep = nullptr, Type type = Type::f32, Threads threads = {}) {
  if (stride < cols) losa::detail::raise<ShapeError>("pack: stride must be at least ", cols, ", got ", stride);
  const MatrixView<const float> dense{weight, rows, cols, stride};
  Mask mask(rows, cols);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; ++c)
      if (keep != nullptr ? keep[r * cols + c] != 0 : dense(r, c) != 0.0f)
        mask.row_words(r)[c / 64] |= std::uint64_t{1} << c % 64;
  Weights::Matrix matrix;
  detail::with_executor(threads, [&](ExecutorRef executor) {
    switch (type) {
      case Type::f32:
        matrix = losa::pack(dense, mask, executor);
        break;
      case Type::bf16:
        matrix = pack_as<bf16>(dense, mask, executor);
        break;
      case Type::f16:
        matrix = pack_as<f16>(dense, mask, executor);
        break;
      case Type::int8:
        matrix = quantize<Int8>(losa::pack(dense, mask, executor));
        break;
      case Type::int4:
        matrix = quantize<Int4>(losa::pack(dense, mask, executor));
        break;
    }
  });
  return Weights(std::move(matrix));
}

/// y (tokens, rows) = x (tokens, cols) · Wᵀ + bias (rows, or null); token t at x + t · x_stride and y + t · y_stride.
/// x and y must not overlap. Throws ShapeError if a stride is shorter than its row.
inline void multiply(const Weights& weights, const float* x, std::size_t tokens, std::size_t x_stride, float* y,
                     std::size_t y_stride, const float* bias = nullptr, Threads threads = {}) {
  if (x_stride < weights.cols())
    losa::detail::raise<ShapeError>("multiply: x_stride must be at least ", weights.cols(), ", got ", x_stride);
  if (y_stride < weights.rows())
    losa::detail::raise<ShapeError>("multiply: y_stride must be at least ", weights.rows(), ", got ", y_stride);
  const std::span<const float> b(bias, bias == nullptr ? 0 : weights.rows());
  detail::with_executor(threads, [&](ExecutorRef executor) {
    std::visit(
        [&](const auto& matrix) {
          spmm(matrix, {x, tokens, weights.cols(), x_stride}, {y, tokens, weights.rows(), y_stride}, executor,
               {.bias = b});
        },
        weights.matrix_);
  });
}

/// Has the calling thread keep what products with `weights` and 1 … `tokens` tokens take beside their operands, so that
/// none of them allocates there, not even the first. Costs two such products, and x and y for the time of the call.
inline void reserve(const Weights& weights, std::size_t tokens) {
  const std::vector<float> x(tokens * weights.cols());
  std::vector<float> y(tokens * weights.rows());
  for (std::size_t t = 1; t <= tokens; t = t < tokens ? std::min(2 * t, tokens) : t + 1)
    multiply(weights, x.data(), t, weights.cols(), y.data(), weights.rows());
}

}  // namespace losa::inline v0::plain
