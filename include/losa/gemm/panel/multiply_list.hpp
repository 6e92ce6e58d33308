#pragma once
// y = x · Wᵀ in panels with a matrix in the list format: as multiply.hpp, but nothing is decoded.

#include <algorithm>
#include <cstddef>

#include <losa/core/view.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/arena.hpp>
#include <losa/gemm/formats.hpp>
#include <losa/gemm/list_layout.hpp>
#include <losa/gemm/operation.hpp>
#include <losa/gemm/panel/kernel_set.hpp>
#include <losa/gemm/panel/multiply.hpp>
#include <losa/gemm/panel/packer.hpp>
#include <losa/gemm/panel/panels.hpp>
#include <losa/gemm/shares.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH {

template <class KernelSet, class Element>
requires ListKernels<KernelSet, Element>
class PanelMultiplyList {
  using Few = typename KernelSet::template FewTokens<Element>;

  /// The widest panel of which a whole range of columns stays in the first-level cache. Of a wider one half a range
  /// does and serves several row blocks (4096 × 4096, 70 %, f32, 64 tokens, one thread of Zen 4: AVX2 11.3 → 9.0 ms,
  /// AVX-512 9.3 → 8.3; with one row block 9.6 and 8.4).
  static constexpr std::size_t whole_width = 16;
  static constexpr std::size_t half_blocks = 8;

 public:
  PanelMultiplyList(const Operand<ListWeights<Element>>& operand, Shape shape) noexcept
      : w_(operand.layout),
        weights_(operand.weights),
        tokens_(shape.tokens),
        blocks_((w_.rows + tile_rows - 1) / tile_rows),
        panels_{.tokens = shape.tokens, .lanes = KernelSet::lanes},
        packer_(panels_, w_.cols),
        shares_(one_phase() ? few_shares(blocks_, shape.threads, tile_rows, packing_rows)
                            : many_shares(blocks_, shape.threads)),
        groups_(panels_, shares_) {}

  Needs needs() const noexcept {
    std::size_t task = 0;
    for (std::size_t g = 0; g < groups_.size(); ++g) task = std::max(task, sums_need(groups_[g]));
    if (!one_phase()) return {.phases = 2, .shared = packer_.need(), .own = task};
    task += packer_.need();
    return {.phases = 1, .own = few() ? std::max(task, Few::need(tokens_, w_.cols)) : task};
  }
  std::size_t tasks(std::size_t phase) const noexcept {
    if (tokens_ == 0 || w_.rows == 0) return 0;
    if (one_phase()) return shares_;
    return phase == 0 ? packer_.tasks() : shares_ * groups_.size();
  }
  Rounding rounding() const noexcept {
    return few() ? Few::template rounding<ListWeights<Element>>(tokens_, w_.cols) : Rounding{};
  }
  void run(std::size_t phase, std::size_t task, const Multiply& arguments, Workspace workspace) const noexcept {
    const BlockRange blocks = share_of(w_.offsets, w_.ranges, blocks_, task % shares_, shares_);
    Arena own(workspace.own);
    Arena shared(workspace.shared);
    if (one_phase()) {
      if (blocks.size() == 0 || (few() && multiply_few(blocks, arguments, own))) return;
      float* const panels = packer_.take(own);
      packer_.run_all(arguments.x, panels);
      multiply(blocks, groups_[0], panels, arguments, own);
    } else if (phase == 0) {
      packer_.run(task, arguments.x, packer_.take(shared));
    } else {
      multiply(blocks, groups_[task / shares_], packer_.take(shared), arguments, own);
    }
  }

 private:
  bool few() const noexcept { return tokens_ != 0 && tokens_ <= Few::most; }
  bool one_phase() const noexcept { return tokens_ <= std::max(one_phase_tokens, Few::most); }
  static bool halves(std::size_t width) noexcept { return width > whole_width; }
  std::size_t blocks_at_once(std::size_t width) const noexcept {
    return std::min(halves(width) ? half_blocks : 1, blocks_);
  }
  std::size_t sums_need(PanelGroup group) const noexcept {
    const std::size_t width = panels_.width(group.first);
    return Arena::need<float>(group.count * blocks_at_once(width) * tile_rows * width);
  }

  /// False if activations cannot be what the kernels for few tokens take.
  bool multiply_few(BlockRange blocks, const Multiply& arguments, Arena arena) const noexcept {
    const Few tokens(arena, arguments.x);
    return tokens.multiply(w_, weights_, blocks.first, blocks.last, arguments.y, bias_at(arguments, 0),
                           arguments.accumulate);
  }

  void multiply(BlockRange blocks, PanelGroup group, const float* panels, const Multiply& arguments,
                Arena arena) const noexcept {
    const MatrixView<float> y = arguments.y;
    const std::size_t width = panels_.width(group.first);
    const std::size_t most = blocks_at_once(width);
    const std::size_t block_floats = tile_rows * width;
    const std::size_t floats = most * block_floats;
    float* sums = arena.take<float>(group.count * floats);
    for (std::size_t b = blocks.first; b < blocks.last; b += most) {
      const std::size_t count = std::min(most, blocks.last - b);
      std::fill_n(sums, group.count * floats, 0.0f);
      const auto gather = [&]<ListPart part>(std::size_t range, std::size_t q) {
        const float* panel = panels + panels_.offset(group.first + q, w_.cols) + range * ListLayout::range_cols * width;
        with_vectors(width / KernelSet::lanes, [&](auto v) {
          for (std::size_t i = 0; i < count; ++i) {
            const std::size_t tile = (b + i) * w_.ranges + range;
            KernelSet::template gather_list<v.value, part>(
                w_.counts + tile * 2 * tile_rows, w_.col_indices + w_.offsets[tile], weights_.values + w_.offsets[tile],
                panel, sums + q * floats + i * block_floats);
          }
        });
      };
      for (std::size_t range = 0; range < w_.ranges; ++range)
        for (std::size_t q = 0; q < group.count; ++q) {
          if (halves(width)) {
            gather.template operator()<ListPart::first>(range, q);
            gather.template operator()<ListPart::second>(range, q);
          } else {
            gather.template operator()<ListPart::whole>(range, q);
          }
        }
      const std::size_t r = b * tile_rows;
      for (std::size_t q = 0; q < group.count; ++q) {
        float* const panel_sums = sums + q * floats;
        if (weights_.scales != nullptr)
          for (std::size_t i = 0; i < count * block_floats; ++i) panel_sums[i] *= weights_.scales[r + i / width];
        KernelSet::unpack_panel(panel_sums, width, panels_.tokens_in(group.first + q),
                                std::min(count * tile_rows, w_.rows - r),
                                y.data + panels_.first_token(group.first + q) * y.stride + r, y.stride,
                                bias_at(arguments, r), arguments.accumulate);
      }
    }
  }

  const ListLayout& w_;
  const ListWeights<Element>& weights_;
  std::size_t tokens_;
  std::size_t blocks_;
  Panels panels_;
  PanelPacker<KernelSet> packer_;
  std::size_t shares_;
  PanelGroups groups_;
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH
