#pragma once
// A pool of threads that models the executor concept. The calling thread works too, and waits for tasks that
// others have begun, never for threads that have not woken up: where there is little to do, or the machine is busy, a
// call costs what it costs serially. Idle workers spin for a moment (products follow each other within microseconds),
// then sleep.
//
//   losa::ThreadPool pool(losa::AtMost{losa::usable_threads()});
//   pool.parallel_for(n, [&](std::size_t i) { ... });
//
// A system may refuse a thread (`ulimit -u`, `ulimit -v`, a container's limit on processes). ThreadPool(n) then throws,
// ThreadPool(AtMost{n}) goes on with those it got.
//
// Tasks are claimed from a ticket, the number of the call and the index of the next task in one word: a worker that is
// late compares an old call's number, fails, and looks again, so no call has to wait until all have seen it. (The
// number has 32 bits. It would deceive a worker that stood still between two instructions for exactly 2³² calls, more
// than an hour, while others went on.)

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <utility>

#include <losa/core/error.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/machine.hpp>
#include <losa/core/worker.hpp>

namespace losa::inline v0 {

/// A number of threads of which fewer will do.
struct AtMost {
  std::size_t threads = 1;
};

class ThreadPool {
 public:
  /// `threads` in all, the caller's included; 0 counts as 1. Throws UnsupportedError, with none of them left running,
  /// if the system refuses one.
  explicit ThreadPool(std::size_t threads) {
    if (const std::error_code refused = start(threads)) {
      const std::size_t had = concurrency();
      stop();
      detail::raise<UnsupportedError>("ThreadPool: ", had, " of ", threads, " threads could be had (",
                                      refused.message(), "); ask for fewer");
    }
  }
  /// As many of them as the system gives, the caller's at least; concurrency() says how many.
  explicit ThreadPool(AtMost most) {
    for (std::size_t threads = most.threads; start(threads) && !workers_; threads /= 2) continue;
  }
  ~ThreadPool() { stop(); }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// Number of threads that this process may keep busy, at least 1 (losa::usable_threads).
  static std::size_t hardware_threads() { return usable_threads(); }

  std::size_t concurrency() const noexcept { return started_ + 1; }

  /// Calls made from inside a task run serially on that thread; calls from several threads take turns.
  template <class Function>
  void parallel_for(std::size_t n, Function&& f) {
    if (started_ == 0 || n <= 1 || inside_task()) {
      Serial{}.parallel_for(n, f);
      return;
    }
    const detail::TaskRef task(f);
    if (n <= most_tasks) {
      run_all(task, n);
    } else {
      const std::size_t part = (n + most_tasks - 1) / most_tasks;
      const auto several = [&](std::size_t i) {
        for (std::size_t j = i * part; j < std::min(n, (i + 1) * part); ++j) task(j);
      };
      run_all(detail::TaskRef(several), (n + part - 1) / part);
    }
  }

 private:
  // Longer than the gap between two products of a decode step, short against a time slice.
  static constexpr std::chrono::microseconds spin_time{50};
  static constexpr std::size_t most_tasks = 0xffffffffu;  // indices have 32 bits of the ticket

  /// Up to threads − 1 workers. Their list comes first, so that nothing can fail once a thread runs but the next
  /// thread.
  std::error_code start(std::size_t threads) noexcept {
    if (threads <= 1) return {};
    if (threads <= std::numeric_limits<std::ptrdiff_t>::max() / sizeof(detail::Worker))  // else nothrow does throw
      workers_.reset(new (std::nothrow) detail::Worker[threads - 1]);
    if (!workers_) return std::make_error_code(std::errc::not_enough_memory);
    const auto entry = [](void* pool) -> void* {
      static_cast<ThreadPool*>(pool)->work();
      return nullptr;
    };
    for (; started_ < threads - 1; ++started_)
      if (const std::error_code refused = workers_[started_].start(entry, this)) return refused;
    return {};
  }

  void stop() noexcept {
    stop_.store(true, std::memory_order_relaxed);
    publish(nullptr, 0);
    for (std::size_t i = 0; i < started_; ++i) workers_[i].join();
    started_ = 0;
  }

  void run_all(const detail::TaskRef& task, std::size_t n) {
    std::lock_guard turn(turn_);
    publish(&task, n);
    work_off();
    wait_until([&] { return finished_.load() == n; }, done_);
    if (failed_.exchange(false, std::memory_order_relaxed)) detail::rethrow(std::exchange(error_, nullptr));
  }

  static bool& inside_task() noexcept {
    static thread_local bool inside = false;
    return inside;
  }

  static void pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
  }

  /// Spins, then sleeps on `signal` until the condition holds.
  template <class Condition>
  void wait_until(Condition condition, std::condition_variable& signal) {
    const auto start = std::chrono::steady_clock::now();
    do {
      for (int i = 0; i < 32; ++i) {
        if (condition()) return;
        pause();
      }
    } while (std::chrono::steady_clock::now() - start < spin_time);
    std::unique_lock lock(mutex_);
    sleeping_.fetch_add(1);
    signal.wait(lock, condition);
    sleeping_.fetch_sub(1);
  }
  /// After a condition has come true. What made it true and this load are sequentially consistent, as are the sleeper's
  /// count and its check: one of the two sees the other.
  void wake(std::condition_variable& signal) {
    if (sleeping_.load() == 0) return;
    { std::lock_guard lock(mutex_); }
    signal.notify_all();
  }

  /// Makes n tasks the current ones; the previous are finished. The old call is closed first: a worker that still holds
  /// its ticket must not take the new count for the old call's. Reading the new count or task shows it the closed
  /// ticket.
  void publish(const detail::TaskRef* task, std::size_t n) {
    const std::uint64_t call = call_of(ticket_.load(std::memory_order_relaxed));
    ticket_.store(call << 32 | most_tasks, std::memory_order_relaxed);
    task_.store(task, std::memory_order_release);
    count_.store(n, std::memory_order_release);
    finished_.store(0, std::memory_order_relaxed);
    ticket_.store((call + 1) << 32);
    wake(published_);
  }
  static constexpr std::uint64_t call_of(std::uint64_t ticket) noexcept { return ticket >> 32; }

  /// Claims and runs tasks until none is left.
  void work_off() {
    std::size_t mine = 0;
    std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
    for (;;) {
      // These may belong to a later call than the ticket; then the exchange fails. Once it has succeeded, and until
      // `mine` is handed in, the call cannot end.
      const detail::TaskRef* task = task_.load(std::memory_order_acquire);
      const std::size_t i = ticket & most_tasks;
      if (i >= count_.load(std::memory_order_acquire)) break;
      if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acquire)) continue;
      run(*task, i);
      ++mine;
      ticket = ticket_.load(std::memory_order_acquire);
    }
    if (mine == 0) return;
    const std::size_t n = count_.load(std::memory_order_relaxed);
    if (finished_.fetch_add(mine) + mine == n) wake(done_);
  }

  void run(const detail::TaskRef& task, std::size_t i) {
    inside_task() = true;
#if defined(__cpp_exceptions)
    try {
      if (!failed_.load(std::memory_order_relaxed)) task(i);
    } catch (...) {
      std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      failed_.store(true, std::memory_order_relaxed);
    }
#else
    task(i);
#endif
    inside_task() = false;
  }

  void work() {
    std::uint64_t seen = 0;
    for (;;) {
      wait_until([&] { return call_of(ticket_.load()) != seen || stop_.load(std::memory_order_relaxed); }, published_);
      seen = call_of(ticket_.load(std::memory_order_acquire));
      if (stop_.load(std::memory_order_relaxed)) return;
      work_off();
    }
  }

  std::mutex turn_;   // one parallel_for at a time
  std::mutex mutex_;  // guards sleep and error_
  std::condition_variable published_;
  std::condition_variable done_;
  std::atomic<std::size_t> sleeping_{0};
  std::atomic<const detail::TaskRef*> task_{nullptr};
  std::atomic<std::size_t> count_{0};
  std::atomic<std::uint64_t> ticket_{0};  // call · 2³² + next task
  std::atomic<std::size_t> finished_{0};
  std::atomic<bool> failed_{false};
  std::atomic<bool> stop_{false};
  std::exception_ptr error_;
  std::unique_ptr<detail::Worker[]> workers_;
  std::size_t started_ = 0;
};

}  // namespace losa::inline v0
