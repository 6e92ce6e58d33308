#pragma once
// Threads are the caller's. Anything with concurrency() and parallel_for(n, f) is an executor; algorithms take an
// ExecutorRef, which refers to one without owning it and is serial by default. f(i) is called exactly once for every
// i in [0, n), in any order and on any thread; every algorithm of losa gives the same bits whatever that order.
//
//   losa::ThreadPool pool(4);
//   losa::spmm(packed, x, y, pool);

#include <concepts>
#include <cstddef>
#include <exception>
#include <memory>
#include <type_traits>

#include <losa/core/error.hpp>

namespace losa::inline v0 {

namespace detail {

/// Reference to a callable void(size_t).
class TaskRef {
 public:
  template <class Function>
  requires(!std::same_as<std::remove_cvref_t<Function>, TaskRef>) TaskRef(Function&& f)
  noexcept
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(f)))),
        call_([](void* object, std::size_t i) { (*static_cast<std::remove_reference_t<Function>*>(object))(i); }) {}
  void operator()(std::size_t i) const { call_(object_, i); }

 private:
  void* object_;
  void (*call_)(void*, std::size_t);
};

/// Throws what std::current_exception gave for an exception of a task: nothing, if C++ did not make it.
[[__noreturn__]] inline void rethrow(const std::exception_ptr& error) {
  if (error) std::rethrow_exception(error);
  raise<Error>("parallel_for: a task ended with an exception that is not of C++");
}

}  // namespace detail

/// Runs f(0) … f(n−1), each once, and returns when all are done. An exception of f reaches the caller.
template <class ExecutorType>
concept Executor = requires(ExecutorType& executor, detail::TaskRef task, std::size_t n) {
  { executor.concurrency() } -> std::convertible_to<std::size_t>;
  executor.parallel_for(n, task);
};

/// Everything on the calling thread.
struct Serial {
  std::size_t concurrency() const noexcept { return 1; }
  template <class Function>
  void parallel_for(std::size_t n, Function&& f) const {
    for (std::size_t i = 0; i < n; ++i) f(i);
  }
};

/// Non-owning reference to any executor; serial when default-constructed. The executor must outlive the call.
class ExecutorRef {
 public:
  ExecutorRef() noexcept = default;

  template <Executor ExecutorType>
  requires(!std::same_as<std::remove_cv_t<ExecutorType>, ExecutorRef>) ExecutorRef(ExecutorType& executor)
  noexcept
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(executor)))),
        concurrency_(
            [](void* object) { return static_cast<std::size_t>(static_cast<ExecutorType*>(object)->concurrency()); }),
        run_([](void* object, std::size_t n, detail::TaskRef task) {
          static_cast<ExecutorType*>(object)->parallel_for(n, task);
        }) {}

  std::size_t concurrency() const { return object_ == nullptr ? 1 : concurrency_(object_); }

  template <class Function>
  void parallel_for(std::size_t n, Function&& f) const {
    if (object_ == nullptr || n <= 1) {
      Serial{}.parallel_for(n, f);
    } else {
      run_(object_, n, detail::TaskRef(f));
    }
  }

 private:
  void* object_ = nullptr;
  std::size_t (*concurrency_)(void*) = nullptr;
  void (*run_)(void*, std::size_t, detail::TaskRef) = nullptr;
};

}  // namespace losa::inline v0
