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

#include <losa/gemm/bitmask/amx_kernels.hpp>
#if defined(LOSA_AVX512)

#include <algorithm>
#include <cstddef>

#include <losa/core/view.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/arena.hpp>
#include <losa/gemm/bitmask/avx512.hpp>
#include <losa/gemm/bitmask/avx512_bf16.hpp>
#include <losa/gemm/formats.hpp>
#include <losa/gemm/kernel.hpp>
#include <losa/gemm/operation.hpp>
#include <losa/gemm/panel/multiply.hpp>
#include <losa/gemm/shares.hpp>
#include <losa/gemm/target/amx.hpp>

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

/// The product of a KernelSet (Bf16, Int8) on tile registers of type Tiles. Phases: pack; for integers, pack again as
/// floats if some activation has to stay one; multiply. Up to few_tokens, and with floats, it is the product of Parent.
template <class Tiles, class KernelSet, class Parent>
class TileMultiply {
  using Weights = typename KernelSet::Weights;
  static constexpr std::size_t tile_steps = tile_cols / KernelSet::step_cols;
  static constexpr std::size_t range_tiles = range_steps / tile_steps;
  static constexpr std::size_t chunk = 8;  // tiles of 64 columns that a task packs

 public:
  TileMultiply(const Operand<Weights>& operand, Shape shape) noexcept
      : parent_(operand, shape),
        w_(operand.layout),
        weights_(operand.weights),
        tokens_(shape.tokens),
        shares_(many_shares(w_.row_blocks, shape.threads)),
        groups_(shape.tokens, shares_),
        chunks_((w_.tiles + chunk - 1) / chunk),
        steps_(w_.tiles * tile_steps),
        scales_(KernelSet::scaled ? (w_.tiles + 1) / 2 * tile_tokens : 0) {}

  Needs needs() const noexcept {
    Needs all = parent_.needs();
    if (few()) return all;
    const std::size_t tokens = std::min(groups_.step, groups_.tiles);
    const std::size_t own = Arena::need<std::byte>(range_steps * step_bytes) +
                            Arena::need<float>(std::min(most_blocks, w_.row_blocks) * tokens * sum_floats);
    if (!KernelSet::scaled) return {.phases = 2, .shared = packed_need(), .own = own};
    return {.phases = 3, .shared = packed_need() + all.shared, .own = std::max(own, all.own)};
  }
  std::size_t tasks(std::size_t phase) const noexcept {
    if (few()) return parent_.tasks(phase);
    if (tokens_ == 0 || w_.rows == 0) return 0;
    if (phase == 0) return pack_tasks();
    if (KernelSet::scaled && phase == 1) return parent_.tasks(0);
    const std::size_t tiles = shares_ * groups_.size();
    return KernelSet::scaled ? std::max(tiles, parent_.tasks(1)) : tiles;
  }
  Rounding rounding() const noexcept { return few() ? parent_.rounding() : KernelSet::rounding(); }
  void run(std::size_t phase, std::size_t task, const Multiply& arguments, Workspace workspace) const noexcept {
    if (few()) return parent_.run(phase, task, arguments, workspace);
    Arena arena(workspace.shared);
    auto* const packed = arena.take<std::byte>(groups_.tiles * steps_ * tile_bytes);
    auto* const scales = arena.take<float>(groups_.tiles * scales_);
    auto* const fits = arena.take<bool>(pack_tasks());
    const TokenTiles all{packed, steps_ * tile_bytes, scales, scales_};
    if (phase == 0) {
      fits[task] = pack(task, arguments.x, packed, scales);
      return;
    }
    if constexpr (KernelSet::scaled) {
      const bool integers = std::all_of(fits, fits + pack_tasks(), [](bool fit) { return fit; });
      const Workspace floats{workspace.shared + packed_need(), workspace.own};
      if (!integers && task < parent_.tasks(phase - 1)) parent_.run(phase - 1, task, arguments, floats);
      if (!integers || phase == 1) return;
    }
    if (task < shares_ * groups_.size()) multiply(task, all, arguments, Arena(workspace.own));
  }

 private:
  bool few() const noexcept { return tokens_ <= few_tokens; }
  std::size_t pack_tasks() const noexcept { return groups_.tiles * chunks_; }
  std::size_t packed_need() const noexcept {
    return Arena::need<std::byte>(groups_.tiles * steps_ * tile_bytes) + Arena::need<float>(groups_.tiles * scales_) +
           Arena::need<bool>(pack_tasks());
  }

  /// The tiles of tokens from the n-th on.
  static TokenTiles from(TokenTiles tokens, std::size_t n) noexcept {
    tokens.x += n * tokens.x_step;
    tokens.scales += n * tokens.scales_step;
    return tokens;
  }

  /// False if the activations have to stay in float.
  bool pack(std::size_t task, MatrixView<const float> x, std::byte* packed, float* scales) const noexcept {
    const std::size_t n = task / chunks_;
    const std::size_t t = task % chunks_ * chunk;
    const std::size_t token = n * tile_tokens;
    const std::size_t c = t * tile_cols;
    return KernelSet::pack(x.data + token * x.stride + c, x.stride, std::min(tile_tokens, tokens_ - token),
                           std::min(chunk * tile_cols, w_.cols - c),
                           packed + (n * steps_ + t * tile_steps) * tile_bytes,
                           scales + n * scales_ + (KernelSet::scaled ? t / 2 * tile_tokens : 0));
  }

  void multiply(std::size_t task, const TokenTiles& all, const Multiply& arguments, Arena arena) const noexcept {
    const MatrixView<float> y = arguments.y;
    const std::size_t g = task / shares_;
    const BlockRange blocks = share_of(w_.offsets, w_.tiles, w_.row_blocks, task % shares_, shares_);
    const std::size_t tokens = groups_.count(g);
    const std::size_t most = std::min(most_blocks, blocks.size());
    auto* const expanded = arena.take<std::byte>(range_steps * step_bytes);
    auto* const sums = arena.take<float>(most * tokens * sum_floats);
    Tiles tiles;
    for (std::size_t b = blocks.first; b < blocks.last; b += most) {
      const std::size_t last = std::min(b + most, blocks.last);
      add_blocks(tiles, w_, weights_, b, last, from(all, groups_.first(g)), tokens, expanded, sums);
      for (std::size_t i = b; i < last; ++i) {
        float* const block = sums + (i - b) * tokens * sum_floats;
        KernelSet::finish(weights_, i, block, tokens);
        const std::size_t r = i * tile_rows;
        for (std::size_t q = 0; q < tokens; ++q) {
          const std::size_t t = (groups_.first(g) + q) * tile_tokens;
          avx512::BitmaskKernels::unpack_panel(block + q * sum_floats, tile_tokens, std::min(tile_tokens, tokens_ - t),
                                               std::min(tile_rows, w_.rows - r), y.data + t * y.stride + r, y.stride,
                                               bias_at(arguments, r), arguments.accumulate);
        }
      }
    }
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

  Parent parent_;
  const PackedLayout& w_;
  const Weights& weights_;
  std::size_t tokens_;
  std::size_t shares_;
  TokenGroups groups_;
  std::size_t chunks_;
  std::size_t steps_;   // of all columns
  std::size_t scales_;  // floats for a tile of tokens
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::amx

namespace losa::inline v0::detail {

template <class Tiles>
struct Kernel<amx::TargetOn<Tiles>, Multiply, FloatWeights<bf16>> {
  using Parent = Kernel<avx512_bf16::Target, Multiply, FloatWeights<bf16>>;
  using Schedule = amx::TileMultiply<Tiles, amx::Bf16, typename Parent::Schedule>;
};
template <class Tiles>
struct Kernel<amx::TargetOn<Tiles>, Multiply, Int8Weights> {
  using Parent = Kernel<avx512_bf16::Target, Multiply, Int8Weights>;
  using Schedule = amx::TileMultiply<Tiles, amx::Int8, typename Parent::Schedule>;
};

}  // namespace losa::inline v0::detail
#endif
