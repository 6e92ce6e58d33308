#pragma once
// Transposition to panels and back, and the multiply-add on a panel's vectors, which the AVX2 kernels share.

#include <losa/gemm/target/avx2_vector.hpp>
#if defined(LOSA_AVX2)

#include <algorithm>
#include <cstddef>

#include <losa/gemm/arch.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH::avx2 {

struct PanelMoves {
  static constexpr std::size_t lanes = 8;

  /// dst[c · width + t] ← src[t · stride + c], zero for tokens ≤ t < width.
  LOSA_AVX2 static void pack_panel(const float* src, std::size_t stride, std::size_t tokens, std::size_t cols,
                                   float* dst, std::size_t width) noexcept {
    // 128 columns at a time: the 32 KiB that they take of a wide panel are written in pieces of 32 bytes.
    for (std::size_t c0 = 0; c0 < cols; c0 += 128) {
      const std::size_t c1 = std::min(c0 + 128, cols);
      for (std::size_t t = 0; t < width; t += 8) {
        const std::size_t n = tokens > t ? std::min<std::size_t>(8, tokens - t) : 0;
        std::size_t c = c0;
        for (; c + 8 <= c1; c += 8) {
          __m256 r[8];
          if (n == 8) {
#pragma GCC unroll 8
            for (std::size_t i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(src + (t + i) * stride + c);
          } else {
#pragma GCC unroll 8
            for (std::size_t i = 0; i < 8; ++i)
              r[i] = i < n ? _mm256_loadu_ps(src + (t + i) * stride + c) : _mm256_setzero_ps();
          }
          transpose8(r);
#pragma GCC unroll 8
          for (std::size_t i = 0; i < 8; ++i) _mm256_storeu_ps(dst + (c + i) * width + t, r[i]);
        }
        for (; c < c1; ++c)
          for (std::size_t i = 0; i < 8; ++i) dst[c * width + t + i] = i < n ? src[(t + i) * stride + c] : 0.0f;
      }
    }
  }

  /// dst[t · stride + c] ← [dst +] src[c · width + t] [+ bias[c]].
  LOSA_AVX2 static void unpack_panel(const float* src, std::size_t width, std::size_t tokens, std::size_t cols,
                                     float* dst, std::size_t stride, const float* bias, bool accumulate) noexcept {
    for (std::size_t t = 0; t < tokens; t += 8) {
      const std::size_t n = std::min<std::size_t>(8, tokens - t);
      std::size_t c = 0;
      for (; c + 8 <= cols; c += 8) {
        __m256 r[8];
#pragma GCC unroll 8
        for (std::size_t i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(src + (c + i) * width + t);
        transpose8(r);
        const __m256 b = bias != nullptr ? _mm256_loadu_ps(bias + c) : _mm256_setzero_ps();
#pragma GCC unroll 8
        for (std::size_t i = 0; i < 8; ++i)
          if (i < n) {
            float* out = dst + (t + i) * stride + c;
            __m256 v = _mm256_add_ps(r[i], b);
            if (accumulate) v = _mm256_add_ps(v, _mm256_loadu_ps(out));
            _mm256_storeu_ps(out, v);
          }
      }
      for (; c < cols; ++c)
        for (std::size_t i = 0; i < n; ++i) {
          float& out = dst[(t + i) * stride + c];
          const float v = src[c * width + t + i] + (bias != nullptr ? bias[c] : 0.0f);
          out = accumulate ? v + out : v;
        }
    }
  }

 protected:
  template <std::size_t Vectors, std::size_t Lane, std::size_t Chains>
  LOSA_AVX2 static void multiply_add(__m256 (&acc)[Chains][Vectors], __m256 weight, const float* column) noexcept {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < Vectors; ++v)
      acc[Lane % Chains][v] = _mm256_fmadd_ps(weight, _mm256_load_ps(column + v * lanes), acc[Lane % Chains][v]);
  }
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx2
#endif
