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
#include <losa/core/view.hpp>
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

  template <std::size_t V>
  static void gather(const TileLists& lists, const float* panel, float* sums) noexcept {
    for (std::size_t r = 0; r < lists.rows; ++r) {
      lists.prefetch_panel(r);
      float* const out = sums + r * V * lanes;
      Row<V> acc = load<V>(out);
      for (std::uint32_t k = lists.starts[r]; k != lists.ends[r]; ++k) {
        const Batch weight(lists.values[k]);
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
  static void scatter(const TileLists& lists, const float* g, float* sums) noexcept {
    for (std::size_t r = 0; r < lists.rows; ++r) {
      const Row<V> row = load<V>(g + r * V * lanes);
      for (std::uint32_t k = lists.starts[r]; k != lists.ends[r]; ++k) {
        const Batch weight(lists.values[k]);
        float* column = sums + 2 * std::size_t{lists.entries[k]};
#pragma GCC unroll 8
        for (std::size_t v = 0; v < V; ++v)
          xsimd::fma(weight, row[v], Batch::load_unaligned(column + v * lanes)).store_unaligned(column + v * lanes);
      }
    }
  }

  template <std::size_t V>
  static void sample(const TileLists& lists, const float* g, const float* panel, bool accumulate,
                     float* dots) noexcept {
    for (std::size_t r = 0; r < lists.rows; ++r) {
      lists.prefetch_panel(r);
      const Row<V> row = load<V>(g + r * V * lanes);
      for (std::uint32_t k = lists.starts[r]; k != lists.ends[r]; ++k) {
        const float* column = panel + 2 * std::size_t{lists.entries[k]};
        Batch dot = row[0] * Batch::load_unaligned(column);
#pragma GCC unroll 8
        for (std::size_t v = 1; v < V; ++v) dot = xsimd::fma(row[v], Batch::load_unaligned(column + v * lanes), dot);
        dots[k] = accumulate ? dots[k] + sum(dot) : sum(dot);
      }
    }
  }

  static void store_values(const PackedLayout& w, const TileRange& range, const TileLists& lists, const float* base,
                           float scale, float* values) noexcept {
    for_each_word(
        w, range,
        [&, next = std::size_t{0}](std::size_t row, std::size_t t, std::uint64_t word, std::size_t at) mutable {
          if (row >= lists.rows) return;
          if (t == range.first_tile) next = lists.starts[row];
          for (int n = std::popcount(word); n != 0; --n, ++at, ++next)
            values[at] = (base != nullptr ? base[at] : 0.0f) + scale * lists.values[next];
        });
  }

  template <class T>
  static void decode(const PackedLayout& w, const T* values, const TileRange& range, std::size_t scale,
                     std::uint16_t* entries, float* floats, std::uint32_t* starts, std::uint32_t* ends) noexcept {
    std::uint16_t* out = entries;
    for_each_word(w, range, [&](std::size_t row, std::size_t t, std::uint64_t word, std::size_t at) {
      if (t == range.first_tile) {
        for (; (out - entries) % 4 != 0; ++out) {  // fill the list of the row before
          *out = out[-1];
          floats[out - entries] = 0;
        }
        starts[row] = static_cast<std::uint32_t>(out - entries);
      }
      float* const to = floats + (out - entries);
      out = decode_word(word, (t - range.first_tile) * tile_cols, scale, out);
      const auto count = static_cast<std::size_t>(std::popcount(word));
      for (std::size_t k = 0; values != nullptr && k < count; ++k) to[k] = static_cast<float>(widen(values[at + k]));
      ends[row] = static_cast<std::uint32_t>(out - entries);
    });
  }

  static void pack_few(MatrixView<const float>, std::size_t, std::size_t, float*) noexcept {}
  template <class T>
  static void multiply_few(const PackedLayout&, const T*, std::size_t, std::size_t, const float*, std::size_t,
                           MatrixView<float>, const float*, bool) noexcept {}

 private:
  /// Calls f(row of the range, tile, mask word, index of its first value) row by row, tiles from left to right.
  template <class F>
  static void for_each_word(const PackedLayout& w, const TileRange& range, F&& f) noexcept {
    std::size_t row = 0;
    for (std::size_t b = range.first_block; b < range.last_block; ++b) {
      std::array<std::size_t, TileShape::most_tiles> at;
      std::copy(w.offsets + b * w.tiles + range.first_tile, w.offsets + b * w.tiles + range.last_tile, at.begin());
      for (std::size_t i = 0; i < tile_rows; ++i, ++row)
        for (std::size_t t = range.first_tile; t < range.last_tile; ++t) {
          const std::uint64_t word = w.words[(b * w.tiles + t) * tile_rows + i];
          std::size_t& next = at[t - range.first_tile];
          f(row, t, word, next);
          next += static_cast<std::size_t>(std::popcount(word));
        }
    }
  }

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
