#include <losa/core/random.hpp>
#include <losa/core/types.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>

using losa::bf16;
using losa::f16;
using losa::narrow;
using losa::widen;

namespace {

struct Format {
  int mantissa;  // stored bits
  int bias;
};
constexpr Format half{10, 15};
constexpr Format brain{7, 127};

// The value of a 16-bit pattern by the definition of the format; NaN aside.
double value_of(std::uint16_t bits, Format format) {
  const int exponent_bits = 15 - format.mantissa;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  const int exponent = (bits >> format.mantissa) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << format.mantissa) - 1);
  if (exponent == (1 << exponent_bits) - 1) return sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - format.bias - format.mantissa);
  return sign * std::ldexp(mantissa + (1 << format.mantissa), exponent - format.bias - format.mantissa);
}

bool is_nan(std::uint16_t bits, Format format) {
  return (bits & 0x7fff) > (((1 << (15 - format.mantissa)) - 1) << format.mantissa);
}

// Nearest number of the format, ties to even, computed in double.
double rounded(double x, Format format) {
  if (x == 0 || std::isinf(x)) return x;
  int exponent = 0;
  std::frexp(x, &exponent);
  exponent = std::max(exponent - 1, 1 - format.bias);
  const double ulp = std::ldexp(1.0, exponent - format.mantissa);
  const double result = std::nearbyint(x / ulp) * ulp;
  const double largest = std::ldexp(2.0 - std::ldexp(1.0, -format.mantissa), format.bias);
  return std::abs(result) > largest ? std::copysign(std::numeric_limits<double>::infinity(), x) : result;
}

template <class T>
void check_type(Format format) {
  std::size_t wrong = 0;
  for (std::uint32_t pattern = 0; pattern < 0x10000; ++pattern) {
    const auto bits = static_cast<std::uint16_t>(pattern);
    const float wide = widen(T{bits});
    if (is_nan(bits, format)) {
      // NaN stays NaN with its sign, and quiet.
      const float again = widen(narrow<T>(wide));
      wrong += !std::isnan(wide) || !std::isnan(again) || std::signbit(wide) != ((bits & 0x8000) != 0);
    } else {
      const double expected = value_of(bits, format);
      wrong += static_cast<double>(wide) != expected || std::signbit(wide) != std::signbit(expected);
      wrong += narrow<T>(wide) != T{bits};
    }
  }
  CHECK(wrong == 0);
}

template <class T>
void check_narrow(Format format, float x) {
  const double expected = rounded(x, format);
  const float got = widen(narrow<T>(x));
  CHECK(static_cast<double>(got) == expected);
  CHECK(std::signbit(got) == std::signbit(x));
}

// Midpoints of neighbours, and the floats on both sides of them: ties to even, else to the nearest.
template <class T>
void check_midpoints(Format format, std::uint16_t infinity) {
  std::size_t wrong = 0;
  for (std::uint16_t bits = 0; bits + 1 < infinity; ++bits) {
    const double middle = (value_of(bits, format) + value_of(static_cast<std::uint16_t>(bits + 1), format)) / 2;
    const auto tie = static_cast<float>(middle);
    if (static_cast<double>(tie) != middle) {
      ++wrong;  // every midpoint is a float
      continue;
    }
    const auto even = static_cast<std::uint16_t>(bits + (bits & 1));
    const float inf = std::numeric_limits<float>::infinity();
    for (int sign : {0x0000, 0x8000}) {
      const float s = sign != 0 ? -1.0f : 1.0f;
      wrong += narrow<T>(s * tie).bits != (even | sign);
      wrong += narrow<T>(s * std::nextafter(tie, 0.0f)).bits != (bits | sign);
      wrong += narrow<T>(s * std::nextafter(tie, inf)).bits != ((bits + 1) | sign);
    }
  }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("types: every 16-bit pattern widens to its value and narrows back to itself") {
  check_type<f16>(half);
  check_type<bf16>(brain);
}

TEST_CASE("types: midpoints between neighbours round to even, their sides to the nearest") {
  check_midpoints<f16>(half, 0x7c00);
  check_midpoints<bf16>(brain, 0x7f80);
}

TEST_CASE("types: random floats round as double arithmetic says") {
  const losa::Random random{.seed = 3};
  for (std::uint64_t i = 0; i < 20000; ++i) {
    const float x = std::bit_cast<float>(static_cast<std::uint32_t>(random.bits(i)));
    if (std::isnan(x)) continue;
    check_narrow<bf16>(brain, x);
    check_narrow<f16>(half, x);
    check_narrow<f16>(half, static_cast<float>(std::ldexp(random.uniform(i) - 0.5, static_cast<int>(i % 46) - 28)));
  }
}

TEST_CASE("types: limits") {
  CHECK(narrow<f16>(65504.0f).bits == 0x7bff);
  CHECK(narrow<f16>(65519.996f).bits == 0x7bff);
  CHECK(narrow<f16>(65520.0f).bits == 0x7c00);
  CHECK(narrow<f16>(-1e30f).bits == 0xfc00);
  CHECK(narrow<f16>(0x1p-25f).bits == 0);  // half of the smallest, ties to even
  CHECK(narrow<f16>(0x1.000002p-25f).bits == 1);
  CHECK(narrow<f16>(-0.0f).bits == 0x8000);
  CHECK(narrow<bf16>(std::numeric_limits<float>::max()).bits == 0x7f80);
  CHECK(narrow<bf16>(-0.0f).bits == 0x8000);
  // A NaN whose upper half alone would read as infinity.
  CHECK(std::isnan(widen(narrow<bf16>(std::bit_cast<float>(0x7f800001u)))));
  CHECK(std::isnan(widen(narrow<f16>(std::bit_cast<float>(0xff800001u)))));
}

TEST_CASE("types: float and double pass through; conversions are constant expressions") {
  static_assert(narrow<float>(1.5f) == 1.5f);
  static_assert(narrow<double>(1.5f) == 1.5);
  static_assert(widen(1.5f) == 1.5f);
  static_assert(widen(1.5) == 1.5);
  static_assert(narrow<f16>(1.0f).bits == 0x3c00);
  static_assert(narrow<bf16>(1.0f).bits == 0x3f80);
  static_assert(losa::Storage<f16> && losa::Storage<bf16> && losa::Storage<float> && losa::Storage<double>);
  static_assert(!losa::Storage<int>);
  CHECK(widen(f16{0x0001}) == 0x1p-24f);
}
