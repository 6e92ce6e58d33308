#pragma once
// The blocking that the SIMD backends share. Activations are transposed once per call to panels [column][tokens], up to
// eight vectors of tokens wide; the mask of a (rows × columns) tile is decoded once to lists of columns and used for
// up to four panels; each kept weight is then one multiply-add on a vector of tokens per vector of the panel, and no
// pruned weight is touched.
//
//   spmm              sums[row]     += value · panel[column]          gather, rows in parallel
//   spmm_transposed   sums[column]  += value · panel[row]             scatter, column tiles in parallel
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
#include <losa/gemm/panel/decode.hpp>
#include <losa/gemm/scratch.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH {

/// The kept weights of some rows within one column tile, as kernels read them. Four entries past the last are readable
/// and lie within the tile.
struct TileLists {
  std::size_t rows = 0;
  const std::uint16_t* entries = nullptr;  // column in the tile · panel width / 2: panel + 2 · entry is its vector
  const std::uint32_t* starts = nullptr;   // (rows + 1) into entries
  const std::size_t* offsets = nullptr;    // (rows) index of the row's first value in the tile
  const std::size_t* next = nullptr;       // (rows) index of a value to be needed soon, or null
  const float* ahead = nullptr;            // panel to be read next, 32 KiB from here, or null

  std::size_t count(std::size_t r) const noexcept { return starts[r + 1] - starts[r]; }

  /// Values that the row will need soon, as many as it has here; kernels ask for them as they go. Rows of a tile jump
  /// through memory, which the hardware does not foresee (cold 4096 × 4096 at 70 %, AVX2, median of three runs on a
  /// busy machine: 17 → 26 GFLOP/s at 16 tokens, 33 → 42 at 64; asking once per row does as well).
  template <class T>
  const T* soon(const T* values, std::size_t r) const noexcept {
    return values + (next != nullptr ? next[r] : offsets[r]);
  }
  /// Two lines of the panel to be read next: 256 rows bring a tile of it to L2.
  void prefetch_panel(std::size_t r) const noexcept {
    if (ahead == nullptr) return;
    __builtin_prefetch(ahead + r * 32, 0, 2);
    __builtin_prefetch(ahead + r * 32 + 16, 0, 2);
  }
};

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

/// Tile sizes for panels of a width: a tile of X is 32 KiB (with 64 KiB the loop loses a quarter, with 16 KiB the rows
/// cost more than they hold), its lists at most 64 KiB.
struct TileShape {
  std::size_t cols;
  std::size_t rows;
  explicit TileShape(std::size_t width) noexcept : TileShape(width, 8192) {}
  TileShape(std::size_t width, std::size_t most_cols) noexcept
      : cols(std::max<std::size_t>(64, std::min(8192 / width, most_cols))),
        rows(std::clamp<std::size_t>(32768 / cols, 1, 256)) {}
};

/// Scratch of a task: decoded lists of up to `rows` rows, and for each of `cursors` rows where its values stand.
template <class K>
class TileDecoder {
 public:
  static std::size_t need(std::size_t rows, std::size_t cols, std::size_t cursors) noexcept {
    return Scratch::need<std::uint16_t>(rows * cols + decode_overrun) + Scratch::need<std::uint32_t>(rows + 1) +
           Scratch::need<std::size_t>(cursors) + Scratch::need<std::size_t>(rows);
  }
  TileDecoder(Scratch& scratch, const PackedLayout& w, std::size_t rows, std::size_t cols, std::size_t cursors) noexcept
      : w_(w),
        entries_(scratch.take<std::uint16_t>(rows * cols + decode_overrun)),
        starts_(scratch.take<std::uint32_t>(rows + 1)),
        cursors_(scratch.take<std::size_t>(cursors)),
        next_(scratch.take<std::size_t>(rows)) {}

  /// Puts the cursors of rows [r0, r1) at their first value at or after column 64 · word.
  void seek(std::size_t r0, std::size_t r1, std::size_t word) noexcept {
    first_ = r0;
    K::seek(w_, r0, r1, word, cursors_);
  }

  /// Lists of rows [r0, r0 + rows) and words [w0, w1), entries being columns of a panel with `stride` floats each. The
  /// offsets they refer to are those before the tile: call advance when the kernels have run.
  TileLists decode(std::size_t r0, std::size_t rows, std::size_t w0, std::size_t w1, std::size_t stride) noexcept {
    std::uint16_t* out = entries_;
    const std::size_t* cursors = cursors_ + (r0 - first_);
    for (std::size_t r = 0; r < rows; ++r) {
      starts_[r] = static_cast<std::uint32_t>(out - entries_);
      const std::uint64_t* words = w_.words + (r0 + r) * w_.words_per_row;
      __builtin_prefetch(words + w0 + 8, 0, 2);
      out = K::decode(words + w0, w1 - w0, stride / 2, out);
      next_[r] = cursors[r] + static_cast<std::size_t>(out - entries_) - starts_[r];
    }
    starts_[rows] = static_cast<std::uint32_t>(out - entries_);
    std::fill_n(out, decode_overrun, std::uint16_t{0});
    return {.rows = rows, .entries = entries_, .starts = starts_, .offsets = cursors, .next = next_};
  }
  void advance(const TileLists& lists, std::size_t r0) noexcept {
    std::copy_n(next_, lists.rows, cursors_ + (r0 - first_));
  }

 private:
  const PackedLayout& w_;
  std::size_t first_ = 0;
  std::uint16_t* entries_;
  std::uint32_t* starts_;
  std::size_t* cursors_;
  std::size_t* next_;
};

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
          TileLists lists = decoder.decode(r0, rows, i, last ? w.words_per_row : i + words, width);
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
          TileLists lists = decoder.decode(r0, rows, i, last ? end : i + words, width);
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
            TileLists lists = decoder.decode(r0, rows, i, last ? w.words_per_row : i + words, width);
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
