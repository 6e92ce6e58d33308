#pragma once
// Layers under test and the adapters' formulas in double, element by element.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <losa/adapter/dropout.hpp>
#include <losa/adapter/lora_factors.hpp>
#include <losa/core/mask.hpp>
#include <losa/core/random.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm.hpp>

namespace oracle {

struct Dense {
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::vector<float> data;

  Dense() = default;
  Dense(std::size_t r, std::size_t c, float value = 0) : rows(r), cols(c), data(r * c, value) {}
  float& operator()(std::size_t r, std::size_t c) { return data[r * cols + c]; }
  float operator()(std::size_t r, std::size_t c) const { return data[r * cols + c]; }
  losa::MatrixView<float> view() { return {data.data(), rows, cols}; }
  losa::MatrixView<const float> view() const { return {data.data(), rows, cols}; }
};

inline Dense normal(std::size_t rows, std::size_t cols, std::uint64_t stream) {
  Dense m(rows, cols);
  const losa::Random random{.seed = 11, .stream = stream};
  for (std::size_t i = 0; i < m.data.size(); ++i) m.data[i] = static_cast<float>(random.normal(i));
  return m;
}

/// Each weight kept with probability `density`.
inline losa::Mask random_mask(std::size_t rows, std::size_t cols, double density, std::uint64_t stream = 5) {
  losa::Mask mask(rows, cols);
  const losa::Random random{.seed = 12, .stream = stream};
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; ++c) mask.set(r, c, random.uniform(r * cols + c) < density);
  return mask;
}

/// Fills both factors, so that BA ≠ 0.
inline void fill(losa::LoraFactors& factors, std::uint64_t stream) {
  const losa::Random random{.seed = 13, .stream = stream};
  std::uint64_t i = 0;
  for (std::span<float> factor : factors.parameters())
    for (float& value : factor) value = static_cast<float>(0.5 * random.normal(i++));
}

/// (M⊙W) at the kept positions, in packed order.
inline std::vector<float> kept_values(const Dense& weight, const losa::Mask& mask) {
  const losa::PackedMatrix<float> packed = losa::pack(weight.view(), mask);
  return {packed.values().begin(), packed.values().end()};
}

inline double delta(const losa::LoraFactors& factors, std::size_t r, std::size_t c) {
  double sum = 0;
  for (std::size_t k = 0; k < factors.rank(); ++k)
    sum += static_cast<double>(factors.bt()(k, r)) * static_cast<double>(factors.a()(k, c));
  return factors.scale() * sum;
}

/// Y = X·(M⊙W)ᵀ + (d⊙X)·(N⊙σBA)ᵀ with N = M for masked, all ones for plain adapters; d the multipliers of dropout.
inline std::vector<double> forward(const losa::LoraFactors& factors, bool masked, const Dense& weight,
                                   const losa::Mask& mask, const Dense& x, const Dense& d) {
  std::vector<double> y(x.rows * weight.rows);
  for (std::size_t r = 0; r < weight.rows; ++r)
    for (std::size_t c = 0; c < weight.cols; ++c) {
      const double w = mask(r, c) ? static_cast<double>(weight(r, c)) : 0.0;
      const double update = !masked || mask(r, c) ? delta(factors, r, c) : 0.0;
      for (std::size_t t = 0; t < x.rows; ++t)
        y[t * weight.rows + r] += static_cast<double>(x(t, c)) * (w + static_cast<double>(d(t, c)) * update);
    }
  return y;
}

inline Dense multipliers(const losa::Dropout& dropout, losa::DropoutKey key, std::size_t tokens, std::size_t in) {
  Dense d(tokens, in);
  for (std::size_t t = 0; t < tokens; ++t) dropout.multipliers(key, t, d.view().row(t));
  return d;
}

/// Σ G⊙Y in double: the loss whose gradients the tests take. Linear in A, in B and in X, so that central differences of
/// any step are exact.
inline double loss(const std::vector<double>& y, const Dense& g) {
  double sum = 0;
  for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * static_cast<double>(g.data[i]);
  return sum;
}

/// (f(+½) − f(−½)) around the present value of `parameter`.
template <class F>
double difference(float& parameter, F&& f) {
  const float before = parameter;
  parameter = before + 0.5f;
  const double above = f();
  const double step = static_cast<double>(parameter);
  parameter = before - 0.5f;
  const double below = f();
  const double width = step - static_cast<double>(parameter);
  parameter = before;
  return (above - below) / width;
}

inline bool same_bits(float a, float b) { return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b); }
inline bool same_bits(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!same_bits(a[i], b[i])) return false;
  return true;
}

/// Copies what is shown to it, or puts it back.
struct Shelf {
  std::vector<std::uint64_t> integers;
  std::vector<double> numbers;
  std::vector<std::vector<float>> arrays;
  bool reading = false;
  std::size_t i = 0, n = 0, k = 0;
  void operator()(const char*, std::uint64_t& value) { exchange(integers, i, value); }
  void operator()(const char*, double& value) { exchange(numbers, n, value); }
  void operator()(const char*, std::vector<float>& value) { exchange(arrays, k, value); }
  /// From here on it puts back, from the start.
  void rewind() {
    reading = true;
    i = n = k = 0;
  }
  template <class T>
  void exchange(std::vector<T>& store, std::size_t& at, T& value) {
    if (reading) {
      value = store.at(at++);
    } else {
      store.push_back(value);
    }
  }
};

/// The sentence of the error that f throws; empty if it throws none of kind E.
template <class E, class F>
std::string sentence(F&& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return {};
}

}  // namespace oracle
