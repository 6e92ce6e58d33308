#pragma once
// What every contender, losa's and the peers', looks like to the program that times it.
//
//   y (tokens, out) = x (tokens, in) · Wᵀ      Op::product
//   y (tokens, in)  = g (tokens, out) · W      Op::dx
//   y (out, in)     = gᵀ · x, at the mask      Op::sddmm

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <losa/core/mask.hpp>
#include <losa/core/thread_pool.hpp>

#include "inputs.hpp"

namespace compare {

enum class Op { product, dx, sddmm };

/// What a contender is made from; it outlives the contender.
struct Layer {
  std::size_t out = 0;
  std::size_t in = 0;
  const float* weight = nullptr;     // (out, in), dense
  const losa::Mask* mask = nullptr;  // null for dense contenders
  Pruning pruning{};
  std::size_t cold_bytes = 0;   // copies of the weights together exceed this …
  std::size_t most_copies = 0;  // … unless that takes more of them than this
  losa::ThreadPool* pool = nullptr;

  std::size_t size() const { return out * in; }
  std::size_t threads() const { return pool->concurrency(); }
  /// Copies of `bytes` each that take turns, so that none is in a cache when it is read.
  std::size_t copies(std::size_t bytes) const { return std::min(cold_bytes / bytes + 1, most_copies); }
};

struct Operands {
  const float* x = nullptr;  // (tokens, in)
  const float* g = nullptr;  // (tokens, out)
  float* y = nullptr;
  std::size_t tokens = 0;
};

class Contender {
 public:
  Contender() = default;
  Contender(const Contender&) = delete;
  Contender& operator=(const Contender&) = delete;
  virtual ~Contender() = default;

  /// Makes the packed copies, graphs and kernels that products with these operands need. Not timed; called once for
  /// every number of tokens.
  virtual void prepare(const Operands& operands) = 0;
  /// One product with the next copy of the weights.
  virtual void run() = 0;
  /// Bytes of weights that a product reads.
  virtual std::size_t bytes() const = 0;
  /// The library's own name for what it runs, known after prepare().
  virtual std::string kernel() const = 0;

  /// Puts the result of the last run() into y, where it is not there already.
  virtual void fetch() {}
  /// The error, where the contender checks itself because its results are out of reach.
  virtual std::optional<double> own_error() { return std::nullopt; }
  /// Seconds that `calls` products take.
  virtual double seconds(std::size_t calls) {
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t i = 0; i < calls; ++i) run();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
};

/// A contender that can be had: one line of a table.
struct Entry {
  std::string name;    // "ggml Q4_0"
  std::string type;    // of the weights: f32, f16, bf16, int8, int4
  std::string format;  // "dense", "dense, packed", "bitmask", …
  bool sparse = false;
  Op op = Op::product;
  std::function<std::unique_ptr<Contender>(const Layer&)> make;
};

/// Thrown by make or prepare where the library has no kernel for the type, shape or machine.
struct NotHere : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace compare
