#pragma once
// What the tests of gemm/ share: deterministic random problems, buffers that catch stray accesses, the double oracle.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <losa/core/random.hpp>
#include <losa/gemm.hpp>

namespace test {

using Sizes = std::vector<std::size_t>;

/// Uniform in [-1, 1), a pure function of stream and index.
inline float number(std::uint64_t stream, std::uint64_t index) {
  return static_cast<float>(2 * losa::Random{.seed = 11, .stream = stream}.uniform(index) - 1);
}

inline losa::Mask random_mask(std::size_t rows, std::size_t cols, double sparsity, std::uint64_t stream) {
  losa::Mask mask(rows, cols);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; ++c)
      mask.set(r, c, losa::Random{.seed = 12, .stream = stream}.uniform(r * cols + c) >= sparsity);
  return mask;
}

inline constexpr float sentinel = -12345.5f;

/// rows × cols floats with a gap after every row and at any offset from alignment; knows if a gap was written.
class Matrix {
 public:
  Matrix(std::size_t rows, std::size_t cols, std::uint64_t stream, std::size_t gap = 0, std::size_t shift = 0)
      : rows_(rows), cols_(cols), stride_(cols + gap), shift_(shift), data_(shift + rows * stride_ + 1, sentinel) {
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < cols; ++c) view()(r, c) = number(stream, r * cols + c);
  }
  losa::MatrixView<float> view() { return {data_.data() + shift_, rows_, cols_, stride_}; }
  losa::MatrixView<const float> view() const { return {data_.data() + shift_, rows_, cols_, stride_}; }
  float operator()(std::size_t r, std::size_t c) const { return view()(r, c); }
  bool gaps_intact() const {
    for (std::size_t i = 0; i < data_.size(); ++i) {
      const bool inside = i >= shift_ && i < shift_ + rows_ * stride_ && (i - shift_) % stride_ < cols_;
      if (!inside && data_[i] != sentinel) return false;
    }
    return true;
  }

 private:
  std::size_t rows_, cols_, stride_, shift_;
  std::vector<float> data_;
};

enum class Side { after, before };

/// n elements whose last byte is the last of a page, with an inaccessible page behind (or before) them.
template <class T>
class Guarded {
 public:
  using Side = test::Side;
  explicit Guarded(std::size_t n, Side side = Side::after) : size_(n) {
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    const std::size_t bytes = (n * sizeof(T) + page - 1) / page * page;
    length_ = bytes + 2 * page;
    base_ = ::mmap(nullptr, length_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base_ == MAP_FAILED) throw std::runtime_error("mmap");
    auto* start = static_cast<std::byte*>(base_) + page;
    if (bytes != 0 && ::mprotect(start, bytes, PROT_READ | PROT_WRITE) != 0) throw std::runtime_error("mprotect");
    data_ = reinterpret_cast<T*>(side == Side::before ? start : start + bytes - n * sizeof(T));
  }
  ~Guarded() { ::munmap(base_, length_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  T* data() { return data_; }
  std::span<T> span() { return {data_, size_}; }
  void fill(std::uint64_t stream) {
    for (std::size_t i = 0; i < size_; ++i) data_[i] = number(stream, i);
  }

 private:
  std::size_t size_, length_ = 0;
  void* base_ = nullptr;
  T* data_ = nullptr;
};

/// A float sum of n products (and up to three more terms) of total magnitude `magnitude` is this close to the exact one
/// in any order of additions: (n + 3) · ε · Σ|terms|, ε = 2⁻²⁴ per rounding, twice for products rounded on their own.
inline double bound(std::size_t n, double magnitude) {
  return static_cast<double>(n + 3) * static_cast<double>(std::numeric_limits<float>::epsilon()) * magnitude + 1e-37;
}

/// What a product with `tokens` tokens of x adds to each sum by rounding activations, after what its plan says: Σ |w| ·
/// step · the largest magnitude of the columns that share a scale. As (row, token); `dense` is (rows, cols).
template <class Packed>
std::vector<double> activation_rounding(const losa::Rounding& rounding, const Packed& packed,
                                        std::span<const float> dense, losa::MatrixView<const float> x) {
  const std::size_t rows = packed.rows();
  const std::size_t cols = packed.cols();
  std::vector<double> added(rows * x.rows);
  if (rounding.step == 0) return added;
  for (std::size_t t = 0; t < x.rows; ++t)
    for (std::size_t first = 0; first < cols; first += rounding.scale_cols) {
      const std::size_t last = std::min(first + rounding.scale_cols, cols);
      double largest = 0;
      for (std::size_t c = first; c < last; ++c) largest = std::max(largest, std::abs(static_cast<double>(x(t, c))));
      for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t c = first; c < last; ++c)
          added[r * x.rows + t] += rounding.step * largest * std::abs(static_cast<double>(dense[r * cols + c]));
    }
  return added;
}
template <class Packed>
losa::Rounding rounding_of(const Packed& packed, std::size_t tokens, const losa::Backend* backend) {
  return losa::plan(packed, tokens, {.backend = backend}).rounding();
}

template <losa::Storage T>
losa::PackedMatrix<T> random_packed(std::size_t rows, std::size_t cols, double sparsity, std::uint64_t stream) {
  const Matrix dense(rows, cols, stream);
  return losa::pack_as<T>(dense.view(), random_mask(rows, cols, sparsity, stream));
}

template <class Packed>
std::vector<float> dense_of(const Packed& packed) {
  std::vector<float> dense(packed.rows() * packed.cols());
  packed.to_dense(losa::view(dense.data(), packed.rows(), packed.cols()));
  return dense;
}

template <class T>
std::string bits(std::span<const T> values) {
  const auto bytes = std::as_bytes(values);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

inline std::string bits_of(const Matrix& m) {
  std::string all;
  for (std::size_t r = 0; r < m.view().rows; ++r) all += bits(std::span<const float>(m.view().row(r)));
  return all;
}

inline const std::vector<std::size_t>& awkward_sizes() {
  static const std::vector<std::size_t> sizes{1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 129, 200};
  return sizes;
}
inline const std::vector<std::size_t>& awkward_tokens() {
  static const std::vector<std::size_t> tokens{1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 33, 63, 64, 65, 72, 97, 130, 150};
  return tokens;
}
inline const std::vector<double>& sparsities() {
  static const std::vector<double> values{0.0, 0.3, 0.5, 0.7, 0.9, 1.0};
  return values;
}

/// The number in `text`, the environment variable LOSA_TEST_SHARE: a sweep runs one of every so many cases. All if
/// unset.
inline std::uint64_t parse_share(const char* text) {
  if (text == nullptr) return 1;
  const std::string_view digits(text);
  std::uint64_t share = 0;
  const auto [end, error] = std::from_chars(digits.begin(), digits.end(), share);
  if (error != std::errc{} || end != digits.end() || share == 0)
    throw std::invalid_argument("LOSA_TEST_SHARE must be a whole number from 1, got \"" + std::string(digits) + "\"");
  return share;
}

/// True for one of every `share` consecutive cases, at a random place among them: whatever goes round with the index
/// (sparsity, type, accumulate, bias) would keep step with every tenth.
inline bool in_share(std::uint64_t index, std::uint64_t share) {
  return index % share == losa::Random{.seed = 13}.below(share, index / share);
}

/// Calls run(rows, cols, tokens, sparsity, index) for every pair of awkward sizes; tokens and sparsities go round at
/// coprime steps, so that each meets each, and larger matrices of several tiles and blocks follow. LOSA_TEST_SHARE=10
/// runs a tenth of them, always the same.
template <class F>
void sweep(F&& run) {
  const auto f = [&run, share = parse_share(std::getenv("LOSA_TEST_SHARE"))](
                     std::size_t rows, std::size_t cols, std::size_t tokens, double sparsity, std::uint64_t index) {
    if (in_share(index, share)) run(rows, cols, tokens, sparsity, index);
  };
  std::uint64_t i = 0;
  for (std::size_t rows : awkward_sizes())
    for (std::size_t cols : awkward_sizes()) {
      f(rows, cols, awkward_tokens()[(i * 5 + rows) % awkward_tokens().size()], sparsities()[i % sparsities().size()],
        i);
      ++i;
    }
  for (std::size_t tokens : awkward_tokens()) {
    f(std::size_t{300}, std::size_t{517}, tokens, 0.7, i++);
    f(std::size_t{70}, std::size_t{1100}, tokens, 0.5, i++);
  }
  f(std::size_t{521}, std::size_t{130}, std::size_t{330}, 0.6, i++);  // several groups of panels
}

}  // namespace test
