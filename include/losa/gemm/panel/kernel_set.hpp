#pragma once
// The inner loops that the panel schedules ask of a target: see bitmask/portable.hpp for the plainest ones. Every
// member is asked for, so that a misspelt one does not compile.
//
// Activations lie in panels [column][tokens], `width` tokens wide: one, two, four or eight times `lanes`.

#include <concepts>
#include <cstddef>
#include <cstdint>

#include <losa/core/view.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/arena.hpp>
#include <losa/gemm/list_layout.hpp>
#include <losa/gemm/operation.hpp>
#include <losa/gemm/panel/tile.hpp>
#include <losa/gemm/weights.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH {

/// Stands for a kernel that a target lacks: no number of tokens is few.
struct NoFewTokens {
  static constexpr std::size_t most = 0;
  template <class WeightsType>
  static Rounding rounding(std::size_t, std::size_t) noexcept {
    return {};
  }
  static std::size_t need(std::size_t, std::size_t) noexcept { return 0; }
  template <class... Operands>
  NoFewTokens(Arena&, const Operands&...) noexcept {}
  template <class... Operands>
  bool multiply(const Operands&...) const noexcept {
    return false;
  }
};

template <class KernelSet>
concept PanelMover = requires(const float* from, float* to, std::size_t n, bool accumulate) {
  { KernelSet::lanes } -> std::convertible_to<std::size_t>;
  KernelSet::pack_panel(from, n, n, n, to, n);                      // stride, tokens, cols → to, width
  KernelSet::unpack_panel(from, n, n, n, to, n, from, accumulate);  // width, tokens, cols → to, stride, bias
};

/// sums[row] += value · panel[column]. `FewTokens`, in memory of need(tokens, tiles) bytes, multiplies up to
/// FewTokens::most tokens without panels.
template <class KernelSet, class WeightsType>
concept MultiplyKernels = PanelMover<KernelSet> &&
    requires(const PackedLayout& w, const WeightsType& weights, const TileRange& range, std::size_t n,
             std::uint16_t* entries, float* sums, std::uint32_t* rows, const TileLists& lists, const float* panel,
             Arena& arena, MatrixView<const float> x, MatrixView<float> y,
             const typename KernelSet::template FewTokens<WeightsType>& few) {
  KernelSet::decode(w, weights, range, n, entries, sums, rows, rows);
  KernelSet::template gather<1>(lists, panel, sums);
  { KernelSet::template rounding<WeightsType>(n) } -> std::same_as<Rounding>;
  { few.template rounding<WeightsType>(n, n) } -> std::same_as<Rounding>;
  { few.most } -> std::convertible_to<std::size_t>;
  { few.need(n, n) } -> std::same_as<std::size_t>;
  { typename KernelSet::template FewTokens<WeightsType>(arena, x, n) }
  noexcept;
  few.multiply(w, weights, n, n, y, panel, true);
};

/// As gather, for the rows of a block and a range of columns in the list format.
template <class KernelSet, class Element>
concept ListKernels = PanelMover<KernelSet> &&
    requires(const std::uint8_t* bytes, const Element* values, const float* panel, float* sums, std::size_t n,
             const ListLayout& w, const ListWeights<Element>& weights, MatrixView<const float> x, MatrixView<float> y,
             Arena& arena, const typename KernelSet::template FewTokens<Element>& few) {
  KernelSet::template gather_list<1, ListPart::whole>(bytes, bytes, values, panel, sums);
  { few.template rounding<ListWeights<Element>>(n, n) } -> std::same_as<Rounding>;
  { few.most } -> std::convertible_to<std::size_t>;
  { few.need(n, n) } -> std::same_as<std::size_t>;
  { typename KernelSet::template FewTokens<Element>(arena, x) }
  noexcept;
  { few.multiply(w, weights, n, n, y, panel, true) } -> std::same_as<bool>;
};

/// sums[column] += value · g[row], and values = base + scale · ⟨g[row], panel[column]⟩. A decoded tile of dx or of a
/// Sample serves up to `most_panels` panels.
template <class KernelSet>
concept TrainingKernels = MultiplyKernels<KernelSet, FloatWeights<float>> &&
    requires(const PackedLayout& w, const TileRange& range, const TileLists& lists, const float* panel, float* sums) {
  { KernelSet::most_panels } -> std::convertible_to<std::size_t>;
  KernelSet::template scatter<1>(lists, panel, sums);
  KernelSet::template sample<1>(lists, panel, panel, true, sums);
  KernelSet::store_values(w, range, lists, panel, 1.0f, sums);
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH
