#include <doctest/doctest.h>

#include <initializer_list>
#include <limits>

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
