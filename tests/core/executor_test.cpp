#include <losa/core/executor.hpp>
#include <losa/core/thread_pool.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

// Every index of [0, n) exactly once.
template <class E>
void check_each_index_once(E&& executor, std::size_t n) {
  std::vector<std::atomic<int>> calls(n);
  executor.parallel_for(n, [&](std::size_t i) { ++calls.at(i); });
  for (const std::atomic<int>& c : calls) CHECK(c == 1);
}

// A caller's own executor: backwards, to show that order is nobody's promise.
struct Backwards {
  std::size_t calls = 0;
  std::size_t concurrency() const { return 5; }
  template <class F>
  void parallel_for(std::size_t n, F&& f) {
    ++calls;
    while (n-- > 0) f(n);
  }
};

}  // namespace

static_assert(losa::Executor<losa::Serial>);
static_assert(losa::Executor<losa::ThreadPool>);
static_assert(losa::Executor<losa::ExecutorRef>);
static_assert(losa::Executor<Backwards>);
static_assert(!losa::Executor<int>);

TEST_CASE("executor: every index is called exactly once") {
  losa::ThreadPool one(1);
  losa::ThreadPool two(2);
  losa::ThreadPool three(3);
  Backwards backwards;
  for (std::size_t n : {0u, 1u, 2u, 3u, 7u, 64u, 1000u}) {
    check_each_index_once(losa::Serial{}, n);
    check_each_index_once(losa::ExecutorRef{}, n);
    check_each_index_once(one, n);
    check_each_index_once(two, n);
    check_each_index_once(three, n);
    check_each_index_once(losa::ExecutorRef(three), n);
    check_each_index_once(losa::ExecutorRef(backwards), n);
  }
  CHECK(backwards.calls == 5);  // 0 and 1 need no executor
}

TEST_CASE("executor: concurrency") {
  CHECK(losa::Serial{}.concurrency() == 1);
  CHECK(losa::ExecutorRef{}.concurrency() == 1);
  CHECK(losa::ThreadPool(0).concurrency() == 1);
  losa::ThreadPool three(3);
  CHECK(three.concurrency() == 3);
  CHECK(losa::ExecutorRef(three).concurrency() == 3);
  Backwards backwards;
  CHECK(losa::ExecutorRef(backwards).concurrency() == 5);
  CHECK(losa::ThreadPool::hardware_threads() >= 1);
  const losa::ExecutorRef reference = three;
  const losa::ExecutorRef copy = reference;
  CHECK(copy.concurrency() == 3);
}

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

TEST_CASE("executor: an exception reaches the caller and the pool stays usable") {
  for (std::size_t threads : {1u, 2u, 3u}) {
    losa::ThreadPool pool(threads);
    for (int round = 0; round < 20; ++round) {
      std::string message;
      try {
        pool.parallel_for(100, [&](std::size_t i) {
          if (i == 37) throw std::runtime_error("task 37");
        });
      } catch (const std::runtime_error& error) {
        message = error.what();
      }
      CHECK(message == "task 37");
      check_each_index_once(pool, 64);
    }
    // Every task throws: one of them arrives.
    CHECK_THROWS_AS(pool.parallel_for(10, [](std::size_t) { throw std::logic_error("all"); }), std::logic_error);
  }
  CHECK_THROWS_AS(losa::ExecutorRef{}.parallel_for(3, [](std::size_t) { throw std::logic_error("x"); }),
                  std::logic_error);
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

TEST_CASE("executor: tasks see a callable by reference, also a const one") {
  const auto task = [](std::size_t) {};
  losa::ThreadPool pool(2);
  pool.parallel_for(3, task);
  losa::ExecutorRef(pool).parallel_for(3, task);
  std::size_t sum = 0;
  auto counting = [&sum](std::size_t i) mutable { sum += i; };
  losa::ExecutorRef{}.parallel_for(4, counting);
  CHECK(sum == 6);
}
