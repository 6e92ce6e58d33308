#include "blas.hpp"

#include <algorithm>
#include <cstddef>

#if defined(LLAMA_USE_BLAS)
#include "openblas.hpp"

extern "C" {
// The Fortran interface, which every BLAS has. Matrices are column-major.
void sgemm_(const char* op_a, const char* op_b, const int* m, const int* n, const int* k, const float* alpha,
            const float* a, const int* lda, const float* b, const int* ldb, const float* beta, float* c,
            const int* ldc);
void sgemv_(const char* op, const int* m, const int* n, const float* alpha, const float* a, const int* lda,
            const float* x, const int* incx, const float* beta, float* y, const int* incy);
// Absent unless that library is what was linked.
void openblas_set_num_threads(int threads) __attribute__((weak));
void bli_thread_set_num_threads(long threads) __attribute__((weak));
void MKL_Set_Num_Threads(int threads) __attribute__((weak));
}
#else
#include <Eigen/Core>
#endif

namespace llama {
namespace {

// Large enough that packing an operand costs a few percent of the product, small enough to share out 512 tokens.
constexpr std::size_t token_tile = 128;
constexpr std::size_t out_tile = 256;
// A product below this many multiplications is done before another thread has woken up.
constexpr std::size_t serial_limit = std::size_t{1} << 16;

#if defined(LLAMA_USE_BLAS)

// Threads are our executor's business: a BLAS that has its own is told to use none. For OpenBLAS this comes too late to
// keep it from starting them, see openblas.cpp; the others start theirs at their first product.
void single_threaded() {
  static const bool done = [] {
    if (openblas_set_num_threads != nullptr) openblas_set_num_threads(1);
    if (bli_thread_set_num_threads != nullptr) bli_thread_set_num_threads(1);
    if (MKL_Set_Num_Threads != nullptr) MKL_Set_Num_Threads(1);
    return true;
  }();
  static_cast<void>(done);
}

int narrow(std::size_t n) { return static_cast<int>(n); }

#else

template <class T>
using Map = Eigen::Map<
    std::conditional_t<std::is_const_v<T>, const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>,
                       Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> >,
    Eigen::Unaligned, Eigen::OuterStride<> >;

template <class T>
Map<T> map(MatrixView<T> m) {
  return {m.data, static_cast<Eigen::Index>(m.rows), static_cast<Eigen::Index>(m.cols),
          Eigen::OuterStride<>(static_cast<Eigen::Index>(m.stride))};
}

#endif

// y (out) = w (out, in) · x, one token.
void gemv(MatrixView<const float> w, const float* x, float keep, float* y) {
#if defined(LLAMA_USE_BLAS)
  single_threaded();
  const BlasCall call;
  const int in = narrow(w.cols), out = narrow(w.rows), stride = narrow(w.stride), one = 1;
  const float alpha = 1.0f;
  sgemv_("T", &in, &out, &alpha, w.data, &stride, x, &one, &keep, y, &one);
#else
  gemm(Op::plain, Op::transposed, 1.0f, MatrixView<const float>(x, 1, w.cols), w, keep,
       MatrixView<float>(y, 1, w.rows));
#endif
}

}  // namespace

void gemm(Op op_a, Op op_b, float scale, MatrixView<const float> a, MatrixView<const float> b, float keep,
          MatrixView<float> c) {
  if (c.empty()) return;
#if defined(LLAMA_USE_BLAS)
  // Row-major c = a·b is column-major cᵀ = bᵀ·aᵀ.
  single_threaded();
  const BlasCall call;
  const int m = narrow(c.cols), n = narrow(c.rows), k = narrow(op_a == Op::plain ? a.cols : a.rows);
  const int lda = narrow(std::max<std::size_t>(b.stride, 1)), ldb = narrow(std::max<std::size_t>(a.stride, 1)),
            ldc = narrow(c.stride);
  sgemm_(op_b == Op::plain ? "N" : "T", op_a == Op::plain ? "N" : "T", &m, &n, &k, &scale, b.data, &lda, a.data, &ldb,
         &keep, c.data, &ldc);
#else
  auto to = map(c);
  if (keep == 0.0f)
    to.setZero();
  else if (keep != 1.0f)
    to *= keep;
  const auto from_a = map(a);
  const auto from_b = map(b);
  if (op_a == Op::plain && op_b == Op::plain)
    to.noalias() += scale * from_a * from_b;
  else if (op_a == Op::plain)
    to.noalias() += scale * from_a * from_b.transpose();
  else if (op_b == Op::plain)
    to.noalias() += scale * from_a.transpose() * from_b;
  else
    to.noalias() += scale * from_a.transpose() * from_b.transpose();
#endif
}

void multiply(MatrixView<const float> x, MatrixView<const float> w, MatrixView<float> y, losa::ExecutorRef executor,
              bool accumulate) {
  losa::detail::expect_shape("multiply", "w", w, w.rows, x.cols);
  losa::detail::expect_shape("multiply", "y", y, x.rows, w.rows);
  if (y.empty()) return;
  const float keep = accumulate ? 1.0f : 0.0f;
  const std::size_t down = (x.rows + token_tile - 1) / token_tile;
  const std::size_t across = (w.rows + out_tile - 1) / out_tile;
  const auto tile = [&](std::size_t task) {
    const std::size_t t = task / across * token_tile, o = task % across * out_tile;
    const std::size_t tokens = std::min(token_tile, x.rows - t), outs = std::min(out_tile, w.rows - o);
    if (tokens == 1)
      gemv(w.block(o, 0, outs, w.cols), x.row(t).data(), keep, y.row(t).data() + o);
    else
      gemm(Op::plain, Op::transposed, 1.0f, x.block(t, 0, tokens, x.cols), w.block(o, 0, outs, w.cols), keep,
           y.block(t, o, tokens, outs));
  };
  if (x.rows * w.size() < serial_limit) executor = {};
  executor.parallel_for(down * across, tile);
}

void multiply_transposed(MatrixView<const float> g, MatrixView<const float> w, MatrixView<float> dx,
                         losa::ExecutorRef executor, bool accumulate) {
  losa::detail::expect_shape("multiply_transposed", "w", w, g.cols, w.cols);
  losa::detail::expect_shape("multiply_transposed", "dx", dx, g.rows, w.cols);
  if (dx.empty()) return;
  const float keep = accumulate ? 1.0f : 0.0f;
  const std::size_t down = (g.rows + token_tile - 1) / token_tile;
  const std::size_t across = (w.cols + out_tile - 1) / out_tile;
  if (g.rows * w.size() < serial_limit) executor = {};
  executor.parallel_for(down * across, [&](std::size_t task) {
    const std::size_t t = task / across * token_tile, i = task % across * out_tile;
    const std::size_t tokens = std::min(token_tile, g.rows - t), ins = std::min(out_tile, w.cols - i);
    gemm(Op::plain, Op::plain, 1.0f, g.block(t, 0, tokens, g.cols), w.block(0, i, w.rows, ins), keep,
         dx.block(t, i, tokens, ins));
  });
}

void prepare_products([[maybe_unused]] std::size_t threads) {
#if defined(LLAMA_USE_BLAS)
  make_room(threads);
#endif
}

std::string dense_backend() {
#if defined(LLAMA_USE_BLAS)
  if (openblas_set_num_threads != nullptr) return "OpenBLAS";
  if (bli_thread_set_num_threads != nullptr) return "BLIS";
  if (MKL_Set_Num_Threads != nullptr) return "MKL";
  return "BLAS";
#else
  return "Eigen";
#endif
}

}  // namespace llama
