#pragma once
// A plan run as badly as its promise allows: tasks of a phase in random order by random threads, in memory between
// guard pages that is full of NaNs before the call and, for each thread, between tasks.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "problem.hpp"

#include <losa/core/random.hpp>
#include <losa/core/thread_pool.hpp>
#include <losa/gemm.hpp>

namespace test {

inline constexpr std::size_t plan_threads = 3;

/// Bytes between guard pages, full of NaNs.
class NanMemory {
 public:
  explicit NanMemory(std::size_t bytes) : memory_(bytes) { refill(); }
  void refill() {
    if (!memory_.span().empty()) std::memset(memory_.data(), 0xff, memory_.span().size());
  }
  std::byte* data() { return memory_.data(); }

 private:
  Guarded<std::byte> memory_;
};

template <class Product>
void by_plan(const losa::Plan<Product>& plan, const Product& arguments, std::uint64_t seed) {
  static losa::ThreadPool pool(plan_threads);
  plan.expect(arguments);
  NanMemory shared(plan.shared_bytes());
  std::vector<std::unique_ptr<NanMemory>> own;
  for (std::size_t i = 0; i < plan.threads(); ++i) own.push_back(std::make_unique<NanMemory>(plan.own_bytes()));
  const losa::Random random{.seed = seed};
  for (std::size_t phase = 0; phase < plan.phases(); ++phase) {
    std::vector<std::size_t> tasks(plan.tasks(phase));
    std::iota(tasks.begin(), tasks.end(), std::size_t{0});
    for (std::size_t i = tasks.size(); i > 1; --i) std::swap(tasks[i - 1], tasks[random.below(i, phase * 100000 + i)]);
    std::atomic<std::size_t> next{0};
    pool.parallel_for(plan.threads(), [&](std::size_t thread) {
      for (std::size_t i = next++; i < tasks.size(); i = next++) {
        plan.run(phase, tasks[i], arguments, {.shared = shared.data(), .own = own[thread]->data()});
        own[thread]->refill();
      }
    });
  }
}

/// A matrix as kernels see it, of a layout and weights in memory of a test.
template <class Layout, class WeightsType>
struct Seen {
  std::size_t kept_count;
  Layout seen_layout;
  WeightsType seen_weights;

  std::size_t rows() const { return seen_layout.rows; }
  std::size_t cols() const { return seen_layout.cols; }
  std::size_t kept() const { return kept_count; }
  Layout layout() const { return seen_layout; }
  WeightsType weights() const { return seen_weights; }
};

template <class Layout, class WeightsType>
Seen(std::size_t, Layout, WeightsType) -> Seen<Layout, WeightsType>;  // clang 14 finds none for aggregates

/// A product by a plan of one thread, in order.
template <class Product, class Matrix>
void by_simple_plan(const Matrix& matrix, std::size_t tokens, const losa::Backend* backend, const Product& arguments) {
  const losa::Plan<Product> plan(matrix, tokens, {.backend = backend});
  plan.expect(arguments);
  std::vector<std::byte> memory(plan.bytes());
  plan.run_thread(0, arguments, memory.data());
}

}  // namespace test
