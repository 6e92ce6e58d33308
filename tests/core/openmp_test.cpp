// Built with -fopenmp where the compiler has it; without, there is nothing to test.
#if defined(_OPENMP)

#include <losa/core/openmp.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <vector>

static_assert(losa::Executor<losa::OpenMp>);

TEST_CASE("openmp: every index once, through the reference too") {
  losa::OpenMp openmp;
  for (std::size_t n : {0u, 1u, 2u, 100u}) {
    std::vector<std::atomic<int>> calls(n);
    openmp.parallel_for(n, [&](std::size_t i) { ++calls.at(i); });
    losa::ExecutorRef(openmp).parallel_for(n, [&](std::size_t i) { ++calls.at(i); });
    for (const std::atomic<int>& c : calls) CHECK(c == 2);
  }
}

TEST_CASE("openmp: the number of threads that was chosen, and no more than may be busy where none was") {
  const losa::OpenMp openmp;
  const int before = omp_get_max_threads();
  const int chosen = omp_get_num_procs() + 1;
  omp_set_num_threads(chosen);
  CHECK(openmp.concurrency() == static_cast<std::size_t>(chosen));
  std::atomic<int> most{0};
  openmp.parallel_for(10, [&](std::size_t) { most = std::max(most.load(), omp_get_num_threads()); });
  CHECK(most == chosen);
  omp_set_num_threads(omp_get_num_procs());
  if (std::getenv("OMP_NUM_THREADS") == nullptr) CHECK(openmp.concurrency() == losa::usable_threads());
  omp_set_num_threads(before);
}

TEST_CASE("openmp: an exception reaches the caller") {
  losa::OpenMp openmp;
  CHECK_THROWS_AS(openmp.parallel_for(50,
                                      [](std::size_t i) {
                                        if (i == 20) throw std::runtime_error("task 20");
                                      }),
                  std::runtime_error);
  std::atomic<int> calls{0};
  openmp.parallel_for(10, [&](std::size_t) { ++calls; });
  CHECK(calls == 10);
}

#endif
