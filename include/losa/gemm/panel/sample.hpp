#pragma once
// values = [base +] scale · (gᵀ · x) at the kept positions, in panels of g and x. Phases: pack both; then a group of
// panels a phase, so that the panels of a group serve all rows while they are in the cache, and so that what is added
// to a value comes in order. A task is a share of the rows.

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

template <class KernelSet>
requires TrainingKernels<KernelSet>
class PanelSample {
 public:
  PanelSample(const Operand<FloatWeights<float>>& operand, Shape shape) noexcept
      : w_(operand.layout),
        tokens_(shape.tokens),
        panels_{.tokens = shape.tokens, .lanes = KernelSet::lanes},
        g_packer_(panels_, w_.rows),
        x_packer_(panels_, w_.cols),
        shares_(many_shares(w_.row_blocks, shape.threads)),
        // Of the matrix, not of the shares: the size of groups changes in which order a value is added up.
        groups_(panels_, 8, KernelSet::most_panels) {}

  Needs needs() const noexcept {
    std::size_t task = 0;
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      const TileSizes sizes(panels_.width(groups_[g].first));
      task = std::max(task, TileDecoder<KernelSet>::need(std::min(sizes.blocks, w_.row_blocks), sizes.tiles));
    }
    return {.phases = 1 + groups_.size(), .shared = g_packer_.need() + x_packer_.need(), .own = task};
  }
  std::size_t tasks(std::size_t phase) const noexcept {
    if (w_.kept() == 0) return 0;
    if (tokens_ == 0) return 1;
    return phase == 0 ? g_packer_.tasks() + x_packer_.tasks() : shares_;
  }
  Rounding rounding() const noexcept { return {}; }
  void run(std::size_t phase, std::size_t task, const Sample& arguments, Workspace workspace) const noexcept {
    const float* const base = arguments.base.empty() ? nullptr : arguments.base.data();
    float* const values = arguments.values.data();
    if (tokens_ == 0) {
      if (base == nullptr) {
        std::fill_n(values, w_.kept(), 0.0f);
      } else if (base != values) {
        std::copy_n(base, w_.kept(), values);
      }
      return;
    }
    Arena shared(workspace.shared);
    float* const g_panels = g_packer_.take(shared);
    float* const x_panels = x_packer_.take(shared);
    if (phase == 0) {
      if (task < g_packer_.tasks()) return g_packer_.run(task, arguments.g, g_panels);
      return x_packer_.run(task - g_packer_.tasks(), arguments.x, x_panels);
    }
    const PanelGroup group = groups_[phase - 1];
    add(share_of(w_.offsets, w_.tiles, w_.row_blocks, task, shares_), group, g_panels, x_panels,
        group.first == 0 ? base : values, arguments.scale, values, Arena(workspace.own));
  }

 private:
  /// values ← [base +] scale · what a group of panels gives.
  void add(BlockRange blocks, PanelGroup group, const float* g_panels, const float* x_panels, const float* base,
           float scale, float* values, Arena arena) const noexcept {
    const std::size_t width = panels_.width(group.first);
    const TileSizes sizes(width);
    const std::size_t most = std::min(sizes.blocks, blocks.size());
    TileDecoder<KernelSet> decoder(arena, most, sizes.tiles);
    for (std::size_t b = blocks.first; b < blocks.last; b += most)
      for (std::size_t t = 0; t < w_.tiles; t += sizes.tiles) {
        const TileRange range{b, std::min(b + most, blocks.last), t, std::min(t + sizes.tiles, w_.tiles)};
        TileLists lists = decoder.decode(w_, NoWeights{}, range, width);
        lists.rows = std::min(lists.rows, w_.rows - b * tile_rows);
        for (std::size_t q = 0; q < group.count; ++q) {
          const float* g_panel = g_panels + panels_.offset(group.first + q, w_.rows) + b * tile_rows * width;
          const float* x_panel = x_panels + panels_.offset(group.first + q, w_.cols) + t * tile_cols * width;
          lists.ahead = q + 1 < group.count ? x_panel + w_.cols * width
                                            : x_panel - q * w_.cols * width + sizes.tiles * tile_cols * width;
          with_vectors(width / KernelSet::lanes, [&](auto v) {
            KernelSet::template sample<v.value>(lists, g_panel, x_panel, q != 0, decoder.values());
          });
        }
        KernelSet::store_values(w_, range, lists, base, scale, values);
      }
  }

  const PackedLayout& w_;
  std::size_t tokens_;
  Panels panels_;
  PanelPacker<KernelSet> g_packer_;
  PanelPacker<KernelSet> x_packer_;
  std::size_t shares_;
  PanelGroups groups_;
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH
