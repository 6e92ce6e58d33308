#pragma once
// The inner loops of the shared panel driver on xsimd batches: whatever vectors the compile flags allow (SSE2 on plain
// x86-64, NEON on AArch64, AVX-512 under -mavx512f). The plainest kernel set; read it before the others.
//
//   gather    sums[row]    += value · panel[column]        V batches of tokens, in registers for the whole row
//   scatter   sums[column] += value · g[row]
//   sample    value         = base + scale · ⟨g[row], panel[column]⟩
//
// Where the flags give no fused multiply-add, xsimd::fma multiplies and adds.

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <xsimd/xsimd.hpp>

#include <losa/core/types.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/panel/driver.hpp>

#if !defined(XSIMD_NO_SUPPORTED_ARCHITECTURE)
#define LOSA_PORTABLE 1

namespace losa::inline v0::detail::inline LOSA_ARCH::portable {

struct Kernels {
  using Batch = xsimd::batch<float>;
  static constexpr std::size_t lanes = Batch::size;
  static constexpr std::size_t few_tokens = 0;

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

  template <std::size_t V, class T>
  static void gather(const TileLists& lists, const T* values, const float* panel, float* sums) noexcept {
    for (std::size_t r = 0; r < lists.rows; ++r) {
      lists.prefetch_panel(r);
      const T* value = values + lists.offsets[r];
      const T* soon = lists.soon(values, r);
      float* const out = sums + r * V * lanes;
      Row<V> acc = load<V>(out);
      for (std::uint32_t k = lists.starts[r]; k != lists.ends[r]; ++k, ++value) {
        __builtin_prefetch(soon++, 0, 2);
        const Batch weight(static_cast<float>(widen(*value)));
        const float* column = panel + 2 * std::size_t{lists.entries[k]};
#pragma GCC unroll 8
        for (std::size_t v = 0; v < V; ++v)
          acc[v] = xsimd::fma(weight, Batch::load_unaligned(column + v * lanes), acc[v]);
      }
#pragma GCC unroll 8
      for (std::size_t v = 0; v < V; ++v) acc[v].store_unaligned(out + v * lanes);
    }
  }

  template <std::size_t V>
  static void scatter(const TileLists& lists, const float* values, const float* g, float* sums) noexcept {
    for (std::size_t r = 0; r < lists.rows; ++r) {
      lists.prefetch_panel(r);
      const float* value = values + lists.offsets[r];
      const float* soon = lists.soon(values, r);
      const Row<V> row = load<V>(g + r * V * lanes);
      for (std::uint32_t k = lists.starts[r]; k != lists.ends[r]; ++k, ++value) {
        __builtin_prefetch(soon++, 0, 2);
        const Batch weight(*value);
        float* column = sums + 2 * std::size_t{lists.entries[k]};
#pragma GCC unroll 8
        for (std::size_t v = 0; v < V; ++v)
          xsimd::fma(weight, row[v], Batch::load_unaligned(column + v * lanes)).store_unaligned(column + v * lanes);
      }
    }
  }

  template <std::size_t V>
  static void sample(const TileLists& lists, const float* base, float scale, const float* g, const float* panel,
                     float* values) noexcept {
    for (std::size_t r = 0; r < lists.rows; ++r) {
      lists.prefetch_panel(r);
      std::size_t i = lists.offsets[r];
      const float* soon = lists.soon(values, r);
      const Row<V> row = load<V>(g + r * V * lanes);
      for (std::uint32_t k = lists.starts[r]; k != lists.ends[r]; ++k, ++i) {
        __builtin_prefetch(soon++, 0, 2);
        const float* column = panel + 2 * std::size_t{lists.entries[k]};
        Batch dot = row[0] * Batch::load_unaligned(column);
#pragma GCC unroll 8
        for (std::size_t v = 1; v < V; ++v) dot = xsimd::fma(row[v], Batch::load_unaligned(column + v * lanes), dot);
        values[i] = (base != nullptr ? base[i] : 0.0f) + scale * sum(dot);
      }
    }
  }

  static std::uint16_t* decode(const std::uint64_t* words, std::size_t n, std::size_t scale,
                               std::uint16_t* out) noexcept {
    for (std::size_t i = 0; i < n; ++i) out = decode_word(words[i], i * 64, scale, out);
    return out;
  }
  static void seek(const PackedLayout& w, std::size_t r0, std::size_t r1, std::size_t word,
                   std::size_t* cursors) noexcept {
    for (std::size_t r = r0; r < r1; ++r) {
      std::size_t at = w.offsets[r];
      for (std::size_t i = 0; i < word; ++i)
        at += static_cast<std::size_t>(std::popcount(w.words[r * w.words_per_row + i]));
      cursors[r - r0] = at;
    }
  }

  template <class T>
  static void multiply_few(const PackedLayout&, const T*, std::size_t, std::size_t, const float*, std::size_t,
                           std::size_t, float*, std::size_t, const float*, bool) noexcept {}

 private:
  template <std::size_t V>
  using Row = std::array<Batch, V>;

  template <std::size_t V>
  static Row<V> load(const float* from) noexcept {
    Row<V> row;
#pragma GCC unroll 8
    for (std::size_t v = 0; v < V; ++v) row[v] = Batch::load_unaligned(from + v * lanes);
    return row;
  }

  // xsimd has renamed its horizontal sum (hadd became reduce_add); lanes in order need neither.
  static float sum(Batch v) noexcept {
    std::array<float, lanes> lane;
    v.store_unaligned(lane.data());
    for (std::size_t half = lanes / 2; half != 0; half /= 2)
      for (std::size_t i = 0; i < half; ++i) lane[i] += lane[i + half];
    return lane[0];
  }
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::portable
#endif
