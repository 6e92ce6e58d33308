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

/// Groups of up to four panels (eight at once push the X tiles out of a 512 KiB L2: −10 %), fewer where the groups
/// would not make eight tasks together with `blocks`.
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

/// Scratch of a task: decoded lists of up to `rows` rows.
class TileDecoder {
 public:
  static std::size_t need(const TileShape& tile, std::size_t cursors) noexcept {
    return Scratch::need<std::uint16_t>(tile.rows * tile.cols + decode_overrun) +
           Scratch::need<std::uint32_t>(tile.rows + 1) + Scratch::need<std::size_t>(cursors);
  }
  TileDecoder(Scratch& scratch, const TileShape& tile, std::size_t cursors) noexcept
      : entries_(scratch.take<std::uint16_t>(tile.rows * tile.cols + decode_overrun)),
        starts_(scratch.take<std::uint32_t>(tile.rows + 1)),
        cursors_(scratch.take<std::size_t>(cursors)) {}

  /// Puts the cursors of rows [r0, r1) at their first value at or after column 64 · word.
  void seek(const PackedLayout& w, std::size_t r0, std::size_t r1, std::size_t word) noexcept {
    for (std::size_t r = r0; r < r1; ++r) {
      std::size_t at = w.offsets[r];
      const std::uint64_t* words = w.words + r * w.words_per_row;
      for (std::size_t i = 0; i < word; ++i) at += static_cast<std::size_t>(std::popcount(words[i]));
      cursors_[r - r0] = at;
    }
  }

  /// Lists of rows [r0, r0 + rows) and words [w0, w1); `slot` is the cursor of row r0. The cursors returned by the
  /// lists are those before the tile: call advance when its kernels have run.
  TileLists decode(const PackedLayout& w, std::size_t r0, std::size_t rows, std::size_t w0, std::size_t w1,
                   std::size_t width, std::size_t slot) noexcept {
    std::uint16_t* out = entries_;
    for (std::size_t r = 0; r < rows; ++r) {
      starts_[r] = static_cast<std::uint32_t>(out - entries_);
      const std::uint64_t* words = w.words + (r0 + r) * w.words_per_row;
      for (std::size_t i = w0; i < w1; ++i) out = decode_word(words[i], (i - w0) * 64, width / 2, out);
    }
    starts_[rows] = static_cast<std::uint32_t>(out - entries_);
    std::fill_n(out, decode_overrun, std::uint16_t{0});
    return {rows, entries_, starts_, cursors_ + slot};
  }
  void advance(const TileLists& lists, std::size_t slot) noexcept {
    for (std::size_t r = 0; r < lists.rows; ++r) cursors_[slot + r] += lists.starts[r + 1] - lists.starts[r];
  }

 private:
  std::uint16_t* entries_;
  std::uint32_t* starts_;
  std::size_t* cursors_;
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
      const std::size_t stride = tile.rows * width;  // of the sums of one panel
      Scratch scratch(TileDecoder::need(tile, tile.rows) + Scratch::need<float>(group.count * stride));
      TileDecoder decoder(scratch, tile, tile.rows);
      float* sums = scratch.take<float>(group.count * stride);
      const std::size_t words = tile.cols / 64;
      for (std::size_t r0 = w.blocks[b]; r0 < w.blocks[b + 1]; r0 += tile.rows) {
        const std::size_t rows = std::min(tile.rows, w.blocks[b + 1] - r0);
        std::fill_n(sums, group.count * stride, 0.0f);
        decoder.seek(w, r0, r0 + rows, 0);
        for (std::size_t i = 0; i < w.words_per_row; i += words) {
          const TileLists lists = decoder.decode(w, r0, rows, i, std::min(i + words, w.words_per_row), width, 0);
          for (std::size_t q = 0; q < group.count; ++q) {
            const float* panel = panels + plan.offset(group.first + q, w.cols) + i * 64 * width;
            with_vectors(width / K::lanes,
                         [&](auto v) { K::template gather<v.value>(lists, values, panel, sums + q * stride); });
          }
          decoder.advance(lists, 0);
        }
        for (std::size_t q = 0; q < group.count; ++q) {
          const std::size_t t = plan.first_token(group.first + q);
          K::unpack_panel(sums + q * stride, width, plan.tokens_in(group.first + q), rows, y.data + t * y.stride + r0,
                          y.stride, bias == nullptr ? nullptr : bias + r0, accumulate);
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
    // Each task owns some column tiles, so no sum has two writers. Its cost of finding the tiles' values in the rows is
    // one popcount per word before them; at most 8 ranges keep that below 5 % at 64 tokens. A small matrix gets
    // narrower tiles, so that there are four.
    const TileShape tile(plan.width(0), round_up((w.cols + 3) / 4, 64));
    const std::size_t words = tile.cols / 64;
    const std::size_t tiles = (w.words_per_row + words - 1) / words;
    const std::size_t per_range = (tiles + 7) / 8;
    const std::size_t ranges = (tiles + per_range - 1) / per_range;
    const std::vector<PanelGroup> groups = panel_groups(plan, ranges);
    executor.parallel_for(ranges * groups.size(), [&](std::size_t task) {
      const PanelGroup group = groups[task / ranges];
      const std::size_t width = plan.width(group.first);
      const std::size_t stride = tile.cols * width;
      Scratch scratch(TileDecoder::need(tile, w.rows) + Scratch::need<float>(group.count * stride));
      TileDecoder decoder(scratch, tile, w.rows);
      float* sums = scratch.take<float>(group.count * stride);
      const std::size_t begin = task % ranges * per_range * words;
      const std::size_t end = std::min(begin + per_range * words, w.words_per_row);
      decoder.seek(w, 0, w.rows, begin);
      for (std::size_t i = begin; i < end; i += words) {
        std::fill_n(sums, group.count * stride, 0.0f);
        for (std::size_t r0 = 0; r0 < w.rows; r0 += tile.rows) {
          const std::size_t rows = std::min(tile.rows, w.rows - r0);
          const TileLists lists = decoder.decode(w, r0, rows, i, std::min(i + words, end), width, r0);
          for (std::size_t q = 0; q < group.count; ++q) {
            const float* panel = panels + plan.offset(group.first + q, w.rows) + r0 * width;
            with_vectors(width / K::lanes,
                         [&](auto v) { K::template scatter<v.value>(lists, values, panel, sums + q * stride); });
          }
          decoder.advance(lists, r0);
        }
        const std::size_t c = i * 64;
        for (std::size_t q = 0; q < group.count; ++q) {
          const std::size_t t = plan.first_token(group.first + q);
          K::unpack_panel(sums + q * stride, width, plan.tokens_in(group.first + q), std::min(tile.cols, w.cols - c),
                          dx.data + t * dx.stride + c, dx.stride, nullptr, accumulate);
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
    const std::vector<PanelGroup> groups = panel_groups(plan, 8);
    executor.parallel_for(w.block_count, [&](std::size_t b) {
      for (const PanelGroup& group : groups) {
        const std::size_t width = plan.width(group.first);
        const TileShape tile(width);
        const std::size_t words = tile.cols / 64;
        Scratch scratch(TileDecoder::need(tile, tile.rows));
        TileDecoder decoder(scratch, tile, tile.rows);
        for (std::size_t r0 = w.blocks[b]; r0 < w.blocks[b + 1]; r0 += tile.rows) {
          const std::size_t rows = std::min(tile.rows, w.blocks[b + 1] - r0);
          decoder.seek(w, r0, r0 + rows, 0);
          for (std::size_t i = 0; i < w.words_per_row; i += words) {
            const TileLists lists = decoder.decode(w, r0, rows, i, std::min(i + words, w.words_per_row), width, 0);
            for (std::size_t q = group.first; q < group.first + group.count; ++q) {
              const float* from = q == 0 ? base : values;
              const float* g_panel = g_panels + plan.offset(q, w.rows) + r0 * width;
              const float* x_panel = x_panels + plan.offset(q, w.cols) + i * 64 * width;
              with_vectors(width / K::lanes,
                           [&](auto v) { K::template sample<v.value>(lists, from, scale, g_panel, x_panel, values); });
            }
            decoder.advance(lists, 0);
          }
        }
      }
    });
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
