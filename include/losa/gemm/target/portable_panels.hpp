#pragma once
// What the portable kernels share: xsimd batches of the compile-time baseline, and transposition to panels and back.

#include <algorithm>
#include <array>
#include <cstddef>

// xsimd names template parameters I, which is a macro after <complex.h> in GNU mode.
#pragma push_macro("I")
#undef I
#include <xsimd/xsimd.hpp>
#pragma pop_macro("I")

#include <losa/gemm/arch.hpp>

#if !defined(XSIMD_NO_SUPPORTED_ARCHITECTURE)
#define LOSA_PORTABLE 1

namespace losa::inline v0::detail::inline LOSA_ARCH::portable {

struct PanelMoves {
  using Batch = xsimd::batch<float>;
  static constexpr std::size_t lanes = Batch::size;

  /// dst[c · width + t] ← src[t · stride + c], zero for tokens ≤ t < width.
  static void pack_panel(const float* src, std::size_t stride, std::size_t tokens, std::size_t cols, float* dst,
                         std::size_t width) noexcept {
    // 16 columns at a time: one cache line of each token.
    for (std::size_t c0 = 0; c0 < cols; c0 += 16)
      for (std::size_t t = 0; t < width; ++t)
        for (std::size_t c = c0; c < std::min(c0 + 16, cols); ++c)
          dst[c * width + t] = t < tokens ? src[t * stride + c] : 0.0f;
  }

  /// dst[t · stride + c] ← [dst +] src[c · width + t] [+ bias[c]].
  static void unpack_panel(const float* src, std::size_t width, std::size_t tokens, std::size_t cols, float* dst,
                           std::size_t stride, const float* bias, bool accumulate) noexcept {
    for (std::size_t c0 = 0; c0 < cols; c0 += 16)
      for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t c = c0; c < std::min(c0 + 16, cols); ++c) {
          float& out = dst[t * stride + c];
          const float v = src[c * width + t] + (bias != nullptr ? bias[c] : 0.0f);
          out = accumulate ? v + out : v;
        }
  }

 protected:
  template <std::size_t Vectors>
  using Row = std::array<Batch, Vectors>;

  template <std::size_t Vectors>
  static Row<Vectors> load(const float* from) noexcept {
    Row<Vectors> row;
#pragma GCC unroll 8
    for (std::size_t v = 0; v < Vectors; ++v) row[v] = Batch::load_unaligned(from + v * lanes);
    return row;
  }
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::portable
#endif
