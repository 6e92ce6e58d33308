#include <losa/core/executor.hpp>
#include <losa/core/thread_pool.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <exception>
#include <stdexcept>
#include <string>
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

TEST_CASE("executor: an exception that C++ knows nothing of becomes an error") {
  CHECK_THROWS_WITH_AS(losa::detail::rethrow(nullptr),
                       "parallel_for: a task ended with an exception that is not of C++", losa::Error);
  CHECK_THROWS_AS(losa::detail::rethrow(std::make_exception_ptr(std::logic_error("x"))), std::logic_error);
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
