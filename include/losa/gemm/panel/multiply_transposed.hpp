#pragma once
// dx = g · W in panels of g. A task owns a range of columns, so that no sum has two writers:
//
//   sums[column] += value · panel[row]      few panels: every kept weight loads and stores a vector of sums (scatter)
//   the same on turned tiles                many: sums stay in registers (gather)
//
// Two phases: pack g; multiply, a range of columns and a group of panels a task.

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
#include <losa/gemm/panel/transpose.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH {

template <class KernelSet>
requires TrainingKernels<KernelSet>
class PanelMultiplyTransposed {
 public:
  PanelMultiplyTransposed(const Operand<FloatWeights<float>>& operand, Shape shape) noexcept
      : w_(operand.layout),
        weights_(operand.weights),
        tokens_(shape.tokens),
        panels_{.tokens = shape.tokens, .lanes = KernelSet::lanes},
        packer_(panels_, w_.rows),
        turned_sizes_(std::max<std::size_t>(1, panels_.width(0)), w_.tiles),
        sizes_(std::max<std::size_t>(1, panels_.width(0))),
        tiles_(turned() ? turned_sizes_.tiles : std::max<std::size_t>(1, std::min(sizes_.tiles, (w_.tiles + 3) / 4))),
        blocks_(turned() ? turned_sizes_.blocks : sizes_.blocks),
        ranges_((w_.tiles + tiles_ - 1) / tiles_),
        groups_(panels_, ranges_, turned() ? KernelSet::most_panels : 4) {}

  Needs needs() const noexcept {
    std::size_t task = 0;
    for (std::size_t g = 0; g < groups_.size(); ++g)
      task = std::max(task,
                      TileDecoder<KernelSet>::need(blocks_, tiles_) +
                          (turned() ? TileTurner::need(blocks_ * tile_rows, tiles_ * tile_cols) : 0) +
                          Arena::need<float>(groups_[g].count * tiles_ * tile_cols * panels_.width(groups_[g].first)));
    return {.phases = 2, .shared = packer_.need(), .own = task};
  }
  std::size_t tasks(std::size_t phase) const noexcept {
    if (tokens_ == 0 || w_.cols == 0) return 0;
    return phase == 0 ? packer_.tasks() : ranges_ * groups_.size();
  }
  Rounding rounding() const noexcept { return {}; }
  void run(std::size_t phase, std::size_t task, const MultiplyTransposed& arguments,
           Workspace workspace) const noexcept {
    Arena shared(workspace.shared);
    float* const panels = packer_.take(shared);
    if (phase == 0) return packer_.run(task, arguments.g, panels);
    const PanelGroup group = groups_[task / ranges_];
    const std::size_t t = task % ranges_ * tiles_;
    if (turned()) {
      gather(t, group, panels, arguments, Arena(workspace.own));
    } else {
      scatter(t, group, panels, arguments, Arena(workspace.own));
    }
  }

 private:
  /// 128 tokens of AVX2 make up for turning tiles over (1536 × 576 at 70 % took 1.7 against 1.9 ms at 64 tokens, 7.5
  /// against 14 ms at 512).
  bool turned() const noexcept { return panels_.full >= 2; }
  TileRange range_at(std::size_t b, std::size_t t) const noexcept {
    return {b, std::min(b + blocks_, w_.row_blocks), t, std::min(t + tiles_, w_.tiles)};
  }
  std::size_t cols_at(std::size_t t) const noexcept {
    return std::min((t + tiles_) * tile_cols, w_.cols) - t * tile_cols;
  }

  void scatter(std::size_t t, PanelGroup group, const float* panels, const MultiplyTransposed& arguments,
               Arena arena) const noexcept {
    const std::size_t width = panels_.width(group.first);
    const std::size_t cols = cols_at(t);
    TileDecoder<KernelSet> decoder(arena, blocks_, tiles_);
    float* const sums = arena.take<float>(group.count * cols * width);
    std::fill_n(sums, group.count * cols * width, 0.0f);
    for (std::size_t b = 0; b < w_.row_blocks; b += blocks_) {
      TileLists lists = decoder.decode(w_, weights_, range_at(b, t), width);
      lists.rows = std::min(lists.rows, w_.rows - b * tile_rows);
      for (std::size_t q = 0; q < group.count; ++q) {
        const float* panel = panels + panels_.offset(group.first + q, w_.rows) + b * tile_rows * width;
        with_vectors(width / KernelSet::lanes,
                     [&](auto v) { KernelSet::template scatter<v.value>(lists, panel, sums + q * cols * width); });
      }
    }
    store(group, sums, cols * width, t, arguments);
  }

  void gather(std::size_t t, PanelGroup group, const float* panels, const MultiplyTransposed& arguments,
              Arena arena) const noexcept {
    const std::size_t width = panels_.width(group.first);
    const std::size_t floats = tiles_ * tile_cols * width;
    TileDecoder<KernelSet> decoder(arena, blocks_, tiles_);
    TileTurner turner(arena, blocks_ * tile_rows, tiles_ * tile_cols);
    float* const sums = arena.take<float>(group.count * floats);
    std::fill_n(sums, group.count * floats, 0.0f);
    for (std::size_t b = 0; b < w_.row_blocks; b += blocks_) {
      TileLists lists = turner.turn(decoder.decode(w_, weights_, range_at(b, t), 2), cols_at(t), width);
      for (std::size_t q = 0; q < group.count; ++q) {
        const float* panel = panels + panels_.offset(group.first + q, w_.rows) + b * tile_rows * width;
        lists.ahead =
            q + 1 < group.count ? panel + w_.rows * width : panel - q * w_.rows * width + blocks_ * tile_rows * width;
        with_vectors(width / KernelSet::lanes,
                     [&](auto v) { KernelSet::template gather<v.value>(lists, panel, sums + q * floats); });
      }
    }
    store(group, sums, floats, t, arguments);
  }

  /// dx[:, 64 · t …] ← sums of a group's panels, `step` floats from panel to panel.
  void store(PanelGroup group, const float* sums, std::size_t step, std::size_t t,
             const MultiplyTransposed& arguments) const noexcept {
    const MatrixView<float> dx = arguments.dx;
    for (std::size_t q = 0; q < group.count; ++q)
      KernelSet::unpack_panel(sums + q * step, panels_.width(group.first), panels_.tokens_in(group.first + q),
                              cols_at(t), dx.data + panels_.first_token(group.first + q) * dx.stride + t * tile_cols,
                              dx.stride, nullptr, arguments.accumulate);
  }

  const PackedLayout& w_;
  const FloatWeights<float>& weights_;
  std::size_t tokens_;
  Panels panels_;
  PanelPacker<KernelSet> packer_;
  TurnedTileSizes turned_sizes_;
  TileSizes sizes_;
  std::size_t tiles_;
  std::size_t blocks_;
  std::size_t ranges_;
  PanelGroups groups_;
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH
