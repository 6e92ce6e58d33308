// SparseGPT's cubic parts on real layer sizes, square layers, in double: the inverse factor of the Hessian (2n³/3
// flops) and the sweep over a weight (n, n) at 50 % (n³ flops) whose factor is there already, and XᵀX of 1,024 tokens
// before them (1,024·n² flops). `GFlop/s` is per second of one thread's time unless `threads` says otherwise.
//
//   losa_sparsegpt_bench --benchmark_filter='n:1536'

#include <benchmark/benchmark.h>

#include <any>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <losa/calibrate/hessian.hpp>
#include <losa/core/random.hpp>
#include <losa/core/thread_pool.hpp>
#include <losa/mask/sparsegpt.hpp>

namespace {

std::vector<float> numbers(std::size_t n, std::uint64_t stream) {
  std::vector<float> v(n);
  for (std::size_t i = 0; i < n; ++i)
    v[i] = static_cast<float>(losa::Random{.seed = 1, .stream = stream}.uniform(i)) - 0.5f;
  return v;
}

losa::Hessian hessian_of(std::size_t n, losa::ThreadPool& pool) {
  losa::Hessian hessian(n);
  const std::vector<float> x = numbers(1024 * n, 0);
  hessian.add(losa::view(x.data(), 1024, n), pool);
  return hessian;
}

void report(benchmark::State& state, double flops) {
  state.counters["GFlop/s"] = benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

void hessian(benchmark::State& state) {
  const auto n = static_cast<std::size_t>(state.range(0));
  losa::ThreadPool pool(static_cast<std::size_t>(state.range(1)));
  losa::Hessian sum(n);
  const std::vector<float> x = numbers(1024 * n, 0);
  for (auto _ : state) sum.add(losa::view(x.data(), 1024, n), pool);
  report(state, 1024.0 * static_cast<double>(n) * static_cast<double>(n));
}

void factor(benchmark::State& state) {
  const auto n = static_cast<std::size_t>(state.range(0));
  losa::ThreadPool pool(static_cast<std::size_t>(state.range(1)));
  const losa::Hessian seen = hessian_of(n, pool);
  for (auto _ : state) benchmark::DoNotOptimize(losa::inverse_factor(seen.matrix(), {}, pool));
  const auto size = static_cast<double>(n);
  report(state, 2 * size * size * size / 3);
}

void prune(benchmark::State& state) {
  const auto n = static_cast<std::size_t>(state.range(0));
  losa::ThreadPool pool(static_cast<std::size_t>(state.range(1)));
  const losa::Hessian seen = hessian_of(n, pool);
  std::any derived;
  const losa::LayerStatistics statistics{.tokens = 1024, .hessian = seen.matrix(), .derived = &derived};
  const std::vector<float> weight = numbers(n * n, 1);
  losa::SparseGpt policy;
  std::vector<float> work = weight;
  const losa::PruneTask task{.pattern = losa::Unstructured{0.5}, .executor = pool};
  policy.prune(losa::view(work.data(), n, n), statistics, task);
  for (auto _ : state) {
    work = weight;
    benchmark::DoNotOptimize(policy.prune(losa::view(work.data(), n, n), statistics, task));
  }
  const auto size = static_cast<double>(n);
  report(state, size * size * size);
}

void sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"n", "threads"})->ArgsProduct({{576, 1536, 4096}, {1, 2}})->Unit(benchmark::kMillisecond)->UseRealTime();
}
BENCHMARK(hessian)->Apply(sizes);
BENCHMARK(factor)->Apply(sizes);
BENCHMARK(prune)->Apply(sizes);

}  // namespace
