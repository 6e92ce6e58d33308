#pragma once
// How activations are cut into panels of tokens, and which panels share the work of decoding a tile.

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include <losa/gemm/arch.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH {

/// How `tokens` are cut into panels: full ones, and a last one of the fewest vectors (1, 2, 4 or 8) that hold the rest.
struct Panels {
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

/// Groups of up to `most` panels, a power of 2, fewer where the groups would not make eight tasks together with
/// `blocks`. Eight at once push the X tiles out of a 512 KiB L2 (−10 % on Zen 3); with 1 MiB (Zen 4) they change
/// nothing in spmm, and make dx, whose tiles are turned, 11 % and sddmm 7 % faster.
class PanelGroups {
 public:
  PanelGroups(const Panels& plan, std::size_t blocks, std::size_t most = 4) noexcept
      : wide_(plan.rest_width == plan.full_width ? plan.count : plan.full), narrow_(plan.count - wide_), step_(most) {
    while (step_ > 1 && blocks * ((wide_ + step_ - 1) / step_) < 8) step_ /= 2;
  }
  std::size_t size() const noexcept { return (wide_ + step_ - 1) / step_ + narrow_; }
  PanelGroup operator[](std::size_t g) const noexcept {
    const std::size_t first = g * step_;
    return first < wide_ ? PanelGroup{first, std::min(step_, wide_ - first)} : PanelGroup{wide_, 1};
  }

 private:
  std::size_t wide_;
  std::size_t narrow_;  // the last panel alone, if it is narrower: 0 or 1
  std::size_t step_;
};

/// f(integral constant) for the number of vectors in a panel.
template <class Function>
void with_vectors(std::size_t vectors, Function&& f) {
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

}  // namespace losa::inline v0::detail::inline LOSA_ARCH
