#pragma once
// Storage types: float, bf16 and f16 as 16-bit patterns with exact widening and round-to-nearest-even narrowing.
// Arithmetic is done in float or double; the 16-bit types only store.
//
//   losa::bf16 stored = losa::narrow<losa::bf16>(0.1f);
//   float value = losa::widen(stored);

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>

#include <losa/core/opaque.hpp>

namespace losa::inline v0 {

static_assert(std::endian::native == std::endian::little,
              "losa reads and writes little-endian data and is only built for little-endian machines");

/// Upper half of an IEEE-754 float: 8 exponent bits, 7 mantissa bits.
struct bf16 {
  std::uint16_t bits = 0;
  friend bool operator==(bf16, bf16) = default;
};

/// IEEE-754 half precision: 5 exponent bits, 10 mantissa bits.
struct f16 {
  std::uint16_t bits = 0;
  friend bool operator==(f16, f16) = default;
};

/// The types that weights may be stored in.
template <class Element>
concept Storage = std::same_as<Element, float> || std::same_as<Element, double> || std::same_as<Element, bf16> ||
    std::same_as<Element, f16>;

/// Exact value of a stored number.
constexpr float widen(float value) noexcept { return value; }
constexpr double widen(double value) noexcept { return value; }
constexpr float widen(bf16 value) noexcept { return std::bit_cast<float>(std::uint32_t{value.bits} << 16); }

constexpr float widen(f16 value) noexcept {
  const std::uint32_t sign = (value.bits & 0x8000u) << 16;
  const std::uint32_t exponent = (value.bits >> 10) & 0x1fu;
  const std::uint32_t mantissa = value.bits & 0x3ffu;
  if (exponent == 0x1fu) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  // Subnormal: mantissa · 2⁻²⁴ is exact in float.
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
}

namespace detail {

constexpr std::uint16_t narrow_bf16(const float& value) noexcept {
  const auto bits = opaque_bits<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);  // quiet NaN
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

constexpr std::uint16_t narrow_f16(const float& value) noexcept {
  const auto bits = opaque_bits<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);   // NaN
  if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // ≥ 65520 rounds to infinity
  if (magnitude >= 0x38800000u) {                                                   // normal
    const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
  }
  if (magnitude < 0x33000000u) return sign;  // below half of the smallest subnormal
  const std::uint32_t shift = 126u - (magnitude >> 23);
  const std::uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  const std::uint32_t halfway = 1u << (shift - 1u);
  const std::uint32_t odd = (mantissa >> shift) & 1u;
  return static_cast<std::uint16_t>(sign | ((mantissa + halfway - 1u + odd) >> shift));
}

}  // namespace detail

/// Nearest representable number, ties to even; NaN stays NaN (with -ffast-math too), overflow becomes infinity.
template <Storage Element>
constexpr Element narrow(const float& value) noexcept {
  if constexpr (std::same_as<Element, bf16>) {
    return bf16{detail::narrow_bf16(value)};
  } else if constexpr (std::same_as<Element, f16>) {
    return f16{detail::narrow_f16(value)};
  } else {
    return static_cast<Element>(value);
  }
}

}  // namespace losa::inline v0
