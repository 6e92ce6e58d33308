#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "problem.hpp"

#include <losa/gemm.hpp>

using losa::Int4;
using losa::Int8;
using test::Matrix;

namespace {

/// The largest magnitude of the weights that share a scale with (r, c).
float largest_near(const losa::PackedMatrix<float>& packed, std::size_t r, std::size_t c, bool whole_row) {
  float largest = 0;
  packed.for_each_kept(r, [&](std::size_t column, std::size_t k) {
    if (whole_row || column / 64 == c / 64) largest = std::max(largest, std::abs(packed.values()[k]));
  });
  return largest;
}

template <class Q>
void check_rounding(std::size_t rows, std::size_t cols, double sparsity, std::uint64_t i) {
  constexpr bool whole_row = std::same_as<Q, Int8>;
  const auto packed = test::random_packed<float>(rows, cols, sparsity, i);
  const auto small = losa::quantize<Q>(packed);
  const std::vector<float> dense = test::dense_of(packed);
  const std::vector<float> rounded = test::dense_of(small);
  std::size_t wrong = 0;
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; ++c) {
      // Half a step, and for int4 what rounding the scale to f16 adds to the largest integers.
      const float step = largest_near(packed, r, c, whole_row) / Q::largest;
      const float allowed = step * (whole_row ? 0.5001f : 0.505f);
      wrong += !(std::abs(dense[r * cols + c] - rounded[r * cols + c]) <= allowed);
    }
  CHECK(wrong == 0);
  CHECK(small.kept() == packed.kept());
  CHECK(small.mask() == packed.mask());
}

}  // namespace

TEST_CASE("quantize: every weight is off by half a step at most, whatever the shape") {
  test::sweep([](std::size_t rows, std::size_t cols, std::size_t, double sparsity, std::uint64_t i) {
    CAPTURE(rows);
    CAPTURE(cols);
    check_rounding<Int8>(rows, cols, sparsity, i);
    check_rounding<Int4>(rows, cols, sparsity, i);
  });
}

TEST_CASE("quantize: multiples of a scale come back bit for bit") {
  losa::Mask mask = test::random_mask(70, 200, 0.5, 1);
  Matrix weight(70, 200, 1);
  for (std::size_t r = 0; r < 70; ++r)
    for (std::size_t c = 0; c < 200; ++c) {
      const bool first_of_tile = c % 64 == 0;
      if (first_of_tile) mask.set(r, c, true);
      weight.view()(r, c) = 0.25f * (first_of_tile ? 7.0f : static_cast<float>((r + 3 * c) % 15) - 7.0f);
    }
  const auto packed = losa::pack(weight.view(), mask);
  CHECK(test::dense_of(losa::quantize<Int4>(packed)) == test::dense_of(packed));
  for (std::size_t r = 0; r < 70; ++r) weight.view()(r, 0) = 0.25f * 127.0f;
  const auto wide = losa::pack(weight.view(), mask);
  CHECK(test::dense_of(losa::quantize<Int8>(wide)) == test::dense_of(wide));
}

TEST_CASE("quantize: bytes are what the format says") {
  const auto packed = test::random_packed<float>(64, 640, 0.7, 2);
  const std::size_t structure = packed.bytes() - 4 * packed.kept();
  CHECK(losa::quantize<Int8>(packed).bytes() == packed.kept() + 4 * 64 + structure);
  std::size_t nibble_bytes = 0;
  for (std::size_t r = 0; r < 64; ++r)
    for (std::size_t c = 0; c < 640; c += 64) {
      std::size_t n = 0;
      for (std::size_t j = 0; j < 64; ++j) n += packed.mask()(r, c + j);
      nibble_bytes += (n + 1) / 2;
    }
  CHECK(losa::quantize<Int4>(packed).bytes() == nibble_bytes + 2 * 64 * 10 + 8 * 21 + structure);
}

TEST_CASE("quantize: zeros, tiny weights and empty matrices; what is not finite is refused") {
  auto packed = test::random_packed<float>(40, 70, 0.5, 3);
  std::ranges::fill(packed.values(), 0.0f);
  CHECK(test::dense_of(losa::quantize<Int8>(packed)) == test::dense_of(packed));
  CHECK(test::dense_of(losa::quantize<Int4>(packed)) == test::dense_of(packed));
  std::ranges::fill(packed.values(), 1e-30f);
  for (float v : test::dense_of(losa::quantize<Int4>(packed))) CHECK(v == 0.0f);  // below the smallest f16
  CHECK(test::dense_of(losa::quantize<Int8>(packed)) != std::vector<float>(40 * 70, 0.0f));
  CHECK(losa::quantize<Int8>(losa::PackedMatrix<float>()).kept() == 0);
  CHECK(losa::quantize<Int4>(losa::PackedMatrix<float>(losa::Mask(3, 5))).kept() == 0);
  packed.values()[7] = std::numeric_limits<float>::infinity();
  CHECK_THROWS_WITH_AS(losa::quantize<Int8>(packed), "quantize: a value is inf", losa::NumericError);
  packed.values()[7] = 1e6f;
  CHECK_THROWS_WITH_AS(losa::quantize<Int4>(packed), "quantize: 1e+06 is too large for a scale in f16",
                       losa::NumericError);
}

TEST_CASE(
    "quantize: int4 scales are rounded up in f16, and int8 products of tiny and huge numbers stay what they are") {
  for (float largest : {3.2e-8f, 1e-7f, 5e-7f, 0.1f, 3.0f}) {
    auto packed = test::random_packed<float>(33, 70, 0.5, 4);
    float least = 0;
    for (float& value : packed.values()) least = std::max(least, std::abs(value));
    for (float& value : packed.values()) value *= largest / least;
    const std::vector<float> exact = test::dense_of(packed);
    const std::vector<float> rounded = test::dense_of(losa::quantize<Int4>(packed));
    const float step = 1.002f * largest / 7 + 6.0e-8f;  // scales below 2⁻¹⁴ lie that far apart
    for (std::size_t i = 0; i < exact.size(); ++i) CHECK(std::abs(exact[i] - rounded[i]) <= 0.5001f * step);
  }
  losa::PackedMatrix<float> one(losa::Mask::full(1, 1));
  for (const auto& [w, x] : {std::pair{1.0f, 1e28f}, std::pair{1e-36f, 1e10f}, std::pair{1e-40f, 1.0f}}) {
    one.values()[0] = w;
    const auto small = losa::quantize<Int8>(one);
    for (const losa::Backend* backend : losa::backends()) {
      float y = 0;
      losa::spmm(small, {&x, 1, 1, 1}, {&y, 1, 1, 1}, {}, {.backend = backend});
      CHECK(y == doctest::Approx(w * x).epsilon(0.01));
    }
  }
}

TEST_CASE("quantize: to_dense names its shape error") {
  const auto small = losa::quantize<Int8>(test::random_packed<float>(3, 5, 0.5, 1));
  Matrix dense(3, 4, 1);
  CHECK_THROWS_WITH_AS(small.to_dense(dense.view()), "to_dense: dense must be 3 × 5, got 3 × 4", losa::ShapeError);
}

TEST_CASE("quantize: from_parts gives the matrix back, and refuses what quantize never makes") {
  const auto check = [](auto q) {
    using Q = decltype(q);
    const auto packed = test::random_packed<float>(70, 200, 0.6, 5);
    const auto small = losa::quantize<Q>(packed);
    std::vector<std::uint8_t> integers(small.integers().begin(), small.integers().end());
    std::vector<typename losa::QuantizedMatrix<Q>::Scale> scales(small.scales().begin(), small.scales().end());
    const auto again = losa::QuantizedMatrix<Q>::from_parts(small.mask(), integers, scales);
    CHECK(test::dense_of(again) == test::dense_of(small));
    CHECK(again.bytes() == small.bytes());
    const Matrix x(3, 200, 6);
    Matrix y(3, 70, 7);
    Matrix expected(3, 70, 7);
    losa::spmm(small, x.view(), expected.view());
    losa::spmm(again, x.view(), y.view());
    CHECK(test::bits_of(y) == test::bits_of(expected));

    integers[5] = std::same_as<Q, Int8> ? 0x80 : 0x10;
    const char* refused = std::same_as<Q, Int8> ? "QuantizedMatrix: integers must be in [-127, 127], got -128"
                                                : "QuantizedMatrix: integers must be in [-7, 7], got -8";
    CHECK_THROWS_WITH_AS(losa::QuantizedMatrix<Q>::from_parts(small.mask(), integers, scales), refused,
                         losa::RangeError);
    integers[5] = 1;
    integers.push_back(1);
    CHECK_THROWS_AS(losa::QuantizedMatrix<Q>::from_parts(small.mask(), integers, scales), losa::ShapeError);
    integers.pop_back();
    scales.back() = losa::narrow<typename losa::QuantizedMatrix<Q>::Scale>(-1.0f);
    CHECK_THROWS_WITH_AS(losa::QuantizedMatrix<Q>::from_parts(small.mask(), integers, scales),
                         "QuantizedMatrix: a scale is -1", losa::NumericError);
    scales.back() = losa::narrow<typename losa::QuantizedMatrix<Q>::Scale>(std::numeric_limits<float>::infinity());
    CHECK_THROWS_AS(losa::QuantizedMatrix<Q>::from_parts(small.mask(), integers, scales), losa::NumericError);
    scales.pop_back();
    CHECK_THROWS_AS(losa::QuantizedMatrix<Q>::from_parts(small.mask(), integers, scales), losa::ShapeError);
    losa::Mask stray(40, 5);
    for (std::uint64_t& word : stray.words()) word = ~std::uint64_t{0};
    CHECK_THROWS_WITH_AS(losa::QuantizedMatrix<Q>::from_parts(stray, {}, {}),
                         "QuantizedMatrix: mask row 0 keeps a weight past the last column, 5", losa::RangeError);
    CHECK(losa::QuantizedMatrix<Q>::from_parts(losa::Mask(), {}, {}).kept() == 0);
  };
  check(Int8{});
  check(Int4{});
}
