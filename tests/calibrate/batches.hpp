#pragma once
// Random activations for the tests of calibrate/, and the executors under which results must not change.

#include <cstddef>
#include <cstdint>
#include <vector>

#include <losa/core/executor.hpp>
#include <losa/core/random.hpp>
#include <losa/core/thread_pool.hpp>
#include <losa/core/view.hpp>

namespace test {

/// rows × cols normal numbers, rows `stride` apart; what lies between rows is huge, so that reading it shows.
struct Batch {
  std::size_t rows;
  std::size_t cols;
  std::size_t stride;
  std::vector<float> data;

  Batch(std::size_t rows_, std::size_t cols_, std::uint64_t seed, double mean = 0, std::size_t gap = 0)
      : rows(rows_), cols(cols_), stride(cols_ + gap), data(rows * stride, 1e30f) {
    const losa::Random random{.seed = seed};
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < cols; ++c)
        data[r * stride + c] = static_cast<float>(mean + random.normal(r * cols + c));
  }
  float operator()(std::size_t r, std::size_t c) const { return data[r * stride + c]; }
  losa::MatrixView<const float> view() const { return {data.data(), rows, cols, stride}; }
};

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
