// Sparse products against dense ones, 4096 × 4096, weights cold (copies larger than the caches take turns).
//
//   losa_gemm_bench --benchmark_filter='T:64'            time of one product; GB/s of weights read; GFLOP/s
//   LOSA_ISA=portable losa_gemm_bench                    another backend
//
// `GFLOP/s` counts 2 · kept · tokens (2 · out · in · tokens for the dense products), `GB/s` the bytes of weights once.
// Everything runs on one thread unless `threads` says otherwise; compare ratios within one run, not between runs.

#include <benchmark/benchmark.h>

#if defined(EIGEN_USE_BLAS)
#define LOSA_BENCH_BLAS 1
#undef EIGEN_USE_BLAS  // Eigen's own kernels stand beside those of the BLAS
#endif

#include <Eigen/Core>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <losa/core/random.hpp>
#include <losa/core/thread_pool.hpp>
#include <losa/gemm.hpp>
#include <losa/gemm/plain.hpp>

#if defined(LOSA_BENCH_BLAS)
extern "C" {
void sgemm_(const char* transa, const char* transb, const int* m, const int* n, const int* k, const float* alpha,
            const float* a, const int* lda, const float* b, const int* ldb, const float* beta, float* c,
            const int* ldc);
void openblas_set_num_threads(int threads) __attribute__((weak));
}
#endif

namespace {

constexpr std::size_t size = 4096;
constexpr std::size_t cold_bytes = std::size_t{400} << 20;

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

std::vector<float> numbers(std::size_t n, std::uint64_t stream) {
  std::vector<float> v(n);
  // Cheap and good enough for a benchmark: a linear congruence started by the stream.
  std::uint32_t state = static_cast<std::uint32_t>(stream) * 2654435761u + 12345u;
  for (float& x : v) {
    state = state * 1664525u + 1013904223u;
    x = static_cast<float>(state >> 8) * 0x1p-23f - 1.0f;
  }
  return v;
}

losa::Mask random_mask(double sparsity, std::size_t rows = size) {
  losa::Mask mask(rows, size);
  std::uint64_t i = 0;
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < size; ++c) mask.set(r, c, losa::Random{.seed = 1}.uniform(i++) >= sparsity);
  return mask;
}

template <class T>
auto pack_weight(int percent) {
  static const std::vector<float> weight = numbers(size * size, 1);
  const auto dense = losa::view(weight.data(), size, size);
  const losa::Mask mask = random_mask(percent / 100.0);
  if constexpr (losa::Storage<T>) {
    return losa::pack_as<T>(dense, mask);
  } else {
    return losa::quantize<T>(losa::pack(dense, mask));
  }
}

/// Packed matrices that together exceed the caches; made once per type and sparsity. Each is packed anew: copies would
/// share their masks.
template <class T>
auto& cold(int percent) {
  static int made_for = -1;
  static std::vector<decltype(pack_weight<T>(0))> copies;
  if (made_for != percent) {
    copies.clear();
    do copies.push_back(pack_weight<T>(percent));
    while (copies.size() * copies[0].bytes() < cold_bytes);
    made_for = percent;
  }
  return copies;
}

std::vector<std::vector<float>>& cold_dense() {
  static std::vector<std::vector<float>> copies(cold_bytes / (size * size * sizeof(float)) + 1,
                                                numbers(size * size, 1));
  return copies;
}

void count(benchmark::State& state, double weights, double bytes, double tokens) {
  const auto runs = static_cast<double>(state.iterations());
  state.counters["GFLOP/s"] = benchmark::Counter(2e-9 * weights * tokens * runs, benchmark::Counter::kIsRate);
  state.counters["GB/s"] = benchmark::Counter(1e-9 * bytes * runs, benchmark::Counter::kIsRate);
}

template <class T>
void spmm(benchmark::State& state) {
  auto& weights = cold<T>(static_cast<int>(state.range(1)));
  const auto tokens = static_cast<std::size_t>(state.range(0));
  losa::ThreadPool pool(static_cast<std::size_t>(state.range(2)));
  const std::vector<float> x = numbers(tokens * size, 2);
  std::vector<float> y(tokens * size);
  std::size_t i = 0;
  for (auto _ : state) {
    losa::spmm(weights[i++ % weights.size()], losa::view(x.data(), tokens, size), losa::view(y.data(), tokens, size),
               pool);
    benchmark::ClobberMemory();
  }
  count(state, static_cast<double>(weights[0].kept()), static_cast<double>(weights[0].bytes()),
        static_cast<double>(tokens));
  state.SetLabel(std::string(losa::backend_name()));
}

/// LLaMA-2-7B's gate and up, which multiply the same activations: apart, or one above the other in one matrix.
template <class T>
void gate_up(benchmark::State& state) {
  constexpr std::size_t out = 11008;
  const bool stacked = state.range(1) != 0;
  const auto tokens = static_cast<std::size_t>(state.range(0));
  const std::size_t rows = stacked ? 2 * out : out;
  static std::vector<losa::PackedMatrix<T>> weights;  // larger than the caches, and a new one for every product
  if (weights.empty() || weights[0].rows() != rows) {
    weights.clear();
    const std::vector<float> weight = numbers(rows * size, 1);
    const losa::Mask mask = random_mask(0.7, rows);
    for (std::size_t i = 0; i < (stacked ? 4 : 8); ++i)
      weights.push_back(losa::pack_as<T>(losa::view(weight.data(), rows, size), mask));
  }
  losa::ThreadPool pool(static_cast<std::size_t>(state.range(2)));
  const std::vector<float> x = numbers(tokens * size, 2);
  std::vector<float> y(tokens * 2 * out);
  std::size_t i = 0;
  for (auto _ : state) {
    for (std::size_t first = 0; first < 2 * out; first += rows)
      losa::spmm(weights[i++ % weights.size()], losa::view(x.data(), tokens, size),
                 losa::MatrixView<float>{y.data() + first, tokens, rows, 2 * out}, pool);
    benchmark::ClobberMemory();
  }
  count(state, 2.0 * out * size * 0.3, 2.0 * out / static_cast<double>(rows) * static_cast<double>(weights[0].bytes()),
        static_cast<double>(tokens));
  state.SetLabel(std::string(losa::backend_name()));
}

void spmm_transposed(benchmark::State& state) {
  auto& weights = cold<float>(static_cast<int>(state.range(1)));
  const auto tokens = static_cast<std::size_t>(state.range(0));
  losa::ThreadPool pool(static_cast<std::size_t>(state.range(2)));
  const std::vector<float> g = numbers(tokens * size, 2);
  std::vector<float> dx(tokens * size);
  std::size_t i = 0;
  for (auto _ : state) {
    losa::spmm_transposed(weights[i++ % weights.size()], losa::view(g.data(), tokens, size),
                          losa::view(dx.data(), tokens, size), pool);
    benchmark::ClobberMemory();
  }
  count(state, static_cast<double>(weights[0].kept()), static_cast<double>(weights[0].bytes()),
        static_cast<double>(tokens));
  state.SetLabel(std::string(losa::backend_name()));
}

void sddmm(benchmark::State& state) {
  auto& weights = cold<float>(static_cast<int>(state.range(1)));
  const auto tokens = static_cast<std::size_t>(state.range(0));
  losa::ThreadPool pool(static_cast<std::size_t>(state.range(2)));
  const std::vector<float> g = numbers(tokens * size, 2);
  const std::vector<float> x = numbers(tokens * size, 3);
  auto result = weights[0].like();
  for (auto _ : state) {
    losa::sddmm(losa::view(g.data(), tokens, size), losa::view(x.data(), tokens, size), result, pool);
    benchmark::ClobberMemory();
  }
  count(state, static_cast<double>(result.kept()), static_cast<double>(result.bytes()), static_cast<double>(tokens));
  state.SetLabel(std::string(losa::backend_name()));
}

/// W + σBA at the kept positions; T is the rank.
void refresh(benchmark::State& state) {
  auto& weights = cold<float>(static_cast<int>(state.range(1)));
  const auto rank = static_cast<std::size_t>(state.range(0));
  losa::ThreadPool pool(static_cast<std::size_t>(state.range(2)));
  const std::vector<float> bt = numbers(rank * size, 2);
  const std::vector<float> a = numbers(rank * size, 3);
  auto result = weights[0].like();
  std::size_t i = 0;
  for (auto _ : state) {
    losa::refresh_values(result, weights[i++ % weights.size()].values(), losa::view(bt.data(), rank, size),
                         losa::view(a.data(), rank, size), 2.0f, pool);
    benchmark::ClobberMemory();
  }
  count(state, static_cast<double>(result.kept()), static_cast<double>(result.bytes()), static_cast<double>(rank));
  state.SetLabel(std::string(losa::backend_name()));
}

/// From dense weights and a mask; the memory of the result is fresh every time. GB/s of what is read.
template <class T>
void pack(benchmark::State& state) {
  auto& weights = cold_dense();
  const losa::Mask mask = random_mask(static_cast<double>(state.range(0)) / 100);
  losa::ThreadPool pool(static_cast<std::size_t>(state.range(1)));
  std::size_t i = 0;
  for (auto _ : state) {
    const auto dense = losa::view(std::as_const(weights[i++ % weights.size()]).data(), size, size);
    const auto packed = losa::pack_as<T>(dense, mask, pool);
    benchmark::DoNotOptimize(packed.values().data());
  }
  count(state, static_cast<double>(mask.kept()), static_cast<double>(size * size) * (sizeof(float) + 1.0 / 8), 0);
}

/// From what a compressed checkpoint holds: mask bytes and values in row-major order. Bytes are those read.
template <class T>
void pack_from_bytes(benchmark::State& state) {
  const auto packed = pack_weight<T>(static_cast<int>(state.range(0)));
  std::vector<std::byte> mask(size * size / 8);
  std::vector<T> values;
  for (std::size_t r = 0; r < size; ++r)
    packed.for_each_kept(r, [&](std::size_t c, std::size_t k) {
      mask[(r * size + c) / 8] |= std::byte{1} << (c % 8);
      values.push_back(packed.values()[k]);
    });
  for (auto _ : state) {
    const auto made = losa::PackedMatrix<T>::from_bytes(size, size, mask, std::as_bytes(std::span(values)));
    benchmark::DoNotOptimize(made.values().data());
  }
  count(state, static_cast<double>(values.size()), static_cast<double>(mask.size() + values.size() * sizeof(T)), 0);
}

/// From dense weights whose zeros are what is pruned, mask included, on one thread; the argument is a
/// losa::plain::Type.
void plain_pack(benchmark::State& state) {
  const auto type = static_cast<losa::plain::Type>(state.range(0));
  std::vector<float> weight = numbers(size * size, 1);
  const losa::Mask mask = random_mask(0.7);
  for (std::size_t i = 0; i < weight.size(); ++i)
    if (!mask(i / size, i % size)) weight[i] = 0;
  for (auto _ : state) {
    const auto packed = losa::plain::pack(weight.data(), size, size, size, nullptr, type);
    benchmark::DoNotOptimize(packed.kept());
  }
  count(state, static_cast<double>(mask.kept()), static_cast<double>(size * size * sizeof(float)), 0);
}

void dense_eigen(benchmark::State& state) {
  auto& weights = cold_dense();
  const auto tokens = static_cast<Eigen::Index>(state.range(0));
  const Matrix x = Matrix::Random(tokens, size);
  Matrix y(tokens, size);
  std::size_t i = 0;
  for (auto _ : state) {
    const Eigen::Map<const Matrix> w(weights[i++ % weights.size()].data(), size, size);
    if (tokens == 1) {
      y.row(0).transpose().noalias() = w * x.row(0).transpose();
    } else {
      y.noalias() = x * w.transpose();
    }
    benchmark::ClobberMemory();
  }
  count(state, static_cast<double>(size * size), static_cast<double>(size * size * sizeof(float)),
        static_cast<double>(tokens));
}

#if defined(LOSA_BENCH_BLAS)
void dense_blas(benchmark::State& state) {
  if (openblas_set_num_threads != nullptr) openblas_set_num_threads(1);
  auto& weights = cold_dense();
  const auto tokens = static_cast<int>(state.range(0));
  const int n = static_cast<int>(size);
  const float one = 1;
  const float zero = 0;
  const std::vector<float> x = numbers(static_cast<std::size_t>(tokens) * size, 2);
  std::vector<float> y(static_cast<std::size_t>(tokens) * size);
  std::size_t i = 0;
  for (auto _ : state) {
    // Row-major y (tokens, out) = x · Wᵀ is column-major (out, tokens) = W · xᵀ.
    sgemm_("T", "N", &n, &tokens, &n, &one, weights[i++ % weights.size()].data(), &n, x.data(), &n, &zero, y.data(),
           &n);
    benchmark::ClobberMemory();
  }
  count(state, static_cast<double>(size * size), static_cast<double>(size * size * sizeof(float)),
        static_cast<double>(tokens));
}
BENCHMARK(dense_blas)->ArgName("T")->Arg(1)->Arg(8)->Arg(64)->Arg(512)->Unit(benchmark::kMillisecond);
#endif

BENCHMARK(dense_eigen)->ArgName("T")->Arg(1)->Arg(8)->Arg(64)->Arg(512)->Unit(benchmark::kMillisecond);

void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"T", "sparsity", "threads"})->Unit(benchmark::kMillisecond);
  for (int percent : {50, 70})
    for (int tokens : {1, 2, 4, 8, 16, 32, 64, 512}) b->Args({tokens, percent, 1});
  b->Args({1, 0, 1})->Args({512, 0, 1});
}
void training_shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"T", "sparsity", "threads"})->Unit(benchmark::kMillisecond);
  for (int tokens : {8, 64, 512}) b->Args({tokens, 70, 1});
}
void threaded(benchmark::internal::Benchmark* b) {
  b->ArgNames({"T", "sparsity", "threads"})->Unit(benchmark::kMillisecond)->UseRealTime();
  for (int tokens : {1, 8, 64, 512}) b->Args({tokens, 70, 2});
}

BENCHMARK(spmm<float>)->Apply(shapes);
BENCHMARK(spmm<float>)->Apply(threaded);
BENCHMARK(spmm<losa::bf16>)->Apply(training_shapes);
BENCHMARK(spmm<losa::bf16>)->ArgNames({"T", "sparsity", "threads"})->Args({1, 70, 1})->Unit(benchmark::kMillisecond);
BENCHMARK(spmm<losa::Int8>)->Apply(training_shapes);
BENCHMARK(spmm<losa::Int4>)->Apply(training_shapes);
BENCHMARK(spmm<losa::bf16>)->Apply(threaded);
BENCHMARK(spmm<losa::Int8>)->Apply(threaded);
BENCHMARK(spmm<losa::Int4>)->Apply(threaded);
BENCHMARK(spmm<losa::Int8>)->ArgNames({"T", "sparsity", "threads"})->Args({1, 70, 1})->Unit(benchmark::kMillisecond);
BENCHMARK(spmm<losa::Int4>)->ArgNames({"T", "sparsity", "threads"})->Args({1, 70, 1})->Unit(benchmark::kMillisecond);
BENCHMARK(spmm<losa::f16>)->ArgNames({"T", "sparsity", "threads"})->Args({1, 70, 1})->Unit(benchmark::kMillisecond);
void gates(benchmark::internal::Benchmark* b) {
  b->ArgNames({"T", "stacked", "threads"})->Unit(benchmark::kMillisecond)->UseRealTime();
  for (int stacked : {0, 1})  // the weights are made anew where this changes
    for (int tokens : {1, 8, 64, 512}) b->Args({tokens, stacked, 2});
}
BENCHMARK(gate_up<float>)->Apply(gates);
BENCHMARK(gate_up<losa::bf16>)->Apply(gates);
BENCHMARK(spmm_transposed)->Apply(training_shapes);
BENCHMARK(sddmm)->Apply(training_shapes);
void packings(benchmark::internal::Benchmark* b) {
  b->ArgNames({"sparsity", "threads"})->Unit(benchmark::kMillisecond)->UseRealTime();
  for (int percent : {50, 70})
    for (int threads : {1, 2}) b->Args({percent, threads});
}
BENCHMARK(pack<float>)->Apply(packings);
BENCHMARK(pack<losa::bf16>)->Apply(packings);
BENCHMARK(pack_from_bytes<float>)->ArgName("sparsity")->Arg(50)->Arg(70)->Unit(benchmark::kMillisecond);
BENCHMARK(pack_from_bytes<losa::bf16>)->ArgName("sparsity")->Arg(50)->Arg(70)->Unit(benchmark::kMillisecond);
BENCHMARK(plain_pack)->ArgName("type")->DenseRange(0, 8)->Unit(benchmark::kMillisecond);
BENCHMARK(refresh)
    ->ArgNames({"rank", "sparsity", "threads"})
    ->Args({8, 70, 1})
    ->Args({16, 70, 1})
    ->Unit(benchmark::kMillisecond);

}  // namespace
