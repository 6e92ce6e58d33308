#pragma once
// The blocking that the SIMD backends share. Activations are transposed once per call to panels [column][tokens], up to
// eight vectors of tokens wide; the mask of a (rows × columns) tile is decoded once to lists of columns and used for
// several panels; each kept weight is then one multiply-add on a vector of tokens per vector of the panel, and no
// pruned weight is touched.
//
//   spmm              sums[row]     += value · panel[column]          gather, rows in parallel
//   spmm_transposed   sums[column]  += value · panel[row]             scatter, column tiles in parallel;
//                                                                     for many tokens gather, on turned tiles
//   sddmm             value         += panel g[row] · panel x[column] sample, rows in parallel
//
// Tasks and tiles follow from the shapes and kept counts alone, so the bits do not depend on the executor.
// A kernel set supplies the inner loops for one instruction set: see portable/kernels.hpp for the plainest one.

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <losa/core/executor.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/backend.hpp>
#include <losa/gemm/panel/plan.hpp>
#include <losa/gemm/panel/tile.hpp>
#include <losa/gemm/panel/transpose.hpp>
#include <losa/gemm/scratch.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH {

/// The products of a Backend table from a kernel set.
template <class KernelSet>
struct PanelProducts {
  /// Panels that one decoded range of dx or sddmm serves.
  static constexpr std::size_t most_panels = [] {
    if constexpr (requires { KernelSet::most_panels; }) return KernelSet::most_panels;
    return std::size_t{4};
  }();

  /// Transposes x (tokens, cols) to the panels of `plan`.
  static void pack_panels(MatrixView<const float> x, const PanelPlan& plan, float* panels, ExecutorRef executor) {
    constexpr std::size_t chunk = 512;
    const std::size_t chunks = (x.cols + chunk - 1) / chunk;
    executor.parallel_for(plan.count * chunks, [&](std::size_t task) {
      const std::size_t p = task / chunks;
      const std::size_t c = task % chunks * chunk;
      const std::size_t width = plan.width(p);
      KernelSet::pack_panel(x.data + plan.first_token(p) * x.stride + c, x.stride, plan.tokens_in(p),
                            std::min(chunk, x.cols - c), panels + plan.offset(p, x.cols) + c * width, width);
    });
  }

  /// Bytes of scratch that spmm in panels takes on the calling thread, and at most in a task of up to `blocks` row
  /// blocks.
  static std::size_t shared_need(const PanelPlan& plan, std::size_t cols) noexcept {
    return Scratch::need<float>(plan.floats(cols));
  }
  static std::size_t task_need(const PanelPlan& plan, const PanelGroup& group, std::size_t blocks) noexcept {
    const TileSizes shape(plan.width(group.first));
    const std::size_t most = std::min(shape.blocks, blocks);
    return TileDecoder<KernelSet>::need(most, shape.tiles) +
           Scratch::need<float>(group.count * most * tile_rows * plan.width(group.first));
  }

  template <class WeightsType>
  static void spmm(const PackedLayout& w, const WeightsType& weights, MatrixView<const float> x, MatrixView<float> y,
                   const float* bias, bool accumulate, ExecutorRef executor) {
    if constexpr (requires { typename KernelSet::template FewTokens<WeightsType>; })
      if (x.rows <= KernelSet::template FewTokens<WeightsType>::most)
        return few<typename KernelSet::template FewTokens<WeightsType>>(w, weights, x, y, bias, accumulate, executor);
    const PanelPlan plan{.tokens = x.rows, .lanes = KernelSet::lanes};
    const PanelGroups groups(plan, w.share_count);
    Scratch shared(shared_need(plan, w.cols));
    float* panels = shared.take<float>(plan.floats(w.cols));
    pack_panels(x, plan, panels, executor);
    executor.parallel_for(w.share_count * groups.size(), [&](std::size_t task) {
      const PanelGroup group = groups[task / w.share_count];
      const std::size_t width = plan.width(group.first);
      const std::size_t begin = w.shares[task % w.share_count];
      const std::size_t end = w.shares[task % w.share_count + 1];
      const TileSizes shape(width);
      const std::size_t most = std::min(shape.blocks, end - begin);
      const std::size_t floats = most * tile_rows * width;
      Scratch scratch(task_need(plan, group, end - begin));
      TileDecoder<KernelSet> decoder(scratch, most, shape.tiles);
      float* sums = scratch.take<float>(group.count * floats);
      for (std::size_t b = begin; b < end; b += most) {
        std::fill_n(sums, group.count * floats, 0.0f);
        for (std::size_t t = 0; t < w.tiles; t += shape.tiles) {
          const TileRange range{b, std::min(b + most, end), t, std::min(t + shape.tiles, w.tiles)};
          TileLists lists = decoder.decode(w, weights, range, width);
          for (std::size_t q = 0; q < group.count; ++q) {
            const float* panel = panels + plan.offset(group.first + q, w.cols) + t * tile_cols * width;
            lists.ahead = q + 1 < group.count ? panel + w.cols * width
                                              : panel - q * w.cols * width + shape.tiles * tile_cols * width;
            with_vectors(width / KernelSet::lanes,
                         [&](auto v) { KernelSet::template gather<v.value>(lists, panel, sums + q * floats); });
          }
        }
        const std::size_t r = b * tile_rows;
        const std::size_t rows = std::min(std::min(b + most, end) * tile_rows, w.rows) - r;
        for (std::size_t q = 0; q < group.count; ++q)
          KernelSet::unpack_panel(sums + q * floats, width, plan.tokens_in(group.first + q), rows,
                                  y.data + plan.first_token(group.first + q) * y.stride + r, y.stride,
                                  bias == nullptr ? nullptr : bias + r, accumulate);
      }
    });
  }

  /// The widest panel of which a whole range of columns stays in the first-level cache. Of a wider one half a range
  /// does and serves several row blocks (4096 × 4096, 70 %, f32, 64 tokens, one thread of Zen 4: AVX2 11.3 → 9.0 ms,
  /// AVX-512 9.3 → 8.3; with one row block 9.6 and 8.4).
  static constexpr std::size_t list_width = 16;
  static constexpr std::size_t list_blocks = 8;

  template <class Element>
  static void spmm_list(const ListLayout& w, const ListWeights<Element>& weights, MatrixView<const float> x,
                        MatrixView<float> y, const float* bias, bool accumulate, ExecutorRef executor) {
    if constexpr (std::is_same_v<Element, std::int8_t> && requires { typename KernelSet::FewListTokens; })
      if (few_list<typename KernelSet::FewListTokens>(w, weights, x, y, bias, accumulate, executor)) return;
    const PanelPlan plan{.tokens = x.rows, .lanes = KernelSet::lanes};
    const PanelGroups groups(plan, w.share_count);
    Scratch shared(Scratch::need<float>(plan.floats(w.cols)));
    float* panels = shared.take<float>(plan.floats(w.cols));
    pack_panels(x, plan, panels, executor);
    executor.parallel_for(w.share_count * groups.size(), [&](std::size_t task) {
      const PanelGroup group = groups[task / w.share_count];
      const std::size_t width = plan.width(group.first);
      const std::size_t begin = w.shares[task % w.share_count];
      const std::size_t end = w.shares[task % w.share_count + 1];
      const bool halves = width > list_width;
      const std::size_t most = std::min(halves ? list_blocks : 1, end - begin);
      const std::size_t block_floats = tile_rows * width;
      const std::size_t floats = most * block_floats;
      Scratch scratch(Scratch::need<float>(group.count * floats));
      float* sums = scratch.take<float>(group.count * floats);
      for (std::size_t b = begin; b < end; b += most) {
        const std::size_t blocks = std::min(most, end - b);
        std::fill_n(sums, group.count * floats, 0.0f);
        const auto gather = [&]<ListPart part>(std::size_t range, std::size_t q) {
          const float* panel = panels + plan.offset(group.first + q, w.cols) + range * ListLayout::range_cols * width;
          with_vectors(width / KernelSet::lanes, [&](auto v) {
            for (std::size_t i = 0; i < blocks; ++i) {
              const std::size_t tile = (b + i) * w.ranges + range;
              KernelSet::template gather_list<v.value, part>(
                  w.counts + tile * 2 * tile_rows, w.col_indices + w.offsets[tile], weights.values + w.offsets[tile],
                  panel, sums + q * floats + i * block_floats);
            }
          });
        };
        for (std::size_t range = 0; range < w.ranges; ++range)
          for (std::size_t q = 0; q < group.count; ++q) {
            if (halves) {
              gather.template operator()<ListPart::first>(range, q);
              gather.template operator()<ListPart::second>(range, q);
            } else {
              gather.template operator()<ListPart::whole>(range, q);
            }
          }
        const std::size_t r = b * tile_rows;
        for (std::size_t q = 0; q < group.count; ++q) {
          float* const panel_sums = sums + q * floats;
          if (weights.scales != nullptr)
            for (std::size_t i = 0; i < blocks * block_floats; ++i) panel_sums[i] *= weights.scales[r + i / width];
          KernelSet::unpack_panel(panel_sums, width, plan.tokens_in(group.first + q),
                                  std::min(blocks * tile_rows, w.rows - r),
                                  y.data + plan.first_token(group.first + q) * y.stride + r, y.stride,
                                  bias == nullptr ? nullptr : bias + r, accumulate);
        }
      }
    });
  }

  static void spmm_transposed(const PackedLayout& w, const float* values, MatrixView<const float> g,
                              MatrixView<float> dx, bool accumulate, ExecutorRef executor) {
    const PanelPlan plan{.tokens = g.rows, .lanes = KernelSet::lanes};
    Scratch shared(Scratch::need<float>(plan.floats(w.rows)));
    float* panels = shared.take<float>(plan.floats(w.rows));
    pack_panels(g, plan, panels, executor);
    // By rows every kept weight loads and stores a vector of sums. For few tokens, which would not pay for turning
    // tiles over (128 of AVX2 make up for it: 1536 × 576 at 70 % took 1.7 against 1.9 ms at 64 tokens, 7.5 against 14
    // ms at 512).
    if (plan.full < 2) {
      scatter_columns(w, values, panels, plan, dx, accumulate, executor);
    } else {
      gather_columns(w, values, panels, plan, dx, accumulate, executor);
    }
  }

  // Each task owns a range of columns, so no sum has two writers.
  static void scatter_columns(const PackedLayout& w, const float* values, const float* panels, const PanelPlan& plan,
                              MatrixView<float> dx, bool accumulate, ExecutorRef executor) {
    const TileSizes shape(plan.width(0));
    const std::size_t tiles = std::min(shape.tiles, (w.tiles + 3) / 4);
    const std::size_t ranges = tiles == 0 ? 0 : (w.tiles + tiles - 1) / tiles;
    const PanelGroups groups(plan, ranges);
    executor.parallel_for(ranges * groups.size(), [&](std::size_t task) {
      const PanelGroup group = groups[task / ranges];
      const std::size_t width = plan.width(group.first);
      const std::size_t t = task % ranges * tiles;
      const std::size_t cols = cols_in(w, t, tiles);
      Scratch scratch(TileDecoder<KernelSet>::need(shape.blocks, tiles) +
                      Scratch::need<float>(group.count * cols * width));
      TileDecoder<KernelSet> decoder(scratch, shape.blocks, tiles);
      float* sums = scratch.take<float>(group.count * cols * width);
      std::fill_n(sums, group.count * cols * width, 0.0f);
      for (std::size_t b = 0; b < w.row_blocks; b += shape.blocks) {
        const TileRange range{b, std::min(b + shape.blocks, w.row_blocks), t, std::min(t + tiles, w.tiles)};
        TileLists lists = decoder.decode(w, FloatWeights<float>{values}, range, width);
        lists.rows = std::min(lists.rows, w.rows - b * tile_rows);
        for (std::size_t q = 0; q < group.count; ++q) {
          const float* panel = panels + plan.offset(group.first + q, w.rows) + b * tile_rows * width;
          with_vectors(width / KernelSet::lanes,
                       [&](auto v) { KernelSet::template scatter<v.value>(lists, panel, sums + q * cols * width); });
        }
      }
      store_columns(plan, group, sums, cols * width, cols, t * tile_cols, dx, accumulate);
    });
  }

  // The same on turned tiles: sums stay in registers.
  static void gather_columns(const PackedLayout& w, const float* values, const float* panels, const PanelPlan& plan,
                             MatrixView<float> dx, bool accumulate, ExecutorRef executor) {
    const TurnedTileSizes shape(plan.width(0), w.tiles);
    const std::size_t ranges = (w.tiles + shape.tiles - 1) / shape.tiles;
    const PanelGroups groups(plan, ranges, most_panels);
    executor.parallel_for(ranges * groups.size(), [&](std::size_t task) {
      const PanelGroup group = groups[task / ranges];
      const std::size_t width = plan.width(group.first);
      const std::size_t t = task % ranges * shape.tiles;
      const std::size_t cols = cols_in(w, t, shape.tiles);
      const std::size_t floats = shape.tiles * tile_cols * width;
      Scratch scratch(TileDecoder<KernelSet>::need(shape.blocks, shape.tiles) +
                      TileTurner::need(shape.blocks * tile_rows, shape.tiles * tile_cols) +
                      Scratch::need<float>(group.count * floats));
      TileDecoder<KernelSet> decoder(scratch, shape.blocks, shape.tiles);
      TileTurner turner(scratch, shape.blocks * tile_rows, shape.tiles * tile_cols);
      float* sums = scratch.take<float>(group.count * floats);
      std::fill_n(sums, group.count * floats, 0.0f);
      for (std::size_t b = 0; b < w.row_blocks; b += shape.blocks) {
        const TileRange range{b, std::min(b + shape.blocks, w.row_blocks), t, std::min(t + shape.tiles, w.tiles)};
        TileLists lists = turner.turn(decoder.decode(w, FloatWeights<float>{values}, range, 2), cols, width);
        for (std::size_t q = 0; q < group.count; ++q) {
          const float* panel = panels + plan.offset(group.first + q, w.rows) + b * tile_rows * width;
          lists.ahead = q + 1 < group.count ? panel + w.rows * width
                                            : panel - q * w.rows * width + shape.blocks * tile_rows * width;
          with_vectors(width / KernelSet::lanes,
                       [&](auto v) { KernelSet::template gather<v.value>(lists, panel, sums + q * floats); });
        }
      }
      store_columns(plan, group, sums, floats, cols, t * tile_cols, dx, accumulate);
    });
  }

  static void sddmm(const PackedLayout& w, const float* base, float scale, MatrixView<const float> g,
                    MatrixView<const float> x, float* values, ExecutorRef executor) {
    if (g.rows == 0) {
      if (base == nullptr) {
        std::fill_n(values, w.kept(), 0.0f);
      } else if (base != values) {
        std::copy_n(base, w.kept(), values);
      }
      return;
    }
    const PanelPlan plan{.tokens = g.rows, .lanes = KernelSet::lanes};
    const std::size_t g_floats = plan.floats(w.rows);
    const std::size_t x_floats = plan.floats(w.cols);
    Scratch shared(Scratch::need<float>(g_floats) + Scratch::need<float>(x_floats));
    float* g_panels = shared.take<float>(g_floats);
    float* x_panels = shared.take<float>(x_floats);
    pack_panels(g, plan, g_panels, executor);
    pack_panels(x, plan, x_panels, executor);
    // Groups follow one another, so that the panels of a group serve all blocks while they are in the cache, and so
    // that the sums of a value are added in order.
    const PanelGroups groups(plan, 8, most_panels);
    for (std::size_t i = 0; i < groups.size(); ++i) {
      const PanelGroup group = groups[i];
      const float* from = group.first == 0 ? base : values;
      executor.parallel_for(w.share_count, [&](std::size_t share) {
        const std::size_t width = plan.width(group.first);
        const std::size_t end = w.shares[share + 1];
        const TileSizes shape(width);
        const std::size_t most = std::min(shape.blocks, end - w.shares[share]);
        Scratch scratch(TileDecoder<KernelSet>::need(most, shape.tiles));
        TileDecoder<KernelSet> decoder(scratch, most, shape.tiles);
        for (std::size_t b = w.shares[share]; b < end; b += most)
          for (std::size_t t = 0; t < w.tiles; t += shape.tiles) {
            const TileRange range{b, std::min(b + most, end), t, std::min(t + shape.tiles, w.tiles)};
            TileLists lists = decoder.decode(w, NoWeights{}, range, width);
            lists.rows = std::min(lists.rows, w.rows - b * tile_rows);
            for (std::size_t q = 0; q < group.count; ++q) {
              const float* g_panel = g_panels + plan.offset(group.first + q, w.rows) + b * tile_rows * width;
              const float* x_panel = x_panels + plan.offset(group.first + q, w.cols) + t * tile_cols * width;
              lists.ahead = q + 1 < group.count ? x_panel + w.cols * width
                                                : x_panel - q * w.cols * width + shape.tiles * tile_cols * width;
              with_vectors(width / KernelSet::lanes, [&](auto v) {
                KernelSet::template sample<v.value>(lists, g_panel, x_panel, q != 0, decoder.values());
              });
            }
            KernelSet::store_values(w, range, lists, from, scale, values);
          }
      });
    }
  }

  static constexpr Backend table(const char* name, bool (*supported)() noexcept) noexcept {
    return {.name = name,
            .supported = supported,
            .spmm_f32 = spmm<FloatWeights<float>>,
            .spmm_bf16 = spmm<FloatWeights<bf16>>,
            .spmm_f16 = spmm<FloatWeights<f16>>,
            .spmm_int8 = spmm<Int8Weights>,
            .spmm_int4 = spmm<Int4Weights>,
            .list_f32 = spmm_list<float>,
            .list_bf16 = spmm_list<bf16>,
            .list_f16 = spmm_list<f16>,
            .list_int8 = spmm_list<std::int8_t>,
            .spmm_transposed = spmm_transposed,
            .sddmm = sddmm};
  }

 private:
  /// One to a few tokens: no lists, weights are expanded to registers.
  template <class Tokens, class WeightsType>
  static void few(const PackedLayout& w, const WeightsType& weights, MatrixView<const float> x, MatrixView<float> y,
                  const float* bias, bool accumulate, ExecutorRef executor) {
    Scratch scratch(Tokens::need(x.rows, w.tiles));
    const Tokens tokens(scratch, x, w.tiles);
    executor.parallel_for(w.share_count, [&](std::size_t share) {
      tokens.multiply(w, weights, w.shares[share], w.shares[share + 1], y, bias, accumulate);
    });
  }

  /// The same with lists of integers. False if there are too many tokens, or they cannot become integers.
  template <class Tokens>
  static bool few_list(const ListLayout& w, const ListWeights<std::int8_t>& weights, MatrixView<const float> x,
                       MatrixView<float> y, const float* bias, bool accumulate, ExecutorRef executor) {
    if (x.rows > Tokens::most) return false;
    Scratch scratch(Tokens::need(x.rows, x.cols));
    const Tokens tokens(scratch, x);
    if (!tokens.packed()) return false;
    executor.parallel_for(w.share_count, [&](std::size_t share) {
      tokens.multiply(w, weights, w.shares[share], w.shares[share + 1], y, bias, accumulate);
    });
    return true;
  }

  /// Columns of `tiles` tiles from tile t on.
  static std::size_t cols_in(const PackedLayout& w, std::size_t t, std::size_t tiles) noexcept {
    return std::min((t + tiles) * tile_cols, w.cols) - t * tile_cols;
  }

  /// dx[:, first …] ← sums of a group's panels, `step` floats from panel to panel.
  static void store_columns(const PanelPlan& plan, const PanelGroup& group, const float* sums, std::size_t step,
                            std::size_t cols, std::size_t first, MatrixView<float> dx, bool accumulate) {
    for (std::size_t q = 0; q < group.count; ++q)
      KernelSet::unpack_panel(sums + q * step, plan.width(group.first), plan.tokens_in(group.first + q), cols,
                              dx.data + plan.first_token(group.first + q) * dx.stride + first, dx.stride, nullptr,
                              accumulate);
  }
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH
