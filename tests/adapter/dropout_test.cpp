#include <losa/adapter/dropout.hpp>

#include <bit>
#include <cmath>
#include <vector>

#include <doctest/doctest.h>

#include "oracle.hpp"

using losa::Dropout;
using losa::DropoutKey;

TEST_CASE("dropout: the same key drops the same elements, another step, stream, seed or row others") {
  const auto draw = [](const Dropout& dropout, DropoutKey key, std::size_t row) {
    std::vector<float> d(203);
    dropout.multipliers(key, row, d);
    return d;
  };
  const Dropout dropout(0.5, 1, 2);
  const DropoutKey key{.step = 9, .training = true};
  const std::vector<float> d = draw(dropout, key, 4);
  CHECK(draw(Dropout(0.5, 1, 2), key, 4) == d);
  CHECK(draw(dropout, {.step = 10, .training = true}, 4) != d);
  CHECK(draw(dropout, key, 5) != d);
  CHECK(draw(Dropout(0.5, 2, 2), key, 4) != d);
  CHECK(draw(Dropout(0.5, 1, 3), key, 4) != d);
  CHECK(draw(dropout, {.step = 9, .training = false}, 4) == std::vector<float>(203, 1.0f));
}

TEST_CASE("dropout: a fraction p is dropped and the mean stays") {
  for (double p : {0.1, 0.25, 0.5, 0.9}) {
    CAPTURE(p);
    const Dropout dropout(p, 3, 0);
    std::vector<float> d(501);
    std::size_t dropped = 0;
    std::size_t other = 0;
    double sum = 0;
    const std::size_t rows = 400;
    for (std::size_t row = 0; row < rows; ++row) {
      dropout.multipliers({.step = 1, .training = true}, row, d);
      for (float value : d) {
        other += value != 0.0f && value != dropout.scale();
        dropped += value == 0.0f;
        sum += static_cast<double>(value);
      }
    }
    CHECK(other == 0);
    const double n = static_cast<double>(rows * d.size());
    const double deviation = std::sqrt(p * (1 - p) / n);
    CHECK(std::abs(static_cast<double>(dropped) / n - p) < 5 * deviation);
    CHECK(std::abs(sum / n - 1) < 5 * deviation / (1 - p));
    CHECK(static_cast<double>(dropout.scale()) == doctest::Approx(1 / (1 - p)).epsilon(1e-4));
  }
}

TEST_CASE("dropout: neighbouring elements are independent") {
  // Four elements share 64 random bits: each of the sixteen outcomes must be as frequent as independence makes it.
  const Dropout dropout(0.25, 4, 0);
  std::vector<float> d(4000);
  std::vector<double> count(16);
  for (std::size_t row = 0; row < 16; ++row) {
    dropout.multipliers({.step = 1, .training = true}, row, d);
    for (std::size_t i = 0; i < d.size(); i += 4)
      ++count[(d[i] == 0 ? 1u : 0u) + (d[i + 1] == 0 ? 2u : 0u) + (d[i + 2] == 0 ? 4u : 0u) +
              (d[i + 3] == 0 ? 8u : 0u)];
  }
  for (unsigned outcome = 0; outcome < 16; ++outcome) {
    CAPTURE(outcome);
    const int dropped = std::popcount(outcome);
    const double probability = std::pow(0.25, dropped) * std::pow(0.75, 4 - dropped);
    CHECK(std::abs(count[outcome] - 16000 * probability) < 5 * std::sqrt(16000 * probability * (1 - probability)));
  }
}

TEST_CASE("dropout: p = 0 is never active, p outside [0, 1) is an error") {
  CHECK_FALSE(Dropout(0, 1, 1).active({.step = 1, .training = true}));
  CHECK_FALSE(Dropout().active({.step = 1, .training = true}));
  CHECK(Dropout(0.5, 1, 1).active({.step = 1, .training = true}));
  CHECK_FALSE(Dropout(0.5, 1, 1).active({.step = 1, .training = false}));
  CHECK(oracle::sentence<losa::RangeError>([] { Dropout(-0.1, 0, 0); }) == "Dropout: p must be in [0, 1), got -0.1");
  CHECK(oracle::sentence<losa::RangeError>([] { Dropout(1.0, 0, 0); }) == "Dropout: p must be in [0, 1), got 1");
}
