#pragma once
// Activations of 8 bits for the AVX-512 kernels of integer weights:
//
//   x = scale · q,  q = round(x / scale),  scale = max |x| / 127  over 128 or 256 columns, token by token
//
// An activation is off by at most max |x| / 254 of the columns that share its scale. vpdpbusd multiplies unsigned bytes
// with signed ones, so q + 128 is stored, and what a row's weights make of the 128 is taken off its sums.

#include <losa/gemm/target/avx512_vector.hpp>
#if defined(LOSA_AVX512)

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include <losa/core/view.hpp>
#include <losa/gemm/activation_range.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/arena.hpp>

LOSA_AVX512_BEGIN

namespace losa::inline v0::detail::inline LOSA_ARCH::avx512 {

/// 16 columns of a token, of which `n` are left; 0 past the last one.
LOSA_AVX512 inline __m512 load_columns(const float* x, std::size_t n) noexcept {
  return _mm512_maskz_loadu_ps(first_lanes16(n), x);
}

/// max |x| of n columns as the bits of a float: without its sign, one that is not finite is the largest integer.
LOSA_AVX512 inline std::uint32_t magnitude(const float* x, std::size_t n) noexcept {
  __m512i most = _mm512_setzero_si512();
  for (std::size_t c = 0; c < n; c += 16)
    most = _mm512_max_epu32(
        most, _mm512_and_si512(_mm512_castps_si512(load_columns(x + c, n - c)), _mm512_set1_epi32(0x7fffffff)));
  return _mm512_reduce_max_epu32(most);
}

inline constexpr float largest_integer = 127;
/// Half of a step, and the rounding of the scale and of the factor.
inline constexpr double byte_step = 1.001 / 254;

/// 16 columns of which `n` are left, as integers: −127 … 127.
LOSA_AVX512 inline __m128i to_integers(const float* x, std::size_t n, float factor) noexcept {
  return _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(load_columns(x, n), _mm512_set1_ps(factor))));
}

/// `tokens` tokens in pieces of `piece` columns; tokens and columns past the last ones are zeros.
template <std::size_t piece, std::size_t scale_cols>
class ByteActivations {
  static_assert(scale_cols % piece == 0);

 public:
  static std::size_t need(std::size_t tokens, std::size_t cols) noexcept {
    return Arena::need<std::uint8_t>(round_up(cols, piece) * tokens) +
           Arena::need<float>(round_up(cols, scale_cols) / scale_cols * tokens);
  }
  ByteActivations(Arena& arena, std::size_t tokens, std::size_t cols) noexcept
      : n_(tokens),
        cols_(cols),
        integers_(arena.take<std::uint8_t>(round_up(cols, piece) * tokens)),
        scales_(arena.take<float>(round_up(cols, scale_cols) / scale_cols * tokens)) {}

  std::size_t tokens() const noexcept { return n_; }
  /// (token, column) of the piece at column c.
  const std::uint8_t* integers(std::size_t c) const noexcept { return integers_ + c * n_; }
  /// One for each token.
  const float* scales(std::size_t c) const noexcept { return scales_ + c / scale_cols * n_; }

  /// False if x has to stay in float (activation_range.hpp).
  LOSA_AVX512 bool pack(MatrixView<const float> x) noexcept {
    std::fill_n(integers_, round_up(cols_, piece) * n_, std::uint8_t{128});
    std::fill_n(scales_, round_up(cols_, scale_cols) / scale_cols * n_, 0.0f);
    for (std::size_t t = 0; t < std::min(n_, x.rows); ++t)
      for (std::size_t first = 0; first < x.cols; first += scale_cols) {
        const float* const from = x.data + t * x.stride + first;
        const std::size_t cols = std::min(scale_cols, x.cols - first);
        const std::uint32_t most = magnitude(from, cols);
        if (most == 0) continue;
        if (!integers_fit(most)) return false;
        scales_[first / scale_cols * n_ + t] = std::bit_cast<float>(most) / largest_integer;
        const float factor = largest_integer / std::bit_cast<float>(most);
        for (std::size_t c = 0; c < cols; c += 16) {
          std::uint8_t* const to = integers_ + ((first + c) / piece * n_ + t) * piece + (first + c) % piece;
          _mm_store_si128(reinterpret_cast<__m128i*>(to),
                          _mm_xor_si128(to_integers(from + c, cols - c, factor), _mm_set1_epi8(-128)));
        }
      }
    return true;
  }

 private:
  std::size_t n_;
  std::size_t cols_;
  std::uint8_t* integers_;
  float* scales_;
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx512
LOSA_AVX512_END
#endif
