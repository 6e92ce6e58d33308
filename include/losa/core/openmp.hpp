#pragma once
// Executor over OpenMP's threads, for programs that are built with -fopenmp. Starting threads is OpenMP's business:
// where the system refuses one, libgomp ends the program; losa::ThreadPool does not.

#if !defined(_OPENMP)
#error "losa/core/openmp.hpp needs a compiler run with OpenMP enabled (-fopenmp)"
#endif

#include <omp.h>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>

#include <losa/core/executor.hpp>
#include <losa/core/machine.hpp>

namespace losa::inline v0 {

/// Runs on the OpenMP threads that the program has configured.
struct OpenMp {
  /// OpenMP's number. It is that of the processors where nobody chose another, by omp_set_num_threads or
  /// OMP_NUM_THREADS; then no more than usable_threads(), since OpenMP knows nothing of a container's quota.
  std::size_t concurrency() const {
    static const std::size_t allotted = std::getenv("OMP_NUM_THREADS") == nullptr ? usable_threads() : 0;
    const int threads = omp_get_max_threads();
    const auto n = static_cast<std::size_t>(threads);
    return allotted != 0 && threads == omp_get_num_procs() ? std::min(n, allotted) : n;
  }

  template <class Function>
  void parallel_for(std::size_t n, Function&& f) const {
#if defined(__cpp_exceptions)
    std::exception_ptr error;
    bool failed = false;
#endif
    const int threads = static_cast<int>(concurrency());
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(n); ++i) {
#if defined(__cpp_exceptions)
      try {
        f(static_cast<std::size_t>(i));
      } catch (...) {
#pragma omp critical(losa_openmp_error)
        if (!failed) {
          failed = true;
          error = std::current_exception();
        }
      }
#else
      f(static_cast<std::size_t>(i));
#endif
    }
#if defined(__cpp_exceptions)
    if (failed) detail::rethrow(error);
#endif
  }
};

}  // namespace losa::inline v0
