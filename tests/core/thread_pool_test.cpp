#include <losa/core/machine.hpp>
#include <losa/core/thread_pool.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <limits>
#include <mutex>
#include <new>
#include <set>
#include <string>
#include <thread>
#include <vector>

// The system refuses threads when a test says so. The sanitizers have a pthread_create of their own, which must stay.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED
#endif
#endif
#if defined(__linux__) && !defined(SANITIZED) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define MAY_REFUSE
#include <dlfcn.h>
#include <pthread.h>

namespace {
std::atomic<long> grants{std::numeric_limits<long>::max()};  // threads that the system still gives
}

extern "C" [[gnu::visibility("default")]] int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                                                             void* (*run)(void*), void* argument) {
  static const auto real = reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
  return grants.fetch_sub(1) > 0 ? real(thread, attributes, run, argument) : EAGAIN;
}
#endif

namespace {

template <class E>
void check_each_index_once(E&& executor, std::size_t n) {
  std::vector<std::atomic<int>> calls(n);
  executor.parallel_for(n, [&](std::size_t i) { ++calls.at(i); });
  for (const std::atomic<int>& c : calls) CHECK(c == 1);
}

}  // namespace

TEST_CASE("thread pool: more than one thread works") {
  losa::ThreadPool pool(3);
  std::mutex mutex;
  std::set<std::thread::id> threads;
  std::atomic<int> arrived{0};
  // The three tasks wait for one another, so three threads must run them.
  pool.parallel_for(3, [&](std::size_t) {
    ++arrived;
    while (arrived < 3) std::this_thread::yield();
    std::lock_guard lock(mutex);
    threads.insert(std::this_thread::get_id());
  });
  CHECK(threads.size() == 3);
}

TEST_CASE("thread pool: work reaches workers that have gone to sleep, again and again") {
  losa::ThreadPool pool(3);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    check_each_index_once(pool, 50);
  }
  for (int round = 0; round < 2000; ++round) {
    std::atomic<std::size_t> sum{0};
    pool.parallel_for(5, [&](std::size_t i) { sum += i; });
    REQUIRE(sum == 10);
  }
}

TEST_CASE("thread pool: a worker that is late takes no task of another call, whatever the numbers of tasks") {
  losa::ThreadPool pool(4);
  std::vector<std::atomic<int>> calls(48);
  std::size_t wrong = 0;
  for (std::size_t round = 0; round < 30000; ++round) {
    const std::size_t n = 2 + round * 7 % 40;
    for (std::atomic<int>& c : calls) c = 0;
    pool.parallel_for(n, [&](std::size_t i) { ++calls[i]; });
    for (std::size_t i = 0; i < calls.size(); ++i) wrong += calls[i] != (i < n);
  }
  CHECK(wrong == 0);
}

TEST_CASE("thread pool: calls from inside a task run on that thread") {
  losa::ThreadPool pool(3);
  losa::ThreadPool other(2);
  std::vector<std::atomic<int>> calls(20 * 30);
  std::atomic<int> strayed{0};
  pool.parallel_for(20, [&](std::size_t i) {
    const auto self = std::this_thread::get_id();
    pool.parallel_for(15, [&](std::size_t j) {
      ++calls[i * 30 + j];
      strayed += std::this_thread::get_id() != self;
    });
    other.parallel_for(15, [&](std::size_t j) { ++calls[i * 30 + 15 + j]; });
  });
  for (const std::atomic<int>& c : calls) CHECK(c == 1);
  CHECK(strayed == 0);
}

TEST_CASE("thread pool: several threads may call at once") {
  losa::ThreadPool pool(3);
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t)
    callers.emplace_back([&] {
      for (int round = 0; round < 100; ++round) {
        std::vector<std::atomic<int>> calls(37);
        pool.parallel_for(37, [&](std::size_t i) { ++calls[i]; });
        for (const std::atomic<int>& c : calls) wrong += c != 1;
      }
    });
  for (std::thread& caller : callers) caller.join();
  CHECK(wrong == 0);
}

#if defined(MAY_REFUSE)

namespace {

/// Gives `n` threads and refuses the next ones, until it ends.
struct Grant {
  explicit Grant(long n) { grants = n; }
  ~Grant() { grants = std::numeric_limits<long>::max(); }
};

std::size_t threads_alive() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return static_cast<std::size_t>(std::distance(begin(tasks), end(tasks)));
}

/// True once no more than n threads are alive; one that has been joined stays listed for a moment.
bool falls_to(std::size_t n) {
  for (int i = 0; i < 2000 && threads_alive() > n; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return threads_alive() <= n;
}

}  // namespace

TEST_CASE("thread pool: a refused thread is one error, and those that were started have ended") {
  const std::size_t before = threads_alive();
  for (long given : {0, 1, 5}) {
    CAPTURE(given);
    std::string message;
    try {
      const Grant grant(given);
      losa::ThreadPool pool(8);
    } catch (const losa::UnsupportedError& error) {
      message = error.what();
    }
    CHECK(message == "ThreadPool: " + std::to_string(given + 1) +
                         " of 8 threads could be had (Resource temporarily unavailable); ask for fewer");
    CHECK(falls_to(before));
  }
}

TEST_CASE("thread pool: with fewer threads than it may have it works on") {
  const std::size_t before = threads_alive();
  for (std::size_t given : {0u, 1u, 3u, 7u, 20u}) {
    CAPTURE(given);
    const Grant grant(static_cast<long>(given));
    losa::ThreadPool pool(losa::AtMost{8});
    CHECK(pool.concurrency() == std::min<std::size_t>(given, 7) + 1);
    for (std::size_t n : {0u, 1u, 2u, 100u}) check_each_index_once(pool, n);
    CHECK_THROWS_AS(pool.parallel_for(100, [](std::size_t) { throw std::bad_alloc(); }), std::bad_alloc);
    check_each_index_once(pool, 50);
  }
  CHECK(falls_to(before));
}

TEST_CASE("thread pool: numbers of threads that no system has") {
  constexpr std::size_t most = std::numeric_limits<std::size_t>::max();
  const Grant grant(2);
  CHECK_THROWS_AS(losa::ThreadPool{most}, losa::UnsupportedError);
  CHECK_THROWS_AS(losa::ThreadPool{most / 8}, losa::UnsupportedError);
  grants = 2;
  CHECK(losa::ThreadPool(losa::AtMost{most}).concurrency() == 3);
}

#endif

TEST_CASE("thread pool: of threads that need not be many") {
  CHECK(losa::ThreadPool(losa::AtMost{0}).concurrency() == 1);
  CHECK(losa::ThreadPool(losa::AtMost{1}).concurrency() == 1);
  CHECK(losa::ThreadPool(losa::AtMost{3}).concurrency() == 3);
  CHECK(losa::ThreadPool::hardware_threads() == losa::usable_threads());
}
