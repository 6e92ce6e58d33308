#pragma once
// Whether numbers are finite, by their bits: -ffast-math lets compilers take std::isfinite for true, and one copy of an
// inline function serves translation units with and without it. Numbers are passed by reference (opaque.hpp says why),
// and so are those parameters of other functions that are held to a range, where the test for finite comes first:
// `!(is_finite(x) && x >= 0.0)`, as no comparison can be trusted with a NaN.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include <losa/core/opaque.hpp>
#include <losa/core/types.hpp>

namespace losa::inline v0::detail {

constexpr bool is_finite(const float& value) noexcept {
  return (opaque_bits<std::uint32_t>(value) & 0x7f800000u) != 0x7f800000u;
}
constexpr bool is_finite(const double& value) noexcept {
  return (opaque_bits<std::uint64_t>(value) & 0x7ff0000000000000u) != 0x7ff0000000000000u;
}
constexpr bool is_finite(const bf16& value) noexcept { return (value.bits & 0x7f80u) != 0x7f80u; }
constexpr bool is_finite(const f16& value) noexcept { return (value.bits & 0x7c00u) != 0x7c00u; }

constexpr bool is_nan(const float& value) noexcept {
  return (opaque_bits<std::uint32_t>(value) & 0x7fffffffu) > 0x7f800000u;
}
constexpr bool is_nan(const double& value) noexcept {
  return (opaque_bits<std::uint64_t>(value) & 0x7fffffffffffffffu) > 0x7ff0000000000000u;
}

/// The integer that has the bits of a stored number.
template <Storage Element>
using StoredBits = std::conditional_t<sizeof(Element) == 8, std::uint64_t,
                                      std::conditional_t<sizeof(Element) == 4, std::uint32_t, std::uint16_t>>;

/// Without the sign.
template <class Bits>
constexpr Bits magnitude_bits(Bits bits) noexcept {
  return static_cast<Bits>(bits & static_cast<Bits>(std::numeric_limits<std::make_signed_t<Bits>>::max()));
}

/// The bits of infinity.
template <Storage Element>
inline constexpr StoredBits<Element> infinity_bits = std::is_same_v<Element, double>  ? 0x7ff0000000000000u
                                                     : std::is_same_v<Element, float> ? 0x7f800000u
                                                     : std::is_same_v<Element, bf16>  ? 0x7f80u
                                                                                      : 0x7c00u;

/// The least double that rounds to an infinite float, as bits.
inline constexpr std::uint64_t double_past_floats = 0x47effffff0000000u;

/// Of `n` numbers stored at `stored`, aligned or not: how many come before the first whose magnitude, as bits, is at
/// least `limit`. No float comes into being.
template <Storage Element>
std::size_t count_below(const std::byte* stored, std::size_t n, StoredBits<Element> limit) noexcept {
  using Bits = StoredBits<Element>;
  const auto too_large = [&](std::size_t i) {
    Bits bits;
    std::memcpy(&bits, stored + i * sizeof bits, sizeof bits);
    return magnitude_bits(bits) >= limit;
  };
  for (std::size_t begin = 0; begin < n; begin += 1024) {
    const std::size_t end = begin + 1024 < n ? begin + 1024 : n;
    bool any = false;
    for (std::size_t i = begin; i < end; ++i) any |= too_large(i);  // no way out, so that it takes many at once
    for (std::size_t i = begin; any && i < end; ++i)
      if (too_large(i)) return i;
  }
  return n;
}

}  // namespace losa::inline v0::detail
