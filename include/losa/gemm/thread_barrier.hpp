#pragma once
// A barrier of threads that all run, in 64 bytes of somebody's memory. It spins, and gives its time slice away when
// that takes long: for threads that work on one product together, not for waiting.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>

namespace losa::inline v0::detail {

class ThreadBarrier {
 public:
  /// Returns when `threads` have called it. May be used again and again.
  void wait(std::size_t threads) noexcept {
    const std::uint32_t round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    // A phase of one token takes microseconds, a time slice milliseconds.
    for (int spins = 4096; round_.load(std::memory_order_acquire) == round;) {
      if (spins == 0)
        std::this_thread::yield();
      else
        --spins;
    }
  }

 private:
  std::atomic<std::uint32_t> arrived_{0};
  std::atomic<std::uint32_t> round_{0};
};
static_assert(sizeof(ThreadBarrier) <= 64);

}  // namespace losa::inline v0::detail
