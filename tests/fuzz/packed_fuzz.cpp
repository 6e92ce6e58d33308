// Arbitrary bytes as a packed or quantised matrix, and arbitrary activations: refused, or every backend has all of its
// products and reads nothing else.
#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include <losa/gemm.hpp>

namespace {

/// Takes values from the front of the input, zeros after its end.
struct Input {
  std::span<const std::uint8_t> left;

  template <class T>
  std::vector<T> take(std::size_t n) {
    std::vector<T> values(n);
    const std::size_t bytes = std::min(left.size(), n * sizeof(T));
    if (bytes != 0) std::memcpy(values.data(), left.data(), bytes);
    left = left.subspan(bytes);
    return values;
  }
  std::size_t below(std::size_t n) { return take<std::uint16_t>(1)[0] % n; }
};

/// Activations: the pattern again and again, so also NaN, Inf, denormals and numbers too large for integers.
std::vector<float> activations(std::size_t n, const std::vector<float>& pattern) {
  std::vector<float> x(n);
  for (std::size_t i = 0; i < n; ++i) x[i] = pattern[i % pattern.size()];
  return x;
}

template <class Matrix>
void multiply(const Matrix& matrix, std::size_t tokens, const std::vector<float>& pattern) {
  const std::vector<float> x = activations(tokens * matrix.cols(), pattern);
  std::vector<float> y(tokens * matrix.rows());
  for (const losa::Backend* backend : losa::backends())
    losa::spmm(matrix, losa::view(x.data(), tokens, matrix.cols()), losa::view(y.data(), tokens, matrix.rows()), {},
               {.backend = backend});
  std::vector<float> dense(matrix.rows() * matrix.cols());
  matrix.to_dense(losa::view(dense.data(), matrix.rows(), matrix.cols()));
}

/// dX, Ĝ and refreshed values.
void train(losa::PackedMatrix<float> packed, std::size_t tokens, const std::vector<float>& pattern) {
  const std::vector<float> x = activations(tokens * packed.cols(), pattern);
  const std::vector<float> g = activations(tokens * packed.rows(), pattern);
  std::vector<float> dx(tokens * packed.cols());
  const auto x_view = losa::view(x.data(), tokens, packed.cols());
  const auto g_view = losa::view(g.data(), tokens, packed.rows());
  auto gradient = packed.like();
  for (const losa::Backend* backend : losa::backends()) {
    losa::spmm_transposed(packed, g_view, losa::view(dx.data(), tokens, packed.cols()), {}, {.backend = backend});
    losa::sddmm(g_view, x_view, gradient, {}, {.accumulate = tokens % 2 == 1, .backend = backend});
    losa::refresh_values(packed, packed.values(), g_view, x_view, 0.5f, {}, backend);
  }
}

template <class T>
void as_floats(Input& in, std::size_t rows, std::size_t cols, std::size_t tokens, const std::vector<float>& pattern) {
  const auto mask = in.take<std::byte>(rows * ((cols + 7) / 8) + in.below(2));
  const auto packed = losa::PackedMatrix<T>::from_bytes(rows, cols, mask, std::as_bytes(in.left));
  multiply(packed, tokens, pattern);
  if constexpr (std::is_same_v<T, float>) {
    multiply(losa::ListMatrix<float>(packed), tokens, pattern);
    multiply(losa::ListMatrix<losa::bf16>(packed), tokens, pattern);
    train(packed, tokens, pattern);
  }
}

template <class Q>
void as_integers(Input& in, std::size_t rows, std::size_t cols, std::size_t tokens, const std::vector<float>& pattern) {
  const bool stray = in.below(8) == 0;  // bits past the last column
  losa::Mask mask(rows, cols);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t t = 0; t < mask.words_per_row(); ++t)
      mask.row_words(r)[t] = in.take<std::uint64_t>(1)[0] & (stray ? ~std::uint64_t{0} : mask.valid_bits(t));
  const std::size_t tiles = (cols + 63) / 64;
  const std::size_t scales = (rows + 31) / 32 * 32 * (std::is_same_v<Q, losa::Int8> ? 1 : tiles);
  const auto numbers = in.take<typename losa::QuantizedMatrix<Q>::Scale>(scales + in.below(2));
  std::size_t bytes = 0;
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t t = 0; t < tiles; ++t) {
      const auto n = static_cast<std::size_t>(std::popcount(mask.row_words(r)[t]));
      bytes += std::is_same_v<Q, losa::Int8> ? n : (n + 1) / 2;
    }
  auto integers = in.take<std::uint8_t>(bytes + in.below(2));
  if (in.below(4) != 0)
    std::ranges::replace_if(
        integers, [](std::uint8_t b) { return b % 16 == 0 || b < 16 || b == 0x80; }, 0x11);
  multiply(losa::QuantizedMatrix<Q>::from_parts(mask, integers, numbers), tokens, pattern);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input in{{data, size}};
  const std::size_t kind = in.below(5);
  const std::size_t rows = in.below(70);
  const std::size_t cols = in.below(300);
  const std::size_t tokens = in.below(20);
  const std::vector<float> pattern = in.take<float>(1 + in.below(5));
  try {
    switch (kind) {
      case 0:
        as_floats<float>(in, rows, cols, tokens, pattern);
        break;
      case 1:
        as_floats<losa::bf16>(in, rows, cols, tokens, pattern);
        break;
      case 2:
        as_floats<losa::f16>(in, rows, cols, tokens, pattern);
        break;
      case 3:
        as_integers<losa::Int8>(in, rows, cols, tokens, pattern);
        break;
      default:
        as_integers<losa::Int4>(in, rows, cols, tokens, pattern);
    }
  } catch (const losa::Error&) {
  }
  return 0;
}
