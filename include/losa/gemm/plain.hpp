#pragma once
// The sparse products for an engine that has tensors and threads of its own: pointers, strides, a callback; no type of
// Eigen or xsimd. losa/gemm.hpp does not include it.
//
//   #include <losa/gemm/plain.hpp>
//   namespace plain = losa::plain;
//   plain::Weights w = plain::pack(weight, out, in, in, nullptr, plain::Type::bf16);
//   plain::multiply(w, x, tokens, in, y, out, bias, {run_on_my_threads, my_pool});
//   plain::multiply(w, x, tokens, in, residual, out, nullptr, threads, plain::Into::add);   // residual += x · Wᵀ
//   plain::Weights saved(losa::PackedMatrix<losa::bf16>::from_bytes(out, in, mask, values));  // of a checkpoint
//
// What it costs. Memory: w.bytes(), at density d about 4d + 1/8 bytes a weight in f32, 2d + 1/8 in bf16 and f16,
// d + 1/8 in int8, d/2 + 5/32 in int4, (value + 1)·d + 1/25 in a list; the dense weights may be freed. Time to pack: a
// few times that of reading the dense weights; integers and lists are made from the same in f32.
//
// Scratch: kept by each thread from product to product, so only the first product of its size allocates; after
// reserve() on a thread multiply() does not.
//
// docs/kernels/README.md says when a list pays, and how two weights that multiply the same x (gate and up) may be
// packed as one; docs/kernels/figures.md from which sparsity on a product pays, and the time to pack.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/mask.hpp>
#include <losa/core/types.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/backend.hpp>
#include <losa/gemm/list_matrix.hpp>
#include <losa/gemm/pack.hpp>
#include <losa/gemm/packed_matrix.hpp>
#include <losa/gemm/plan.hpp>
#include <losa/gemm/quantized_matrix.hpp>
#include <losa/gemm/registry.hpp>
#include <losa/gemm/scratch.hpp>
#include <losa/gemm/sddmm.hpp>
#include <losa/gemm/spmm.hpp>

namespace losa::inline v0::plain {

/// Value type and format: a bitmask, or lists of columns (ListMatrix).
enum class Type { f32, bf16, f16, int8, int4, f32_list, bf16_list, f16_list, int8_list };

/// What a product does with its output.
enum class Into { overwrite, add };

/// The engine's threads: run(pool, n, task, context) calls task(context, i) once for every i < n, on whatever threads,
/// and returns when all are done. By default everything runs on the calling thread. No result depends on it. A task
/// throws only std::bad_alloc, when a thread has no scratch yet.
struct Threads {
  void (*run)(void* pool, std::size_t n, void (*task)(void* context, std::size_t i), void* context) = nullptr;
  void* pool = nullptr;
  std::size_t count = 4;  // that run tasks at the same time: products are cut for so many
};

namespace detail {
struct Access;
}

/// Packed weights, rows = outputs. Read-only but for sample(), so any number of products may use them at once.
class Weights {
  using Matrix =
      std::variant<PackedMatrix<float>, PackedMatrix<bf16>, PackedMatrix<f16>, QuantizedMatrix<Int8>,
                   QuantizedMatrix<Int4>, ListMatrix<float>, ListMatrix<bf16>, ListMatrix<f16>, ListMatrix<Int8>>;
  template <Type type>
  using Of = std::variant_alternative_t<static_cast<std::size_t>(type), Matrix>;

 public:
  /// Of any of losa's packed matrices.
  explicit Weights(Matrix matrix) : matrix_(std::move(matrix)) {}

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
  Type type() const noexcept {
    static_assert(std::is_same_v<Of<Type::bf16>, PackedMatrix<bf16>> &&
                  std::is_same_v<Of<Type::int4>, QuantizedMatrix<Int4>> &&
                  std::is_same_v<Of<Type::int8_list>, ListMatrix<Int8>>);
    return static_cast<Type>((matrix_.index)());  // not as a macro: Xlib has one of that name
  }
  /// Has products of these weights run on the backend of that name ("avx2", "reference", …) instead of the default one.
  /// Throws UnsupportedError, which lists those there are, if this machine has none of that name.
  void use(std::string_view backend) { backend_ = &find_backend(backend); }

  /// dense[r · stride + c] = the weight as the products see it, 0 where pruned. Throws ShapeError if stride < cols.
  void to_dense(float* dense, std::size_t stride) const {
    if (stride < cols())
      losa::detail::raise<ShapeError>("to_dense: stride must be at least ", cols(), ", got ", stride);
    std::visit([&](const auto& m) { m.to_dense(MatrixView<float>{dense, rows(), cols(), stride}); }, matrix_);
  }

 private:
  friend detail::Access;
  Matrix matrix_;
  const Backend* backend_ = nullptr;
};

namespace detail {

struct Access {
  using Matrix = Weights::Matrix;
  static const Matrix& matrix(const Weights& w) { return w.matrix_; }
  static const Backend* backend(const Weights& w) { return w.backend_; }
  /// The products of training have f32 in a bitmask alone.
  template <class WeightsType>
  static auto& trainable(std::string_view where, WeightsType& w) {
    auto* found = std::get_if<PackedMatrix<float>>(&w.matrix_);
    if (found == nullptr) losa::detail::raise<UnsupportedError>(where, ": weights must be of type f32");
    return *found;
  }
};

struct Executor {
  Threads threads;
  std::size_t concurrency() const noexcept { return threads.count; }
  void parallel_for(std::size_t n, losa::detail::TaskRef task) const {
    threads.run(
        threads.pool, n, [](void* context, std::size_t i) { (*static_cast<losa::detail::TaskRef*>(context))(i); },
        &task);
  }
};

template <class Function>
void with_executor(const Threads& threads, Function&& f) {
  if (threads.run == nullptr) return f(ExecutorRef{});
  Executor executor{threads};
  f(ExecutorRef{executor});
}

inline void expect_stride(std::string_view where, std::string_view name, std::size_t stride, std::size_t least) {
  if (stride < least) losa::detail::raise<ShapeError>(where, ": ", name, " must be at least ", least, ", got ", stride);
}

/// Bit c of a row is set where keep[c] or, without keep, row[c] is not zero.
inline Mask mask_of(MatrixView<const float> dense, const unsigned char* keep, ExecutorRef executor) {
  Mask mask(dense.rows, dense.cols);
  executor.parallel_for(dense.rows, [&](std::size_t r) {
    const float* row = dense.data + r * dense.stride;
    const unsigned char* kept = keep == nullptr ? nullptr : keep + r * dense.cols;
    for (std::size_t w = 0; w < mask.words_per_row(); ++w) {
      std::uint64_t word = 0;
      const std::size_t end = std::min<std::size_t>(64, dense.cols - w * 64);
      for (std::size_t i = 0; i < end; ++i)
        word |= std::uint64_t{kept != nullptr ? kept[w * 64 + i] != 0 : row[w * 64 + i] != 0.0f} << i;
      mask.row_words(r)[w] = word;
    }
  });
  return mask;
}

inline Access::Matrix packed_as(Type type, MatrixView<const float> dense, const Mask& mask, ExecutorRef executor) {
  switch (type) {
    case Type::f32:
      return losa::pack(dense, mask, executor);
    case Type::bf16:
      return pack_as<bf16>(dense, mask, executor);
    case Type::f16:
      return pack_as<f16>(dense, mask, executor);
    case Type::int8:
      return quantize<Int8>(losa::pack(dense, mask, executor), executor);
    case Type::int4:
      return quantize<Int4>(losa::pack(dense, mask, executor), executor);
    case Type::f32_list:
      return ListMatrix<float>(losa::pack(dense, mask, executor), executor);
    case Type::bf16_list:
      return ListMatrix<bf16>(losa::pack(dense, mask, executor), executor);
    case Type::f16_list:
      return ListMatrix<f16>(losa::pack(dense, mask, executor), executor);
    case Type::int8_list:
      return ListMatrix<Int8>(losa::pack(dense, mask, executor), executor);
  }
  losa::detail::raise<RangeError>("pack: no such type: ", static_cast<int>(type));
}

}  // namespace detail

/// Packs weight (rows, cols), row r at weight + r · stride. `keep` says which weights are kept, one byte each, without
/// gaps between rows; without it those that are not zero. Throws ShapeError if stride < cols, NumericError where
/// integers meet a weight that is not finite or int4 one above 458000 (its scales are f16), RangeError if there is no
/// such type.
inline Weights pack(const float* weight, std::size_t rows, std::size_t cols, std::size_t stride,
                    const unsigned char* keep = nullptr, Type type = Type::f32, Threads threads = {}) {
  detail::expect_stride("pack", "stride", stride, cols);
  const MatrixView<const float> dense{weight, rows, cols, stride};
  detail::Access::Matrix matrix;
  detail::with_executor(threads, [&](ExecutorRef executor) {
    matrix = detail::packed_as(type, dense, detail::mask_of(dense, keep, executor), executor);
  });
  return Weights(std::move(matrix));
}

/// y (tokens, rows) = x (tokens, cols) · Wᵀ + bias (rows, or null), or y += that; token t at x + t · x_stride and
/// y + t · y_stride. x and y must not overlap. Throws ShapeError if a stride is shorter than its row.
inline void multiply(const Weights& weights, const float* x, std::size_t tokens, std::size_t x_stride, float* y,
                     std::size_t y_stride, const float* bias = nullptr, Threads threads = {},
                     Into into = Into::overwrite) {
  detail::expect_stride("multiply", "x_stride", x_stride, weights.cols());
  detail::expect_stride("multiply", "y_stride", y_stride, weights.rows());
  const SpmmOptions options{.bias = {bias, bias == nullptr ? 0 : weights.rows()},
                            .accumulate = into == Into::add,
                            .backend = detail::Access::backend(weights)};
  detail::with_executor(threads, [&](ExecutorRef executor) {
    std::visit(
        [&](const auto& matrix) {
          spmm(matrix, {x, tokens, weights.cols(), x_stride}, {y, tokens, weights.rows(), y_stride}, executor, options);
        },
        detail::Access::matrix(weights));
  });
}

/// dx (tokens, cols) = g (tokens, rows) · W, or dx += that. g and dx must not overlap. Throws ShapeError if a stride is
/// shorter than its row, UnsupportedError unless the weights are of type f32.
inline void multiply_transposed(const Weights& weights, const float* g, std::size_t tokens, std::size_t g_stride,
                                float* dx, std::size_t dx_stride, Threads threads = {}, Into into = Into::overwrite) {
  const PackedMatrix<float>& packed = detail::Access::trainable("multiply_transposed", weights);
  detail::expect_stride("multiply_transposed", "g_stride", g_stride, packed.rows());
  detail::expect_stride("multiply_transposed", "dx_stride", dx_stride, packed.cols());
  detail::with_executor(threads, [&](ExecutorRef executor) {
    spmm_transposed(packed, {g, tokens, packed.rows(), g_stride}, {dx, tokens, packed.cols(), dx_stride}, executor,
                    {.accumulate = into == Into::add, .backend = detail::Access::backend(weights)});
  });
}

/// Values of `result` = gᵀ (rows, tokens) · x (tokens, cols) at its kept weights, or += that; for the gradient of a
/// layer, `result` is a copy of its weights. Throws ShapeError if a stride is shorter than its row, UnsupportedError
/// unless `result` is of type f32.
inline void sample(const float* g, std::size_t g_stride, const float* x, std::size_t x_stride, std::size_t tokens,
                   Weights& result, Threads threads = {}, Into into = Into::overwrite) {
  PackedMatrix<float>& packed = detail::Access::trainable("sample", result);
  detail::expect_stride("sample", "g_stride", g_stride, packed.rows());
  detail::expect_stride("sample", "x_stride", x_stride, packed.cols());
  detail::with_executor(threads, [&](ExecutorRef executor) {
    sddmm({g, tokens, packed.rows(), g_stride}, {x, tokens, packed.cols(), x_stride}, packed, executor,
          {.accumulate = into == Into::add, .backend = detail::Access::backend(result)});
  });
}

/// Has the calling thread keep what multiply() with `weights` and 1 … `tokens` tokens takes beside its operands, so
/// that none allocates there, not even the first; a pool's threads need a call each, with the pool's count. Costs under
/// a microsecond for each number of tokens. Returns the bytes that the thread keeps now, for all products it has run.
inline std::size_t reserve(const Weights& weights, std::size_t tokens, Threads threads = {}) {
  const std::size_t count = threads.run == nullptr ? 1 : std::max<std::size_t>(1, threads.count);
  std::size_t shared = 0;
  std::size_t own = 0;
  std::visit(
      [&](const auto& m) {
        for (std::size_t t = 1; t <= tokens; ++t) {
          const Plan<Multiply> made(m, t, {.threads = count, .backend = detail::Access::backend(weights)});
          shared = std::max(shared, made.shared_bytes());
          own = std::max(own, made.own_bytes());
        }
      },
      detail::Access::matrix(weights));
  const losa::detail::Scratch first(std::max(shared, own));
  const losa::detail::Scratch second(std::min(shared, own));
  return losa::detail::Scratch::held() + first.size() + second.size();
}

}  // namespace losa::inline v0::plain
