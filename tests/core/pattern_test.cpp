#include <losa/core/pattern.hpp>

#include <doctest/doctest.h>

#include <limits>

TEST_CASE("pattern: counts of zeros") {
  CHECK(losa::zeros_of(losa::Unstructured{0.7}, 10, 10) == 70);
  CHECK(losa::zeros_of(losa::Unstructured{0.0}, 10, 10) == 0);
  CHECK(losa::zeros_of(losa::Unstructured{0.5}, 3, 3) == 5);     // 4.5, half away from zero
  CHECK(losa::zeros_of(losa::Unstructured{0.61}, 7, 11) == 47);  // 46.97
  CHECK(losa::zeros_of(losa::ExactZeros{17}, 4, 5) == 17);
  CHECK(losa::zeros_of(losa::ExactZeros{20}, 4, 5) == 20);
  CHECK(losa::zeros_of(losa::NofM{2, 4}, 3, 8) == 12);
  CHECK(losa::zeros_of(losa::NofM{1, 4}, 3, 8) == 18);
  CHECK(losa::zeros_of(losa::NofM{0, 4}, 3, 8) == 24);
  CHECK(losa::zeros_of(losa::NofM{4, 4}, 3, 8) == 0);
  CHECK(losa::zeros_of(losa::NofM{}, 1, 4) == 2);
  losa::Mask mask(4, 5);
  mask.set(1, 1, true);
  CHECK(losa::zeros_of(losa::GivenMask{&mask}, 4, 5) == 19);
}

TEST_CASE("pattern: mistakes in one sentence each") {
  using losa::RangeError;
  using losa::ShapeError;
  CHECK_THROWS_WITH_AS(losa::zeros_of(losa::Unstructured{1.0}, 4, 4, "select"),
                       "select: sparsity must be in [0, 1), got 1", RangeError);
  CHECK_THROWS_WITH_AS(losa::zeros_of(losa::Unstructured{-0.25}, 4, 4, "select"),
                       "select: sparsity must be in [0, 1), got -0.25", RangeError);
  CHECK_THROWS_WITH_AS(losa::zeros_of(losa::Unstructured{std::numeric_limits<double>::quiet_NaN()}, 4, 4, "select"),
                       "select: sparsity must be in [0, 1), got nan", RangeError);
  CHECK_THROWS_WITH_AS(losa::zeros_of(losa::ExactZeros{21}, 4, 5, "select"),
                       "select: 21 zeros do not fit into a weight of 4 × 5", RangeError);
  CHECK_THROWS_WITH_AS(losa::zeros_of(losa::NofM{5, 4}, 4, 8, "select"),
                       "select: pattern N:M needs 0 ≤ N ≤ M and M ≥ 1, got 5:4", RangeError);
  CHECK_THROWS_WITH_AS(losa::zeros_of(losa::NofM{0, 0}, 4, 8, "select"),
                       "select: pattern N:M needs 0 ≤ N ≤ M and M ≥ 1, got 0:0", RangeError);
  CHECK_THROWS_WITH_AS(losa::zeros_of(losa::NofM{2, 4}, 11, 4098, "select"),
                       "select: mask pattern 2:4 needs `in` to be a multiple of 4, got weight 11 × 4098", ShapeError);
  CHECK_THROWS_WITH_AS(losa::zeros_of(losa::GivenMask{}, 4, 4, "select"), "select: GivenMask holds no mask",
                       RangeError);
  const losa::Mask mask(4, 5);
  CHECK_THROWS_WITH_AS(losa::zeros_of(losa::GivenMask{&mask}, 4, 6), "mask: the given mask is 4 × 5, the weight 4 × 6",
                       ShapeError);
  CHECK_THROWS_AS(losa::zeros_of(losa::GivenMask{&mask}, 5, 5), ShapeError);
}
