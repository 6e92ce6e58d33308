#pragma once
// The blocking that the SIMD backends share. Activations are transposed once per call to panels [column][tokens], up to
// eight vectors of tokens wide; the mask of a (rows × columns) tile is decoded once to lists of columns and used for
// up to four panels; each kept weight is then one multiply-add on a vector of tokens per vector of the panel, and no
// pruned weight is touched.
//
//   spmm              sums[row]     += value · panel[column]          gather, rows in parallel
//   spmm_transposed   sums[column]  += value · panel[row]             scatter, column tiles in parallel;
//                                                                     for many tokens gather, on turned tiles
//   sddmm             value         += panel g[row] · panel x[column] sample, rows in parallel
//
// Tasks and tiles follow from the shapes and kept counts alone, so the bits do not depend on the executor.
// A kernel set K supplies the inner loops for one instruction set: see portable/kernels.hpp for the plainest one.

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include <losa/core/executor.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/backend.hpp>
#include <losa/gemm/panel/tile.hpp>
#include <losa/gemm/panel/transpose.hpp>
#include <losa/gemm/scratch.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH {

/// How `tokens` are cut into panels: full ones, and a last one of the fewest vectors (1, 2, 4 or 8) that hold the rest.
struct PanelPlan {
  std::size_t tokens;
  std::size_t lanes;
  std::size_t full_width = 8 * lanes;
  std::size_t full = tokens / full_width;
  std::size_t rest_width = width_for(tokens % full_width);
  std::size_t count = full + (rest_width != 0);

  std::size_t width_for(std::size_t n) const noexcept {
    std::size_t width = n == 0 ? 0 : lanes;
    while (width < n) width *= 2;
    return width;
  }
  std::size_t width(std::size_t p) const noexcept { return p < full ? full_width : rest_width; }
  std::size_t first_token(std::size_t p) const noexcept { return p * full_width; }
  std::size_t tokens_in(std::size_t p) const noexcept { return std::min(full_width, tokens - first_token(p)); }
  /// Floats before panel p when panels hold `cols` columns.
  std::size_t offset(std::size_t p, std::size_t cols) const noexcept { return first_token(p) * cols; }
  std::size_t floats(std::size_t cols) const noexcept { return (full * full_width + rest_width) * cols; }
};

/// Consecutive panels of one width that share a decoded tile.
struct PanelGroup {
  std::size_t first;
  std::size_t count;
};

/// Groups of up to four panels (eight at once push the X tiles out of a 512 KiB L2: −10 % on Zen 3), fewer where the
/// groups would not make eight tasks together with `blocks`.
inline std::vector<PanelGroup> panel_groups(const PanelPlan& plan, std::size_t blocks) {
  const bool same = plan.rest_width == 0 || plan.rest_width == plan.full_width;
  const std::size_t wide = same ? plan.count : plan.full;
  std::size_t size = 4;
  while (size > 1 && blocks * ((wide + size - 1) / size) < 8) size /= 2;
  std::vector<PanelGroup> groups;
  for (std::size_t p = 0; p < wide; p += size) groups.push_back({p, std::min(size, wide - p)});
  if (!same) groups.push_back({plan.full, 1});
  return groups;
}

/// f(integral constant V) for the number of vectors in a panel.
template <class F>
void with_vectors(std::size_t vectors, F&& f) {
  switch (vectors) {
    case 1:
      return f(std::integral_constant<std::size_t, 1>{});
    case 2:
      return f(std::integral_constant<std::size_t, 2>{});
    case 4:
      return f(std::integral_constant<std::size_t, 4>{});
    default:
      return f(std::integral_constant<std::size_t, 8>{});
  }
}

/// The products of a Backend table from a kernel set.
template <class K>
struct PanelProducts {
  /// Transposes x (tokens, cols) to the panels of `plan`.
  static void pack_panels(MatrixView<const float> x, const PanelPlan& plan, float* panels, ExecutorRef executor) {
    constexpr std::size_t chunk = 512;
    const std::size_t chunks = (x.cols + chunk - 1) / chunk;
    executor.parallel_for(plan.count * chunks, [&](std::size_t task) {
      const std::size_t p = task / chunks;
      const std::size_t c = task % chunks * chunk;
      const std::size_t width = plan.width(p);
      K::pack_panel(x.data + plan.first_token(p) * x.stride + c, x.stride, plan.tokens_in(p),
                    std::min(chunk, x.cols - c), panels + plan.offset(p, x.cols) + c * width, width);
    });
  }

  template <class T>
  static void spmm(const PackedLayout& w, const T* values, MatrixView<const float> x, MatrixView<float> y,
                   const float* bias, bool accumulate, ExecutorRef executor) {
    if (x.rows <= K::few_tokens) {
      executor.parallel_for(w.block_count, [&](std::size_t b) {
        K::multiply_few(w, values, w.blocks[b], w.blocks[b + 1], x.data, x.stride, x.rows, y.data, y.stride, bias,
                        accumulate);
      });
      return;
    }
    const PanelPlan plan{.tokens = x.rows, .lanes = K::lanes};
    const std::vector<PanelGroup> groups = panel_groups(plan, w.block_count);
    Scratch shared(Scratch::need<float>(plan.floats(w.cols)));
    float* panels = shared.take<float>(plan.floats(w.cols));
    pack_panels(x, plan, panels, executor);
    executor.parallel_for(w.block_count * groups.size(), [&](std::size_t task) {
      const PanelGroup group = groups[task / w.block_count];
      const std::size_t b = task % w.block_count;
      const std::size_t width = plan.width(group.first);
      const TileShape tile(width);
      const std::size_t words = tile.cols / 64;
      const std::size_t end = w.blocks[b + 1];
      const std::size_t most = std::min(tile.rows, end - w.blocks[b]);
      Scratch scratch(TileDecoder<K>::need(most, tile.cols, most) + Scratch::need<float>(group.count * most * width));
      TileDecoder<K> decoder(scratch, w, most, tile.cols, most);
      float* sums = scratch.take<float>(group.count * most * width);
      for (std::size_t r0 = w.blocks[b]; r0 < end; r0 += most) {
        const std::size_t rows = std::min(most, end - r0);
        std::fill_n(sums, group.count * most * width, 0.0f);
        decoder.seek(r0, r0 + rows, 0);
        for (std::size_t i = 0; i < w.words_per_row; i += words) {
          const bool last = i + words >= w.words_per_row;
          TileLists lists = decoder.decode(r0, rows, i, last ? w.words_per_row : i + words, width, 8);
          if (last) lists.next = r0 + 2 * rows <= w.rows ? w.offsets + r0 + rows : nullptr;
          for (std::size_t q = 0; q < group.count; ++q) {
            const float* panel = panels + plan.offset(group.first + q, w.cols) + i * 64 * width;
            lists.ahead = q + 1 < group.count ? panel + w.cols * width
                                              : panels + plan.offset(group.first, w.cols) + (i + words) * 64 * width;
            with_vectors(width / K::lanes,
                         [&](auto v) { K::template gather<v.value>(lists, values, panel, sums + q * most * width); });
            lists.next = nullptr;
          }
          decoder.advance(lists, r0);
        }
        for (std::size_t q = 0; q < group.count; ++q) {
          const std::size_t t = plan.first_token(group.first + q);
          K::unpack_panel(sums + q * most * width, width, plan.tokens_in(group.first + q), rows,
                          y.data + t * y.stride + r0, y.stride, bias == nullptr ? nullptr : bias + r0, accumulate);
        }
      }
    });
  }

  static void spmm_transposed(const PackedLayout& w, const float* values, MatrixView<const float> g,
                              MatrixView<float> dx, bool accumulate, ExecutorRef executor) {
    const PanelPlan plan{.tokens = g.rows, .lanes = K::lanes};
    Scratch shared(Scratch::need<float>(plan.floats(w.rows)));
    float* panels = shared.take<float>(plan.floats(w.rows));
    pack_panels(g, plan, panels, executor);
    if (plan.full < 2) {
      scatter_columns(w, values, panels, plan, dx, accumulate, executor);
    } else {
      gather_columns(w, values, panels, plan, dx, accumulate, executor);
    }
  }

  // dx by tiles read by rows: every kept weight loads and stores a vector of sums. For few tokens, which would not pay
  // for turning tiles over (4096 × 4096 at 70 %, AVX2, 8 tokens: 11 ms against 38; from 128 tokens on turning wins).
  static void scatter_columns(const PackedLayout& w, const float* values, const float* panels, const PanelPlan& plan,
                              MatrixView<float> dx, bool accumulate, ExecutorRef executor) {
    // Each task owns a range of columns, so no sum has two writers; where it begins in a row costs one popcount per
    // word before it. A quarter of the columns keeps both that and the jumps from row to row cheap. A small matrix gets
    // narrower tiles, so that there are four ranges.
    const TileShape tile(plan.width(0), round_up((w.cols + 3) / 4, 64));
    const std::size_t words = tile.cols / 64;
    const std::size_t tiles = (w.words_per_row + words - 1) / words;
    const std::size_t per_range = (tiles + 3) / 4;
    const std::size_t ranges = (tiles + per_range - 1) / per_range;
    const std::vector<PanelGroup> groups = panel_groups(plan, ranges);
    executor.parallel_for(ranges * groups.size(), [&](std::size_t task) {
      const PanelGroup group = groups[task / ranges];
      const std::size_t width = plan.width(group.first);
      const std::size_t begin = task % ranges * per_range * words;
      const std::size_t end = std::min(begin + per_range * words, w.words_per_row);
      const std::size_t cols = std::min(end * 64, w.cols) - begin * 64;
      Scratch scratch(TileDecoder<K>::need(tile.rows, tile.cols, w.rows) +
                      Scratch::need<float>(group.count * cols * width));
      TileDecoder<K> decoder(scratch, w, tile.rows, tile.cols, w.rows);
      float* sums = scratch.take<float>(group.count * cols * width);
      std::fill_n(sums, group.count * cols * width, 0.0f);
      decoder.seek(0, w.rows, begin);
      for (std::size_t r0 = 0; r0 < w.rows; r0 += tile.rows) {
        const std::size_t rows = std::min(tile.rows, w.rows - r0);
        for (std::size_t i = begin; i < end; i += words) {
          const bool last = i + words >= end;
          TileLists lists = decoder.decode(r0, rows, i, last ? end : i + words, width, 8);
          if (last) lists.next = r0 + 2 * rows <= w.rows ? lists.offsets + rows : nullptr;
          for (std::size_t q = 0; q < group.count; ++q) {
            const float* panel = panels + plan.offset(group.first + q, w.rows) + r0 * width;
            float* out = sums + (q * cols + (i - begin) * 64) * width;
            with_vectors(width / K::lanes, [&](auto v) { K::template scatter<v.value>(lists, values, panel, out); });
            lists.next = nullptr;
          }
          decoder.advance(lists, r0);
        }
      }
      for (std::size_t q = 0; q < group.count; ++q) {
        const std::size_t t = plan.first_token(group.first + q);
        K::unpack_panel(sums + q * cols * width, width, plan.tokens_in(group.first + q), cols,
                        dx.data + t * dx.stride + begin * 64, dx.stride, nullptr, accumulate);
      }
    });
  }

  // dx by turned tiles: sums stay in registers (1536 × 576 at 70 %, AVX2, 512 tokens: 7.5 ms against 14).
  static void gather_columns(const PackedLayout& w, const float* values, const float* panels, const PanelPlan& plan,
                             MatrixView<float> dx, bool accumulate, ExecutorRef executor) {
    // Each task owns a range of columns, so no sum has two writers; where it begins in a row costs one popcount per
    // word before it, so ranges are quarters of the columns rather than tiles.
    const TurnedTileShape tile(plan.width(0), w.cols);
    const std::size_t words = tile.cols / 64;
    const std::size_t tiles = (w.words_per_row + words - 1) / words;
    const std::size_t per_range = std::max<std::size_t>(1, tiles / 4);
    const std::size_t ranges = (tiles + per_range - 1) / per_range;
    const std::vector<PanelGroup> groups = panel_groups(plan, ranges);
    executor.parallel_for(ranges * groups.size(), [&](std::size_t task) {
      const PanelGroup group = groups[task / ranges];
      const std::size_t width = plan.width(group.first);
      const std::size_t begin = task % ranges * per_range * words;
      const std::size_t end = std::min(begin + per_range * words, w.words_per_row);
      Scratch scratch(TileDecoder<K>::need(tile.rows, tile.cols, w.rows) + TileTurner::need(tile.rows, tile.cols) +
                      Scratch::need<float>(group.count * tile.cols * width));
      TileDecoder<K> decoder(scratch, w, tile.rows, tile.cols, w.rows);
      TileTurner turner(scratch, tile.rows, tile.cols);
      float* sums = scratch.take<float>(group.count * tile.cols * width);
      decoder.seek(0, w.rows, begin);
      for (std::size_t i = begin; i < end; i += words) {
        const std::size_t stop = std::min(i + words, end);
        const std::size_t cols = std::min(stop * 64, w.cols) - i * 64;
        std::fill_n(sums, group.count * tile.cols * width, 0.0f);
        for (std::size_t r0 = 0; r0 < w.rows; r0 += tile.rows) {
          const std::size_t rows = std::min(tile.rows, w.rows - r0);
          TileLists by_row = decoder.decode(r0, rows, i, stop, 2, rows * w.words_per_row);
          if (r0 + 2 * rows <= w.rows) by_row.next = by_row.offsets + rows;
          TileLists by_column = turner.turn(by_row, values, cols, width);
          for (std::size_t q = 0; q < group.count; ++q) {
            const float* panel = panels + plan.offset(group.first + q, w.rows) + r0 * width;
            by_column.ahead = q + 1 < group.count ? panel + w.rows * width
                                                  : panels + plan.offset(group.first, w.rows) + (r0 + rows) * width;
            with_vectors(width / K::lanes, [&](auto v) {
              K::template gather<v.value>(by_column, turner.values(), panel, sums + q * tile.cols * width);
            });
          }
          decoder.advance(by_row, r0);
        }
        for (std::size_t q = 0; q < group.count; ++q) {
          const std::size_t t = plan.first_token(group.first + q);
          K::unpack_panel(sums + q * tile.cols * width, width, plan.tokens_in(group.first + q), cols,
                          dx.data + t * dx.stride + i * 64, dx.stride, nullptr, accumulate);
        }
      }
    });
  }

  static void sddmm(const PackedLayout& w, const float* base, float scale, MatrixView<const float> g,
                    MatrixView<const float> x, float* values, ExecutorRef executor) {
    if (g.rows == 0) {
      const std::size_t kept = w.offsets[w.rows];
      if (base == nullptr) {
        std::fill_n(values, kept, 0.0f);
      } else if (base != values) {
        std::copy_n(base, kept, values);
      }
      return;
    }
    const PanelPlan plan{.tokens = g.rows, .lanes = K::lanes};
    const std::size_t g_floats = plan.floats(w.rows);
    const std::size_t x_floats = plan.floats(w.cols);
    Scratch shared(Scratch::need<float>(g_floats) + Scratch::need<float>(x_floats));
    float* g_panels = shared.take<float>(g_floats);
    float* x_panels = shared.take<float>(x_floats);
    pack_panels(g, plan, g_panels, executor);
    pack_panels(x, plan, x_panels, executor);
    // Groups follow one another, so that the panels of a group serve all blocks while they are in the cache, and so
    // that the sums of a value are added in order.
    for (const PanelGroup& group : panel_groups(plan, 8)) {
      executor.parallel_for(w.block_count, [&](std::size_t b) {
        const std::size_t width = plan.width(group.first);
        const TileShape tile(width);
        const std::size_t words = tile.cols / 64;
        const std::size_t end = w.blocks[b + 1];
        const std::size_t most = std::min(tile.rows, end - w.blocks[b]);
        Scratch scratch(TileDecoder<K>::need(most, tile.cols, most));
        TileDecoder<K> decoder(scratch, w, most, tile.cols, most);
        for (std::size_t r0 = w.blocks[b]; r0 < end; r0 += most) {
          const std::size_t rows = std::min(most, end - r0);
          decoder.seek(r0, r0 + rows, 0);
          for (std::size_t i = 0; i < w.words_per_row; i += words) {
            const bool last = i + words >= w.words_per_row;
            TileLists lists = decoder.decode(r0, rows, i, last ? w.words_per_row : i + words, width, 8);
            if (last) lists.next = r0 + 2 * rows <= w.rows ? w.offsets + r0 + rows : nullptr;
            for (std::size_t q = group.first; q < group.first + group.count; ++q) {
              const float* from = q == 0 ? base : values;
              const float* g_panel = g_panels + plan.offset(q, w.rows) + r0 * width;
              const float* x_panel = x_panels + plan.offset(q, w.cols) + i * 64 * width;
              lists.ahead = q + 1 < group.first + group.count
                                ? x_panel + w.cols * width
                                : x_panels + plan.offset(group.first, w.cols) + (i + words) * 64 * width;
              with_vectors(width / K::lanes,
                           [&](auto v) { K::template sample<v.value>(lists, from, scale, g_panel, x_panel, values); });
              lists.next = nullptr;
            }
            decoder.advance(lists, r0);
          }
        }
      });
    }
  }

  static constexpr Backend table(const char* name, bool (*supported)() noexcept) noexcept {
    return {.name = name,
            .supported = supported,
            .spmm_f32 = spmm<float>,
            .spmm_bf16 = spmm<bf16>,
            .spmm_f16 = spmm<f16>,
            .spmm_transposed = spmm_transposed,
            .sddmm = sddmm};
  }
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH
