#pragma once
// Transposes activations x (tokens, cols) to panels [column][tokens], in tasks of 512 columns of a panel.

#include <algorithm>
#include <cstddef>

#include <losa/core/view.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/arena.hpp>
#include <losa/gemm/panel/panels.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH {

template <class KernelSet>
class PanelPacker {
 public:
  PanelPacker(const Panels& panels, std::size_t cols) noexcept
      : panels_(panels), cols_(cols), chunks_((cols + chunk - 1) / chunk) {}

  std::size_t tasks() const noexcept { return panels_.count * chunks_; }
  /// Bytes that the panels take.
  std::size_t need() const noexcept { return Arena::need<float>(panels_.floats(cols_)); }
  float* take(Arena& arena) const noexcept { return arena.take<float>(panels_.floats(cols_)); }

  void run(std::size_t task, MatrixView<const float> x, float* to) const noexcept {
    const std::size_t p = task / chunks_;
    const std::size_t c = task % chunks_ * chunk;
    const std::size_t width = panels_.width(p);
    KernelSet::pack_panel(x.data + panels_.first_token(p) * x.stride + c, x.stride, panels_.tokens_in(p),
                          std::min(chunk, cols_ - c), to + panels_.offset(p, cols_) + c * width, width);
  }
  void run_all(MatrixView<const float> x, float* to) const noexcept {
    for (std::size_t task = 0; task < tasks(); ++task) run(task, x, to);
  }

 private:
  static constexpr std::size_t chunk = 512;

  Panels panels_;
  std::size_t cols_;
  std::size_t chunks_;
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH
