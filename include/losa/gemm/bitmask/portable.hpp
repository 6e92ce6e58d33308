#pragma once
// The inner loops of the shared panel driver on xsimd batches: whatever vectors the compile flags allow (SSE2 on plain
// x86-64, NEON on AArch64, AVX-512 under -mavx512f). The plainest kernel set; read it before the others.
//
//   gather    sums[row]    += value · panel[column]        Vectors batches of tokens, in registers for the whole row
//   scatter   sums[column] += value · g[row]
//   sample    value         = base + scale · ⟨g[row], panel[column]⟩
//
// Where the flags give no fused multiply-add, xsimd::fma multiplies and adds.

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include <losa/core/types.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/kernel.hpp>
#include <losa/gemm/operation.hpp>
#include <losa/gemm/panel/decode.hpp>
#include <losa/gemm/panel/kernel_set.hpp>
#include <losa/gemm/panel/schedules.hpp>
#include <losa/gemm/panel/tile.hpp>
#include <losa/gemm/target/portable.hpp>

#if defined(LOSA_PORTABLE)

namespace losa::inline v0::detail::inline LOSA_ARCH::portable {

struct BitmaskKernels : PanelMoves {
  static constexpr std::size_t most_panels = 4;
  template <class WeightsType>
  using FewTokens = NoFewTokens;
  template <class WeightsType>
  static Rounding rounding(std::size_t) noexcept {
    return {};
  }

  template <std::size_t Vectors>
  static void gather(const TileLists& lists, const float* panel, float* sums) noexcept {
    for (std::size_t r = 0; r < lists.rows; ++r) {
      lists.prefetch_panel(r);
      float* const out = sums + r * Vectors * lanes;
      Row<Vectors> acc = load<Vectors>(out);
      for (std::uint32_t k = lists.starts[r]; k != lists.ends[r]; ++k) {
        const Batch weight(lists.values[k]);
        const float* column = panel + 2 * std::size_t{lists.entries[k]};
#pragma GCC unroll 8
        for (std::size_t v = 0; v < Vectors; ++v)
          acc[v] = xsimd::fma(weight, Batch::load_unaligned(column + v * lanes), acc[v]);
      }
#pragma GCC unroll 8
      for (std::size_t v = 0; v < Vectors; ++v) acc[v].store_unaligned(out + v * lanes);
    }
  }

  template <std::size_t Vectors>
  static void scatter(const TileLists& lists, const float* g, float* sums) noexcept {
    for (std::size_t r = 0; r < lists.rows; ++r) {
      const Row<Vectors> row = load<Vectors>(g + r * Vectors * lanes);
      for (std::uint32_t k = lists.starts[r]; k != lists.ends[r]; ++k) {
        const Batch weight(lists.values[k]);
        float* column = sums + 2 * std::size_t{lists.entries[k]};
#pragma GCC unroll 8
        for (std::size_t v = 0; v < Vectors; ++v)
          xsimd::fma(weight, row[v], Batch::load_unaligned(column + v * lanes)).store_unaligned(column + v * lanes);
      }
    }
  }

  template <std::size_t Vectors>
  static void sample(const TileLists& lists, const float* g, const float* panel, bool accumulate,
                     float* dots) noexcept {
    for (std::size_t r = 0; r < lists.rows; ++r) {
      lists.prefetch_panel(r);
      const Row<Vectors> row = load<Vectors>(g + r * Vectors * lanes);
      for (std::uint32_t k = lists.starts[r]; k != lists.ends[r]; ++k) {
        const float* column = panel + 2 * std::size_t{lists.entries[k]};
        Batch dot = row[0] * Batch::load_unaligned(column);
#pragma GCC unroll 8
        for (std::size_t v = 1; v < Vectors; ++v)
          dot = xsimd::fma(row[v], Batch::load_unaligned(column + v * lanes), dot);
        dots[k] = accumulate ? dots[k] + sum(dot) : sum(dot);
      }
    }
  }

  static void store_values(const PackedLayout& w, const TileRange& range, const TileLists& lists, const float* base,
                           float scale, float* values) noexcept {
    for_each_row(w, range, FloatWeights<float>{values}, [&](std::size_t row, std::size_t, auto& cursors) {
      if (row >= lists.rows) return;
      const float* dot = lists.values + lists.starts[row];
      for (std::size_t t = range.first_tile; t < range.last_tile; ++t) {
        const auto at = static_cast<std::size_t>(cursors[t - range.first_tile].p - values);
        const std::size_t count = ones(w, row, range, t);
        for (std::size_t k = 0; k < count; ++k)
          values[at + k] = (base != nullptr ? base[at + k] : 0.0f) + scale * *dot++;
      }
    });
  }

  template <class WeightsType>
  static void decode(const PackedLayout& w, const WeightsType& weights, const TileRange& range, std::size_t scale,
                     std::uint16_t* entries, float* floats, std::uint32_t* starts, std::uint32_t* ends) noexcept {
    std::size_t n = 0;
    for_each_row(w, range, weights, [&](std::size_t row, std::size_t i, auto& cursors) {
      starts[row] = static_cast<std::uint32_t>(n);
      for (std::size_t t = range.first_tile; t < range.last_tile; ++t) {
        const std::size_t count = ones(w, row, range, t);
        for (std::size_t k = 0; k < count; ++k) floats[n + k] = cursors[t - range.first_tile].at(i, k);
        decode_word(mask_word(w, row, range, t), (t - range.first_tile) * tile_cols, scale, entries + n);
        n += count;
      }
      ends[row] = static_cast<std::uint32_t>(n);
      for (; n % 4 != 0; ++n) {
        entries[n] = entries[n - 1];
        floats[n] = 0;
      }
    });
  }

 private:
  static std::uint64_t mask_word(const PackedLayout& w, std::size_t row, const TileRange& range,
                                 std::size_t t) noexcept {
    const std::size_t tile = (range.first_block + row / tile_rows) * w.tiles + t;
    return w.words[tile * tile_rows + row % tile_rows];
  }
  static std::size_t ones(const PackedLayout& w, std::size_t row, const TileRange& range, std::size_t t) noexcept {
    return static_cast<std::size_t>(std::popcount(mask_word(w, row, range, t)));
  }

  /// Calls f(row of the range, row of its block, cursors of the tiles) for every row.
  template <class WeightsType, class Function>
  static void for_each_row(const PackedLayout& w, const TileRange& range, const WeightsType& weights,
                           Function&& f) noexcept {
    std::size_t row = 0;
    for (std::size_t b = range.first_block; b < range.last_block; ++b) {
      std::array<typename WeightsType::Cursor, TileSizes::most_tiles> cursors;
      for (std::size_t t = range.first_tile; t < range.last_tile; ++t)
        cursors[t - range.first_tile] = weights.begin(w, b, t);
      for (std::size_t i = 0; i < tile_rows; ++i, ++row) {
        f(row, i, cursors);
        for (std::size_t t = range.first_tile; t < range.last_tile; ++t)
          cursors[t - range.first_tile].advance(ones(w, row, range, t));
      }
    }
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

namespace losa::inline v0::detail {

template <class Arguments, BitmaskWeights WeightsType>
struct Kernel<portable::Target, Arguments, WeightsType>
    : PanelSchedule<portable::BitmaskKernels, Arguments, WeightsType> {};

}  // namespace losa::inline v0::detail
#endif
