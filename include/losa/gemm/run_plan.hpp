#pragma once
// A plan on an executor, with scratch space that the threads keep (scratch.hpp).

#include <cstddef>

#include <losa/core/executor.hpp>
#include <losa/gemm/operation.hpp>
#include <losa/gemm/plan.hpp>
#include <losa/gemm/scratch.hpp>

namespace losa::inline v0::detail {

/// `arguments` as Plan::expect() accepts them. Throws std::bad_alloc if there is no memory for scratch.
template <class Product>
void run_plan(const Plan<Product>& plan, const Product& arguments, ExecutorRef executor) {
  const Scratch shared(plan.shared_bytes());
  for (std::size_t phase = 0; phase < plan.phases(); ++phase)
    executor.parallel_for(plan.tasks(phase), [&](std::size_t task) {
      const Scratch own(plan.own_bytes());
      plan.run(phase, task, arguments, {.shared = shared.data(), .own = own.data()});
    });
}

}  // namespace losa::inline v0::detail
