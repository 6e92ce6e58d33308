// y = x · (M ⊙ W)ᵀ, dense (Eigen, one thread) against sparse (losa::spmm, one thread), in one run. Weights are cold:
// the benchmark walks through copies that together exceed the last-level cache, as a model's layers do when tokens are
// decoded. Time is per product; `weights` is the bytes of weights that a product reads.
//
//   build/release/bench/losa_gemm_bench --benchmark_filter=4096

#include <benchmark/benchmark.h>
#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <losa/core/random.hpp>
#include <losa/gemm.hpp>

// OpenBLAS's, absent from others.
extern "C" void openblas_set_num_threads(int) __attribute__((weak));

namespace {

// Twice the last-level cache, or 1 GiB where a virtual machine reports that of its whole host.
std::size_t cold_bytes() {
  std::size_t largest = 0;
  for (const auto& cache : benchmark::CPUInfo::Get().caches)
    largest = std::max(largest, static_cast<std::size_t>(cache.size));
  return std::clamp(2 * largest, std::size_t{64} << 20, std::size_t{1} << 30);
}

struct Shape {
  std::size_t out, in, tokens;
};
Shape shape_of(const benchmark::State& state) {
  return {static_cast<std::size_t>(state.range(0)), static_cast<std::size_t>(state.range(1)),
          static_cast<std::size_t>(state.range(2))};
}

std::vector<float> numbers(std::size_t n, std::uint64_t stream) {
  const losa::Random random{.seed = 1, .stream = stream};
  std::vector<float> values(n);
  for (std::size_t i = 0; i < n; ++i) values[i] = static_cast<float>(random.uniform(i) - 0.5);
  return values;
}

// Copies of something that holds `bytes`, enough of them to be cold each time one comes round again.
std::size_t copies(std::size_t bytes) { return cold_bytes() / bytes + 2; }

void report(benchmark::State& state, const Shape& s, std::size_t weight_bytes) {
  state.counters["weights"] = static_cast<double>(weight_bytes);
  state.counters["tokens/s"] =
      benchmark::Counter(static_cast<double>(s.tokens), benchmark::Counter::kIsIterationInvariantRate);
}

void dense(benchmark::State& state) {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Shape s = shape_of(state);
  const auto rows = static_cast<Eigen::Index>(s.out), cols = static_cast<Eigen::Index>(s.in),
             tokens = static_cast<Eigen::Index>(s.tokens);
  const std::vector<float> weight = numbers(s.out * s.in, 0), x = numbers(s.tokens * s.in, 1);
  const std::size_t bytes = weight.size() * sizeof(float);
  const std::vector<Matrix> weights(copies(bytes), Eigen::Map<const Matrix>(weight.data(), rows, cols));
  const Eigen::Map<const Matrix> xs(x.data(), tokens, cols);
  Matrix y(tokens, rows);
  if (openblas_set_num_threads != nullptr) openblas_set_num_threads(1);
  std::size_t next = 0;
  for (auto _ : state) {
    y.noalias() = xs * weights[next].transpose();
    benchmark::DoNotOptimize(y.data());
    next = (next + 1) % weights.size();
  }
  report(state, s, bytes);
}

void sparse(benchmark::State& state) {
  const Shape s = shape_of(state);
  const std::vector<float> weight = numbers(s.out * s.in, 0), x = numbers(s.tokens * s.in, 1);
  const double sparsity = static_cast<double>(state.range(3)) / 100;
  const losa::Random random{.seed = 2};
  losa::Mask mask(s.out, s.in);
  for (std::size_t r = 0; r < s.out; ++r)
    for (std::size_t c = 0; c < s.in; ++c) mask.set(r, c, random.uniform(r * s.in + c) >= sparsity);
  const auto packed = losa::pack(losa::view(weight.data(), s.out, s.in), mask);
  // A copy shares its structure with the original, so cold copies are packed one by one.
  std::vector<losa::PackedMatrix<float>> weights;
  for (std::size_t i = 0; i < copies(packed.bytes()); ++i)
    weights.push_back(losa::pack(losa::view(weight.data(), s.out, s.in), mask));
  std::vector<float> y(s.tokens * s.out);
  std::size_t next = 0;
  for (auto _ : state) {
    losa::spmm(weights[next], losa::view(x.data(), s.tokens, s.in), losa::view(y.data(), s.tokens, s.out));
    benchmark::DoNotOptimize(y.data());
    next = (next + 1) % weights.size();
  }
  state.SetLabel(losa::backend_name().data());
  report(state, s, packed.bytes());
}

void shapes(benchmark::internal::Benchmark* b, const std::vector<std::int64_t>& sparsities) {
  b->ArgNames({"out", "in", "tokens", "zeros%"})->Unit(benchmark::kMicrosecond);
  for (const std::int64_t size : {1024, 4096})
    for (const std::int64_t tokens : {1, 16, 256})
      for (const std::int64_t sparsity : sparsities) b->Args({size, size, tokens, sparsity});
}

BENCHMARK(dense)->Apply([](auto* b) { shapes(b, {0}); });
BENCHMARK(sparse)->Apply([](auto* b) { shapes(b, {50, 70, 90}); });

}  // namespace
