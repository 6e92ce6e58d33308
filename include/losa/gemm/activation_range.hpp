#pragma once
// Which activations kernels of integer weights may turn into integers, by the largest magnitude that shares a scale.

#include <bit>
#include <cstdint>

namespace losa::inline v0::detail {

/// `magnitude` is the bits of max |x|. False if x is not finite or so large or small that sums or products of scales
/// might not be normal floats: then activations stay floats. Compared as bits: -ffast-math takes no float for a NaN.
inline bool integers_fit(std::uint32_t magnitude) noexcept {
  return magnitude == 0 ||
         (magnitude >= std::bit_cast<std::uint32_t>(1e-25f) && magnitude <= std::bit_cast<std::uint32_t>(1e30f));
}

}  // namespace losa::inline v0::detail
