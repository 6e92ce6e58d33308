#pragma once
// Random matrices and plain re-implementations for the tests of mask/.

#include <cstddef>
#include <cstdint>
#include <vector>

#include <losa/core/executor.hpp>
#include <losa/core/mask.hpp>
#include <losa/core/random.hpp>
#include <losa/core/thread_pool.hpp>
#include <losa/core/view.hpp>

namespace test {

/// Row-major matrix that owns its elements, rows `gap` elements apart from one another.
struct Matrix {
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t stride = 0;
  std::vector<float> data;

  Matrix(std::size_t rows_, std::size_t cols_, std::size_t gap = 0)
      : rows(rows_), cols(cols_), stride(cols_ + gap), data(rows * stride) {}
  float& operator()(std::size_t r, std::size_t c) { return data[r * stride + c]; }
  float operator()(std::size_t r, std::size_t c) const { return data[r * stride + c]; }
  losa::MatrixView<float> view() { return {data.data(), rows, cols, stride}; }
  losa::MatrixView<const float> view() const { return {data.data(), rows, cols, stride}; }
};

inline Matrix normal_matrix(std::size_t rows, std::size_t cols, std::uint64_t seed, std::size_t gap = 0) {
  Matrix m(rows, cols, gap);
  const losa::Random random{.seed = seed};
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; ++c) m(r, c) = static_cast<float>(random.normal(r * cols + c));
  return m;
}

/// Small whole numbers: many equal scores.
inline Matrix tied_matrix(std::size_t rows, std::size_t cols, std::uint64_t seed) {
  Matrix m(rows, cols);
  const losa::Random random{.seed = seed};
  for (std::size_t i = 0; i < m.data.size(); ++i) m.data[i] = static_cast<float>(random.below(4, i)) - 1.0f;
  return m;
}

/// A mask that keeps each weight with probability `density`.
inline losa::Mask random_mask(std::size_t rows, std::size_t cols, double density, std::uint64_t seed) {
  losa::Mask mask(rows, cols);
  const losa::Random random{.seed = seed, .stream = 1};
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; ++c) mask.set(r, c, random.uniform(r * cols + c) < density);
  return mask;
}

/// XᵀX of `tokens` random inputs whose columns are correlated, (in, in) row-major.
inline std::vector<double> random_hessian(std::size_t in, std::size_t tokens, std::uint64_t seed) {
  const losa::Random random{.seed = seed, .stream = 2};
  std::vector<double> h(in * in);
  std::vector<double> x(in);
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t c = 0; c < in; ++c)
      x[c] = random.normal(t * in + c) + (c > 0 ? 0.6 * x[c - 1] : 0.0) + 0.3 * static_cast<double>(c % 3);
    for (std::size_t i = 0; i < in; ++i)
      for (std::size_t j = 0; j < in; ++j) h[i * in + j] += x[i] * x[j];
  }
  return h;
}

/// Calls f(executor) with a serial executor, pools of 1, 2 and 3 threads, and one that runs tasks backwards.
template <class F>
void with_executors(F&& f) {
  struct Backwards {
    std::size_t concurrency() const { return 2; }
    void parallel_for(std::size_t n, losa::detail::TaskRef task) {
      while (n-- > 0) task(n);
    }
  } backwards;
  losa::ThreadPool one(1);
  losa::ThreadPool two(2);
  losa::ThreadPool three(3);
  f(losa::ExecutorRef{});
  f(losa::ExecutorRef(one));
  f(losa::ExecutorRef(two));
  f(losa::ExecutorRef(three));
  f(losa::ExecutorRef(backwards));
}

}  // namespace test
