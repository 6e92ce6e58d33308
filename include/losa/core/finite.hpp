#pragma once
// Whether numbers are finite, by their bits: -ffast-math lets compilers take std::isfinite for true, and one copy of an
// inline function serves translation units with and without it.

#include <bit>
#include <cstdint>

namespace losa::inline v0::detail {

constexpr bool is_finite(float value) noexcept {
  return (std::bit_cast<std::uint32_t>(value) & 0x7f800000u) != 0x7f800000u;
}
constexpr bool is_finite(double value) noexcept {
  return (std::bit_cast<std::uint64_t>(value) & 0x7ff0000000000000u) != 0x7ff0000000000000u;
}
constexpr bool is_nan(float value) noexcept {
  return (std::bit_cast<std::uint32_t>(value) & 0x7fffffffu) > 0x7f800000u;
}
constexpr bool is_nan(double value) noexcept {
  return (std::bit_cast<std::uint64_t>(value) & 0x7fffffffffffffffu) > 0x7ff0000000000000u;
}

}  // namespace losa::inline v0::detail
