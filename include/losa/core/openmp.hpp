#pragma once
// Executor over OpenMP's threads, for programs that are built with -fopenmp.

#if !defined(_OPENMP)
#error "losa/core/openmp.hpp needs a compiler run with OpenMP enabled (-fopenmp)"
#endif

#include <omp.h>
#include <cstddef>
#include <cstdint>
#include <exception>

#include <losa/core/executor.hpp>

namespace losa::inline v0 {

/// Runs on the OpenMP threads that the program has configured.
struct OpenMp {
  std::size_t concurrency() const noexcept { return static_cast<std::size_t>(omp_get_max_threads()); }

  template <class Function>
  void parallel_for(std::size_t n, Function&& f) const {
    std::exception_ptr error;
#pragma omp parallel for schedule(dynamic, 1)
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(n); ++i) {
#if defined(__cpp_exceptions)
      try {
        f(static_cast<std::size_t>(i));
      } catch (...) {
#pragma omp critical(losa_openmp_error)
        if (!error) error = std::current_exception();
      }
#else
      f(static_cast<std::size_t>(i));
#endif
    }
    if (error) std::rethrow_exception(error);
  }
};

}  // namespace losa::inline v0
