#pragma once
// A thread that the system may refuse without an exception: ThreadPool has to tell a refusal from success also in a
// program built without exceptions, where std::thread would end it.
//
//   losa::detail::Worker worker;
//   if (const std::error_code refused = worker.start([](void* x) -> void* { ...; return nullptr; }, &x)) ...
//   worker.join();

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#else
#include <new>
#include <thread>
#endif

#include <cstddef>
#include <system_error>

namespace losa::inline v0::detail {

/// Started at most once; whoever has started it joins it.
class Worker {
 public:
  using Entry = void* (*)(void*);

#if defined(__unix__) || defined(__APPLE__)
  /// Runs entry(argument) on a new thread, or says why the system does not give one.
  std::error_code start(Entry entry, void* argument) noexcept {
    pthread_attr_t attributes;
    if (const int refused = ::pthread_attr_init(&attributes)) return {refused, std::generic_category()};
    // musl gives 128 KiB, `ulimit -s` as little as it is told; a BLAS that a task calls may take more.
    constexpr std::size_t least_stack = std::size_t{1} << 20;
    std::size_t stack = 0;
    if (::pthread_attr_getstacksize(&attributes, &stack) == 0 && stack < least_stack)
      ::pthread_attr_setstacksize(&attributes, least_stack);
    const int refused = ::pthread_create(&thread_, &attributes, entry, argument);
    ::pthread_attr_destroy(&attributes);
    return {refused, std::generic_category()};
  }
  void join() noexcept { ::pthread_join(thread_, nullptr); }

 private:
  pthread_t thread_;
#else
  std::error_code start(Entry entry, void* argument) noexcept {
#if defined(__cpp_exceptions)
    try {
      thread_ = std::thread(entry, argument);
      return {};
    } catch (const std::system_error& refused) {
      return refused.code();
    } catch (const std::bad_alloc&) {
      return std::make_error_code(std::errc::not_enough_memory);
    }
#else
    thread_ = std::thread(entry, argument);
    return {};
#endif
  }
  void join() noexcept { thread_.join(); }

 private:
  std::thread thread_;
#endif
};

}  // namespace losa::inline v0::detail
