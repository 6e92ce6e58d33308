#pragma once
// The bits of a number as a value that the optimiser knows nothing about.
//
// -ffast-math promises a compiler that no float is NaN or Inf, and it believes that of the result of every operation,
// of what functions of float type return and of their parameters by value (clang 17 and later), whatever is then done
// with the bits: a test of bits obtained from such a float folds to a constant. So the bits are copied to an integer
// register and pass through an assembly statement without instructions, which the compiler must take to change them
// (g++ 12, clang 14 to 22). Arguments come by reference: nothing is promised of a float in memory.
//
// Arrays that are only read need no such statement: whoever copies their elements to integers (std::memcpy) sees the
// bits.

#include <bit>
#include <cstring>
#include <type_traits>

namespace losa::inline v0::detail {

/// `value` as an integer of its size.
template <class Bits, class Number>
constexpr Bits opaque_bits(const Number& value) noexcept {
  static_assert(sizeof(Bits) == sizeof(Number) && std::is_unsigned_v<Bits>);
  if (std::is_constant_evaluated()) return std::bit_cast<Bits>(value);
  Bits bits;
  std::memcpy(&bits, &value, sizeof bits);
  __asm__("" : "+r"(bits));
  return bits;
}

}  // namespace losa::inline v0::detail
