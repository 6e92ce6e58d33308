#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <vector>

#include <losa/core/finite.hpp>

TEST_CASE_TEMPLATE("is_finite, is_nan: by bits, at both ends of the range", T, float, double) {
  using limits = std::numeric_limits<T>;
  for (T value : {T{0}, -T{0}, T{1}, limits::max(), limits::lowest(), limits::min(), limits::denorm_min()}) {
    CHECK(losa::detail::is_finite(value));
    CHECK_FALSE(losa::detail::is_nan(value));
  }
  for (T value : {limits::infinity(), -limits::infinity()}) {
    CHECK_FALSE(losa::detail::is_finite(value));
    CHECK_FALSE(losa::detail::is_nan(value));
  }
  for (T value : {limits::quiet_NaN(), -limits::quiet_NaN()}) {
    CHECK_FALSE(losa::detail::is_finite(value));
    CHECK(losa::detail::is_nan(value));
  }
}

TEST_CASE("is_finite of the 16-bit types: every pattern as what it widens to") {
  for (std::uint32_t pattern = 0; pattern < 0x10000; ++pattern) {
    const auto bits = static_cast<std::uint16_t>(pattern);
    REQUIRE(losa::detail::is_finite(losa::bf16{bits}) == losa::detail::is_finite(losa::widen(losa::bf16{bits})));
    REQUIRE(losa::detail::is_finite(losa::f16{bits}) == losa::detail::is_finite(losa::widen(losa::f16{bits})));
  }
}

TEST_CASE_TEMPLATE("count_below: as far as the first that is not finite, at any alignment", T, float, double,
                   losa::bf16, losa::f16) {
  using Bits = losa::detail::StoredBits<T>;
  constexpr Bits infinity = losa::detail::infinity_bits<T>;
  constexpr Bits sign = static_cast<Bits>(~(static_cast<Bits>(~Bits{}) >> 1));
  for (std::size_t n : {0u, 1u, 7u, 1023u, 1024u, 1025u, 3000u})
    for (std::size_t offset : {0u, 1u, 3u}) {
      std::vector<std::byte> bytes(offset + n * sizeof(T));
      std::byte* const stored = bytes.data() + offset;
      const auto put = [&](std::size_t i, Bits bits) { std::memcpy(stored + i * sizeof bits, &bits, sizeof bits); };
      const auto count = [&] { return losa::detail::count_below<T>(stored, n, infinity); };
      for (std::size_t i = 0; i < n; ++i) put(i, static_cast<Bits>((infinity - 1) | (i % 2 == 0 ? sign : 0)));
      CHECK(count() == n);
      for (std::size_t at : {n - 1, n / 2, n / 3, std::size_t{0}}) {
        if (at >= n) continue;
        for (Bits bad : {infinity, static_cast<Bits>(infinity | sign), static_cast<Bits>(infinity + 1)}) {
          put(at, bad);
          CHECK(count() == at);  // the later ones are bad by now
        }
      }
    }
}

TEST_CASE("double_past_floats: the least double that is no finite float") {
  CHECK(std::isinf(static_cast<float>(std::bit_cast<double>(losa::detail::double_past_floats))));
  CHECK(static_cast<float>(std::bit_cast<double>(losa::detail::double_past_floats - 1)) ==
        std::numeric_limits<float>::max());
}
