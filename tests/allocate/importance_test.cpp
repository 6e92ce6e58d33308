#include <losa/allocate/importance.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

TEST_CASE("importance by hand") {
  // Off-diagonal row sums 0.9, 0.7, 0.4 of 2.0 in all.
  const losa::RmiMatrix rmi{3, {1, 0.6, 0.3, 0.6, 1, 0.1, 0.3, 0.1, 1}};
  const auto i1 = losa::importance(rmi);
  CHECK(i1[0] == doctest::Approx(std::exp(-0.45)).epsilon(1e-15));
  CHECK(i1[1] == doctest::Approx(std::exp(-0.35)).epsilon(1e-15));
  CHECK(i1[2] == doctest::Approx(std::exp(-0.20)).epsilon(1e-15));
  const auto i100 = losa::importance(rmi, 100);
  CHECK(i100[0] == doctest::Approx(std::exp(-45.0)).epsilon(1e-13));
  CHECK(i1[2] > i1[1]);
  CHECK(i1[1] > i1[0]);  // redundant layers matter less
  CHECK(losa::importance(rmi, 0) == std::vector<double>{1, 1, 1});
}

TEST_CASE("importance where nothing is shared is equal everywhere") {
  const losa::RmiMatrix none{2, {1, 0, 0, 1}};
  CHECK(losa::importance(none) == std::vector<double>{std::exp(-0.5), std::exp(-0.5)});
  CHECK(losa::importance(losa::RmiMatrix{1, {1}}) == std::vector<double>{std::exp(-1.0)});
  CHECK(losa::importance(losa::RmiMatrix{}).empty());
}

TEST_CASE("importance counts negative estimates as no information") {
  const losa::RmiMatrix rmi{3, {1, -0.5, 0.2, -0.5, 1, 0.2, 0.2, 0.2, 1}};
  const losa::RmiMatrix clipped{3, {1, 0, 0.2, 0, 1, 0.2, 0.2, 0.2, 1}};
  CHECK(losa::importance(rmi) == losa::importance(clipped));
}

TEST_CASE("importance refuses a beta that is negative or not finite") {
  const losa::RmiMatrix rmi{1, {1}};
  CHECK_THROWS_WITH_AS(losa::importance(rmi, -1), "importance: beta must be at least 0 and finite, got -1",
                       losa::RangeError);
  CHECK_THROWS_AS(losa::importance(rmi, std::numeric_limits<double>::infinity()), losa::RangeError);
  CHECK_THROWS_AS(losa::importance(rmi, std::numeric_limits<double>::quiet_NaN()), losa::RangeError);
}
