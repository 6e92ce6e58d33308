// This file is compiled for the processor at hand: the vectors are as wide as its registers.
#include "roofs.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace compare {
namespace {

#if defined(__AVX512F__)
constexpr std::size_t vector_bytes = 64;
#elif defined(__AVX__)
constexpr std::size_t vector_bytes = 32;
#else
constexpr std::size_t vector_bytes = 16;
#endif
typedef std::uint64_t Words __attribute__((vector_size(vector_bytes)));
typedef float Floats __attribute__((vector_size(vector_bytes)));
constexpr std::size_t lanes = vector_bytes / sizeof(float);

std::atomic<std::uint64_t> sink;  // results go here, so that the compiler keeps the work

/// Reads [p, p + n) as `streams` sequences that advance together, a cache line each at a time.
template <std::size_t streams, std::size_t ahead>
void read(const Words* p, std::size_t n) {
  constexpr std::size_t line = 64 / vector_bytes;
  const std::size_t part = n / streams / line * line;
  std::array<Words, streams> sums{};
  for (std::size_t i = 0; i < part; i += line)
    for (std::size_t s = 0; s < streams; ++s) {
      if constexpr (ahead != 0) __builtin_prefetch(p + s * part + i + ahead / vector_bytes);
      for (std::size_t j = 0; j < line; ++j) sums[s] ^= p[s * part + i + j];
    }
  std::uint64_t all = 0;
  for (const Words& sum : sums) all ^= sum[0];
  sink += all;
}

void multiply_add(std::size_t times) {
  constexpr std::size_t chains = 12;  // more than latency × ports of any processor at hand, and they fit 16 registers
  std::array<Floats, chains> sums{};
  const Floats factor = Floats{} + 1.0f - 1e-7f * static_cast<float>(sink.load() % 2);
  const Floats term = Floats{} + 1e-7f;
  for (std::size_t i = 0; i < times; ++i)
    for (Floats& sum : sums) sum = sum * factor + term;
  float all = 0;
  for (const Floats& sum : sums) all += sum[0];
  sink += static_cast<std::uint64_t>(all);
}

/// Seconds that all threads take for f(thread), from the moment when all are there.
template <class F>
double together(std::size_t threads, F f) {
  using Clock = std::chrono::steady_clock;
  Clock::time_point start, end;
  std::barrier begin(static_cast<std::ptrdiff_t>(threads), [&]() noexcept { start = Clock::now(); });
  std::barrier finish(static_cast<std::ptrdiff_t>(threads), [&]() noexcept { end = Clock::now(); });
  const auto work = [&](std::size_t thread) {
    begin.arrive_and_wait();
    f(thread);
    finish.arrive_and_wait();
  };
  std::vector<std::thread> others;
  for (std::size_t i = 1; i < threads; ++i) others.emplace_back(work, i);
  work(0);
  for (std::thread& t : others) t.join();
  return std::chrono::duration<double>(end - start).count();
}

}  // namespace

Roofs measure_roofs(std::size_t threads, std::size_t bytes) {
  Roofs roofs;
  const std::size_t share = bytes / threads / vector_bytes;
  std::vector<std::vector<Words>> memory(threads);
  together(threads, [&](std::size_t t) { memory[t].resize(share, Words{} + t + 1); });
  const double gigabytes = 1e-9 * static_cast<double>(share * threads * vector_bytes);
  using Pattern = void (*)(const Words*, std::size_t);
  for (Pattern pattern : {&read<1, 0>, &read<2, 0>, &read<4, 0>, &read<8, 0>, &read<1, 1024>, &read<4, 1024>})
    for (int repeat = 0; repeat < 3; ++repeat) {
      const double seconds = together(threads, [&](std::size_t t) { pattern(memory[t].data(), share); });
      roofs.read_gb_per_s = std::max(roofs.read_gb_per_s, gigabytes / seconds);
    }
  constexpr std::size_t times = 4'000'000;
  for (int repeat = 0; repeat < 6; ++repeat) {
    const double seconds = together(threads, [&](std::size_t) { multiply_add(times); });
    const double flops = 2.0 * 12 * lanes * times * static_cast<double>(threads);
    roofs.fma_gflop_per_s = std::max(roofs.fma_gflop_per_s, 1e-9 * flops / seconds);
  }
  return roofs;
}

std::size_t last_level_cache_bytes() {
  namespace fs = std::filesystem;
  const auto first_line = [](const fs::path& path) {
    std::string line;
    std::ifstream file(path);
    std::getline(file, line);
    return line;
  };
  std::size_t total = 0;
  std::set<std::string> counted;  // by the processors that share a cache
  std::error_code error;
  for (const auto& cpu : fs::directory_iterator("/sys/devices/system/cpu", error)) {
    int deepest = 0;
    fs::path last;
    for (const auto& index : fs::directory_iterator(cpu.path() / "cache", error)) {
      const std::string level = first_line(index.path() / "level");
      if (level.empty() || std::stoi(level) <= deepest) continue;
      deepest = std::stoi(level);
      last = index.path();
    }
    const std::string size = last.empty() ? "" : first_line(last / "size");
    if (size.empty() || !counted.insert(first_line(last / "shared_cpu_list")).second) continue;
    total += std::stoull(size) * (size.back() == 'K' ? 1024 : size.back() == 'M' ? 1024 * 1024 : 1);
  }
  return total == 0 ? std::size_t{32} << 20 : total;
}

}  // namespace compare
