#pragma once
// y (tokens, rows) = x · Wᵀ on AMX. A tile multiplication skips no zero, so what sparsity saves here is memory: packed
// weights travel, and are expanded to whole rows where they are multiplied.
//
//   for each task (share of row blocks, group of up to 256 tokens):
//     for each range of columns (8 steps), row block of 32:
//       expand the weights once (16 KiB); for each two tiles of 16 tokens: sums += weights · activations
//     sums (block, token tile, 32 rows, 16 tokens) → y
//
// The 16 KiB of weights and as much of activations are read again and again from a first-level cache of 48 KiB; a
// group's activations of a range (128 KiB) and its sums (256 KiB) lie in the second level, of 2 MiB. Sizes are reasoned
// from those of Sapphire Rapids, not measured.
//
// Every sum goes through the columns from the first to the last: groups and shares change no bit.

#include <losa/gemm/amx/kernels.hpp>
#if defined(LOSA_AVX512)

#include <algorithm>
#include <atomic>
#include <cstddef>

#include <losa/core/executor.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/avx512/kernels.hpp>
#include <losa/gemm/backend.hpp>
#include <losa/gemm/panel/driver.hpp>
#include <losa/gemm/scratch.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH::amx {

/// Up to so many tokens the product is avx512_bf16's. Reasoned, not measured: a row of 64 columns takes about 8 cycles
/// to expand, for however many tokens, and 2 to 4 to multiply for 16; the kernels for few tokens spread it in registers
/// for as much and multiply only what there is, while panels take twenty or more for 16 tokens.
inline constexpr std::size_t few_tokens = 8;

inline constexpr std::size_t range_steps = 8;
inline constexpr std::size_t most_blocks = 8;

/// The tiles of 16 tokens of a call, in groups of 16, of fewer where the groups would not make eight tasks together
/// with `shares`.
struct TokenGroups {
  std::size_t tiles;
  std::size_t step = 16;

  TokenGroups(std::size_t tokens, std::size_t shares) noexcept : tiles((tokens + tile_tokens - 1) / tile_tokens) {
    while (step > 2 && shares * size() < 8) step /= 2;
  }
  std::size_t size() const noexcept { return (tiles + step - 1) / step; }
  std::size_t first(std::size_t g) const noexcept { return g * step; }
  std::size_t count(std::size_t g) const noexcept { return std::min(step, tiles - first(g)); }
};

/// The product of a KernelSet (Bf16, Int8) on tile registers of type Tiles.
template <class Tiles, class KernelSet>
class Product {
  using Weights = typename KernelSet::Weights;
  using Panels = PanelProducts<avx512::Kernels>;  // of avx512_bf16 too, for integers
  static constexpr std::size_t tile_steps = tile_cols / KernelSet::step_cols;
  static constexpr std::size_t range_tiles = range_steps / tile_steps;

 public:
  /// False, with y untouched, if the activations have to stay in float.
  static bool spmm(const PackedLayout& w, const Weights& weights, MatrixView<const float> x, MatrixView<float> y,
                   const float* bias, bool accumulate, ExecutorRef executor) {
    const TokenGroups groups(x.rows, w.share_count);
    const PanelPlan plan{.tokens = x.rows, .lanes = avx512::Kernels::lanes};
    const std::size_t steps = w.tiles * tile_steps;
    const std::size_t scales = KernelSet::scaled ? (w.tiles + 1) / 2 * tile_tokens : 0;
    std::size_t bytes =
        Scratch::need<std::byte>(groups.tiles * steps * tile_bytes) + Scratch::need<float>(groups.tiles * scales);
    // What the product in float would take, so that it finds it where another product left it.
    if (KernelSet::scaled) bytes = std::max(bytes, Panels::shared_need(plan, w.cols));
    Scratch shared(bytes);
    auto* const packed = shared.take<std::byte>(groups.tiles * steps * tile_bytes);
    auto* const packed_scales = shared.take<float>(groups.tiles * scales);
    const TokenTiles all{packed, steps * tile_bytes, packed_scales, scales};
    if (!pack(w, x, groups.tiles, packed, packed_scales, all, executor)) return false;
    executor.parallel_for(w.share_count * groups.size(), [&](std::size_t task) {
      const std::size_t g = task / w.share_count;
      const std::size_t begin = w.shares[task % w.share_count];
      const std::size_t end = w.shares[task % w.share_count + 1];
      const std::size_t tokens = groups.count(g);
      const std::size_t most = std::min(most_blocks, end - begin);
      std::size_t need =
          Scratch::need<std::byte>(range_steps * step_bytes) + Scratch::need<float>(most * tokens * sum_floats);
      if (KernelSet::scaled)
        need = std::max(need, Panels::task_need(plan, PanelGroups(plan, w.share_count)[0], w.row_blocks));
      Scratch scratch(need);
      auto* const expanded = scratch.take<std::byte>(range_steps * step_bytes);
      auto* const sums = scratch.take<float>(most * tokens * sum_floats);
      Tiles tiles;
      for (std::size_t b = begin; b < end; b += most) {
        const std::size_t last = std::min(b + most, end);
        add_blocks(tiles, w, weights, b, last, from(all, groups.first(g)), tokens, expanded, sums);
        for (std::size_t i = b; i < last; ++i) {
          float* const block = sums + (i - b) * tokens * sum_floats;
          KernelSet::finish(weights, i, block, tokens);
          const std::size_t r = i * tile_rows;
          for (std::size_t q = 0; q < tokens; ++q) {
            const std::size_t t = (groups.first(g) + q) * tile_tokens;
            avx512::Kernels::unpack_panel(block + q * sum_floats, tile_tokens, std::min(tile_tokens, x.rows - t),
                                          std::min(tile_rows, w.rows - r), y.data + t * y.stride + r, y.stride,
                                          bias == nullptr ? nullptr : bias + r, accumulate);
          }
        }
      }
    });
    return true;
  }

 private:
  /// The tiles of tokens from the n-th on.
  static TokenTiles from(TokenTiles tokens, std::size_t n) noexcept {
    tokens.x += n * tokens.x_step;
    tokens.scales += n * tokens.scales_step;
    return tokens;
  }

  static bool pack(const PackedLayout& w, MatrixView<const float> x, std::size_t token_tiles, std::byte* packed,
                   float* scales, const TokenTiles& all, ExecutorRef executor) {
    constexpr std::size_t chunk = 8;  // tiles of 64 columns
    const std::size_t chunks = (w.tiles + chunk - 1) / chunk;
    std::atomic<bool> fit{true};
    executor.parallel_for(token_tiles * chunks, [&](std::size_t task) {
      const std::size_t n = task / chunks;
      const std::size_t t = task % chunks * chunk;
      const std::size_t token = n * tile_tokens;
      const std::size_t c = t * tile_cols;
      if (!KernelSet::pack(x.data + token * x.stride + c, x.stride, std::min(tile_tokens, x.rows - token),
                           std::min(chunk * tile_cols, x.cols - c),
                           packed + n * all.x_step + t * tile_steps * tile_bytes,
                           scales + n * all.scales_step + (KernelSet::scaled ? t / 2 * tile_tokens : 0)))
        fit.store(false, std::memory_order_relaxed);
    });
    return fit.load(std::memory_order_relaxed);
  }

  /// sums (block, token tile, 32, 16) ← the product for row blocks [first, last).
  static void add_blocks(Tiles& tiles, const PackedLayout& w, const Weights& weights, std::size_t first,
                         std::size_t last, const TokenTiles& tokens, std::size_t token_tiles, std::byte* expanded,
                         float* sums) noexcept {
    std::fill_n(sums, (last - first) * token_tiles * sum_floats, 0.0f);
    for (std::size_t t = 0; t < w.tiles; t += range_tiles) {
      const std::size_t end = std::min(t + range_tiles, w.tiles);
      TokenTiles range = tokens;
      range.x += t * tile_steps * tile_bytes;
      if (KernelSet::scaled) range.scales += t / 2 * tile_tokens;
      for (std::size_t b = first; b < last; ++b) {
        KernelSet::expand(w, weights, b, std::min(b + 1, w.row_blocks - 1), t, end, expanded);
        const std::size_t steps = (end - t) * tile_steps;
        float* const block = sums + (b - first) * token_tiles * sum_floats;
        std::size_t q = 0;
        for (; q + 2 <= token_tiles; q += 2)
          KernelSet::template multiply<2>(tiles, expanded, from(range, q), steps, block + q * sum_floats);
        if (q < token_tiles)
          KernelSet::template multiply<1>(tiles, expanded, from(range, q), steps, block + q * sum_floats);
      }
    }
  }
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::amx
#endif
