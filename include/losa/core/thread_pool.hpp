#pragma once
// A pool of std::threads that models the executor concept. The calling thread works too. Idle workers spin for a
// moment (decode products follow each other within microseconds), then sleep.
//
//   losa::ThreadPool pool(losa::ThreadPool::hardware_threads());
//   pool.parallel_for(n, [&](std::size_t i) { ... });

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <losa/core/executor.hpp>

namespace losa::inline v0 {

class ThreadPool {
 public:
  /// `threads` in all, the caller's included; 0 counts as 1.
  explicit ThreadPool(std::size_t threads) {
    for (std::size_t i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }
  ~ThreadPool() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// Number of hardware threads, at least 1.
  static std::size_t hardware_threads() noexcept {
    const unsigned n = std::thread::hardware_concurrency();
    return n == 0 ? 1 : n;
  }

  std::size_t concurrency() const noexcept { return workers_.size() + 1; }

  /// Calls made from inside a task run serially on that thread; calls from several threads take turns.
  template <class F>
  void parallel_for(std::size_t n, F&& f) {
    if (workers_.empty() || n <= 1 || inside_task()) {
      Serial{}.parallel_for(n, f);
      return;
    }
    std::lock_guard turn(turn_);
    detail::TaskRef task(f);
    {
      std::lock_guard lock(mutex_);
      task_ = &task;
      count_ = n;
      next_.store(0, std::memory_order_relaxed);
      busy_.store(workers_.size(), std::memory_order_relaxed);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    drain();
    for (int spins = 0; busy_.load(std::memory_order_acquire) != 0; ++spins)
      if (spins > spin_limit) {
        std::unique_lock lock(mutex_);
        done_.wait(lock, [this] { return busy_.load(std::memory_order_acquire) == 0; });
      }
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  // About 20–50 µs of polling: longer than the gap between two products of a decode step.
  static constexpr int spin_limit = 4000;

  static bool& inside_task() noexcept {
    static thread_local bool inside = false;
    return inside;
  }

  static void pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
  }

  void drain() {
    inside_task() = true;
    for (std::size_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) {
#if defined(__cpp_exceptions)
      try {
        (*task_)(i);
      } catch (...) {
        std::lock_guard lock(mutex_);
        if (!error_) error_ = std::current_exception();
        next_.store(count_, std::memory_order_relaxed);
      }
#else
      (*task_)(i);
#endif
    }
    inside_task() = false;
  }

  void work() {
    std::uint64_t seen = 0;
    for (;;) {
      for (int spins = 0; generation_.load(std::memory_order_acquire) == seen && spins < spin_limit; ++spins) pause();
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
        seen = generation_.load(std::memory_order_acquire);
        if (stop_) return;
      }
      drain();
      if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        std::lock_guard lock(mutex_);
        done_.notify_all();
      }
    }
  }

  std::mutex turn_;   // one parallel_for at a time
  std::mutex mutex_;  // guards what follows where it is not atomic
  std::condition_variable wake_;
  std::condition_variable done_;
  const detail::TaskRef* task_ = nullptr;
  std::size_t count_ = 0;
  std::atomic<std::size_t> next_{0};
  std::atomic<std::size_t> busy_{0};
  std::atomic<std::uint64_t> generation_{0};
  std::exception_ptr error_;
  bool stop_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace losa::inline v0
