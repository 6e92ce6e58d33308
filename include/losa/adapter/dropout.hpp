#pragma once
// Dropout on an adapter's input (Srivastava et al., 2014, inverted form): every element of x is kept with probability
// 1 − p and then divided by it. Which elements are kept is a pure function of (seed, stream, step, row, column), so
// that a forward pass that is computed again for the backward pass drops the same ones, on any number of threads.
//
//   losa::Dropout dropout(0.1, seed, stream);
//   dropout.multipliers({.step = 7, .training = true}, row, d);       // d[c] is 0 or 1/(1 − p)
//
// p is taken in steps of 2⁻¹⁶, and the division uses the p taken: the mean over all draws is exactly x.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include <losa/core/error.hpp>
#include <losa/core/finite.hpp>
#include <losa/core/random.hpp>

namespace losa::inline v0 {

/// Which draw of dropout a product uses: the training step, or none outside training.
struct DropoutKey {
  std::uint64_t step = 0;
  bool training = false;
};

class Dropout {
 public:
  Dropout() = default;
  /// Throws RangeError unless p is in [0, 1).
  Dropout(const double& p, std::uint64_t seed, std::uint64_t stream) : random_{.seed = seed, .stream = stream} {
    if (!(detail::is_finite(p) && p >= 0.0 && p < 1.0))
      detail::raise<RangeError>("Dropout: p must be in [0, 1), got ", p);
    dropped_ = static_cast<std::uint32_t>(std::min<long long>(std::llround(p * 65536.0), 65535));
  }

  /// False where every multiplier is 1: p = 0, or not training.
  bool active(DropoutKey key) const noexcept { return key.training && dropped_ != 0; }
  /// 1/(1 − p), what a kept element is multiplied with.
  float scale() const noexcept { return static_cast<float>(65536.0 / (65536.0 - static_cast<double>(dropped_))); }

  /// The multipliers of one row of x (in), in order: 0 or scale(); all 1 when not active.
  void multipliers(DropoutKey key, std::size_t row, std::span<float> d) const noexcept {
    if (!active(key)) {
      std::fill(d.begin(), d.end(), 1.0f);
      return;
    }
    // Indices from 2⁶³ on, as the same seed and stream also draw an adapter's factors; one key per step, then 16 bits
    // per element.
    const Random draw{.seed = random_.bits((std::uint64_t{1} << 63) | key.step), .stream = random_.stream};
    const std::uint64_t first = row * std::uint64_t{(d.size() + 3) / 4};
    const float kept = scale();
    for (std::size_t c = 0; c < d.size(); c += 4) {
      std::uint64_t bits = draw.bits(first + c / 4);
      for (std::size_t i = c; i < std::min(c + 4, d.size()); ++i, bits >>= 16)
        d[i] = (bits & 0xffffu) < dropped_ ? 0.0f : kept;
    }
  }

 private:
  Random random_;
  std::uint32_t dropped_ = 0;  // of 65536
};

}  // namespace losa::inline v0
