#pragma once
// y = x · Wᵀ in panels. Activations are transposed to panels [column][tokens], up to eight vectors of tokens wide; the
// mask of a (rows × columns) tile is decoded once to lists of columns and used for several panels; each kept weight is
// then one multiply-add on a vector of tokens per vector of the panel, and no pruned weight is touched:
//
//   sums[row] += value · panel[column]
//
// Two phases: pack the activations; multiply, a share of the rows and a group of panels a task. Up to eight tokens take
// one phase, in which every task packs them for itself, and fewer still no panels where the target has kernels for
// them.
//
// Every sum goes through the columns in order, so shares and groups change no bit.

#include <algorithm>
#include <cstddef>

#include <losa/core/view.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/arena.hpp>
#include <losa/gemm/formats.hpp>
#include <losa/gemm/operation.hpp>
#include <losa/gemm/panel/kernel_set.hpp>
#include <losa/gemm/panel/packer.hpp>
#include <losa/gemm/panel/panels.hpp>
#include <losa/gemm/panel/tile.hpp>
#include <losa/gemm/shares.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH {

/// Up to so many tokens a product has one phase.
inline constexpr std::size_t one_phase_tokens = 8;
/// Rows that take as long to multiply as their activations to pack, at most (4096 × 4096 at 70 %, 1 to 8 tokens, Zen 4:
/// 0.3 to 9 rows for one token, 1 to 16 for eight; 0.1 to 7 µs a task).
inline constexpr std::size_t packing_rows = 16;

inline const float* bias_at(const Multiply& arguments, std::size_t r) noexcept {
  return arguments.bias.empty() ? nullptr : arguments.bias.data() + r;
}

template <class KernelSet, class WeightsType>
requires MultiplyKernels<KernelSet, WeightsType>
class PanelMultiply {
  using Few = typename KernelSet::template FewTokens<WeightsType>;

 public:
  PanelMultiply(const Operand<WeightsType>& operand, Shape shape) noexcept
      : w_(operand.layout),
        weights_(operand.weights),
        tokens_(shape.tokens),
        panels_{.tokens = shape.tokens, .lanes = KernelSet::lanes},
        packer_(panels_, w_.cols),
        shares_(one_phase() ? few_shares(w_.row_blocks, shape.threads, tile_rows, packing_rows)
                            : many_shares(w_.row_blocks, shape.threads)),
        groups_(panels_, shares_) {}

  Needs needs() const noexcept {
    if (few()) return {.phases = 1, .own = Few::need(tokens_, w_.tiles)};
    if (one_phase()) return {.phases = 1, .own = packer_.need() + task_need()};
    return {.phases = 2, .shared = packer_.need(), .own = task_need()};
  }
  std::size_t tasks(std::size_t phase) const noexcept {
    if (tokens_ == 0 || w_.rows == 0) return 0;
    if (one_phase()) return shares_;
    return phase == 0 ? packer_.tasks() : shares_ * groups_.size();
  }
  Rounding rounding() const noexcept {
    return few() ? Few::template rounding<WeightsType>(tokens_, w_.cols)
                 : KernelSet::template rounding<WeightsType>(tokens_);
  }
  void run(std::size_t phase, std::size_t task, const Multiply& arguments, Workspace workspace) const noexcept {
    const std::size_t share = task % shares_;
    const BlockRange blocks = share_of(w_.offsets, w_.tiles, w_.row_blocks, share, shares_);
    Arena own(workspace.own);
    Arena shared(workspace.shared);
    if (few()) {
      if (blocks.size() == 0) return;
      const Few tokens(own, arguments.x, w_.tiles);
      tokens.multiply(w_, weights_, blocks.first, blocks.last, arguments.y, bias_at(arguments, 0),
                      arguments.accumulate);
    } else if (one_phase()) {
      if (blocks.size() == 0) return;
      float* const panels = packer_.take(own);
      packer_.run_all(arguments.x, panels);
      multiply(blocks, groups_[0], panels, arguments, own);
    } else if (phase == 0) {
      packer_.run(task, arguments.x, packer_.take(shared));
    } else {
      multiply(blocks, groups_[task / shares_], packer_.take(shared), arguments, own);
    }
  }

  /// Bytes of memory of a task, not counting panels.
  std::size_t task_need() const noexcept {
    std::size_t most = 0;
    for (std::size_t g = 0; g < groups_.size(); g += std::max<std::size_t>(1, groups_.size() - 1)) {
      const PanelGroup group = groups_[g];  // the first and the last: all others are as the first
      const std::size_t width = panels_.width(group.first);
      const TileSizes sizes(width);
      const std::size_t blocks = std::min(sizes.blocks, w_.row_blocks);
      most = std::max(most, TileDecoder<KernelSet>::need(blocks, sizes.tiles) +
                                Arena::need<float>(group.count * blocks * tile_rows * width));
    }
    return most;
  }

 private:
  bool few() const noexcept { return tokens_ != 0 && tokens_ <= Few::most; }
  bool one_phase() const noexcept { return tokens_ <= std::max(one_phase_tokens, Few::most); }

  void multiply(BlockRange blocks, PanelGroup group, const float* panels, const Multiply& arguments,
                Arena arena) const noexcept {
    const MatrixView<float> y = arguments.y;
    const std::size_t width = panels_.width(group.first);
    const TileSizes sizes(width);
    const std::size_t most = std::min(sizes.blocks, blocks.size());
    const std::size_t floats = most * tile_rows * width;
    TileDecoder<KernelSet> decoder(arena, most, sizes.tiles);
    float* sums = arena.take<float>(group.count * floats);
    for (std::size_t b = blocks.first; b < blocks.last; b += most) {
      std::fill_n(sums, group.count * floats, 0.0f);
      for (std::size_t t = 0; t < w_.tiles; t += sizes.tiles) {
        const TileRange range{b, std::min(b + most, blocks.last), t, std::min(t + sizes.tiles, w_.tiles)};
        TileLists lists = decoder.decode(w_, weights_, range, width);
        for (std::size_t q = 0; q < group.count; ++q) {
          const float* panel = panels + panels_.offset(group.first + q, w_.cols) + t * tile_cols * width;
          lists.ahead = q + 1 < group.count ? panel + w_.cols * width
                                            : panel - q * w_.cols * width + sizes.tiles * tile_cols * width;
          with_vectors(width / KernelSet::lanes,
                       [&](auto v) { KernelSet::template gather<v.value>(lists, panel, sums + q * floats); });
        }
      }
      const std::size_t r = b * tile_rows;
      const std::size_t rows = std::min(std::min(b + most, blocks.last) * tile_rows, w_.rows) - r;
      for (std::size_t q = 0; q < group.count; ++q)
        KernelSet::unpack_panel(sums + q * floats, width, panels_.tokens_in(group.first + q), rows,
                                y.data + panels_.first_token(group.first + q) * y.stride + r, y.stride,
                                bias_at(arguments, r), arguments.accumulate);
    }
  }

  const PackedLayout& w_;
  const WeightsType& weights_;
  std::size_t tokens_;
  Panels panels_;
  PanelPacker<KernelSet> packer_;
  std::size_t shares_;
  PanelGroups groups_;
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH
