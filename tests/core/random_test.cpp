#include <losa/core/random.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cmath>

using losa::Random;

TEST_CASE("random: known answers of Philox4x32-10 (Random123's kat_vectors), first two lanes") {
  // Counter and key all zero: 6627e8d5 e169c58d bc57ac4c 9b00dbd8.
  CHECK(Random{}.bits(0) == 0xe169c58d6627e8d5u);
  // All ones: 408f276d 41c83b0e a20bc7c6 6d5451fd.
  const std::uint64_t ones = ~std::uint64_t{0};
  CHECK(Random{.seed = ones, .stream = ones}.bits(ones) == 0x41c83b0e408f276du);
  // Digits of π: counter 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0 → d16cfe09 94fdcceb …
  const Random pi{.seed = 0x299f31d0a4093822u, .stream = 0x0370734413198a2eu};
  CHECK(pi.bits(0x85a308d3243f6a88u) == 0x94fdccebd16cfe09u);
}

TEST_CASE("random: a pure function of seed, stream and index") {
  const Random a{.seed = 4, .stream = 17};
  const double first = a.uniform(5);
  static_cast<void>(a.uniform(9));
  CHECK(a.uniform(5) == first);
  CHECK(Random{.seed = 4, .stream = 17}.uniform(5) == first);
  CHECK(Random{.seed = 5, .stream = 17}.uniform(5) != first);
  CHECK(Random{.seed = 4, .stream = 18}.uniform(5) != first);
  CHECK(a.bits(5) != a.bits(5 + (std::uint64_t{1} << 32)));
}

TEST_CASE("random: uniform is in [0, 1), has its moments and fills its bins") {
  const Random random{.seed = 1};
  const std::size_t n = 200000;
  double sum = 0;
  double squares = 0;
  std::array<int, 20> bins{};
  for (std::size_t i = 0; i < n; ++i) {
    const double u = random.uniform(i);
    REQUIRE(u >= 0.0);
    REQUIRE(u < 1.0);
    sum += u;
    squares += (u - 0.5) * (u - 0.5);
    ++bins[static_cast<std::size_t>(u * 20)];
  }
  CHECK(sum / n == doctest::Approx(0.5).epsilon(0.004));  // five standard errors are 0.0032
  CHECK(squares / n == doctest::Approx(1.0 / 12).epsilon(0.01));
  double chi_squared = 0;
  for (int count : bins) chi_squared += (count - n / 20.0) * (count - n / 20.0) / (n / 20.0);
  CHECK(chi_squared < 43.8);  // 99.9 % point for 19 degrees of freedom
  CHECK(chi_squared > 5.4);   // 0.1 % point: too even is not random either
}

TEST_CASE("random: normal has mean 0, variance 1, no skew, kurtosis 3, and its tail") {
  const Random random{.seed = 2, .stream = 5};
  const std::size_t n = 200000;
  double moment[5] = {};
  int beyond = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const double z = random.normal(i);
    REQUIRE(std::isfinite(z));
    double power = 1;
    for (double& m : moment) {
      m += power / n;
      power *= z;
    }
    beyond += std::abs(z) > 1.959964;
  }
  CHECK(std::abs(moment[1]) < 0.012);
  CHECK(std::abs(moment[2] - 1) < 0.02);
  CHECK(std::abs(moment[3]) < 0.03);
  CHECK(std::abs(moment[4] - 3) < 0.12);
  CHECK(beyond / static_cast<double>(n) == doctest::Approx(0.05).epsilon(0.05));
}

TEST_CASE("random: neighbouring seeds, streams and indices are uncorrelated") {
  const std::size_t n = 50000;
  const auto correlation = [&](auto&& x, auto&& y) {
    double sum = 0;
    for (std::size_t i = 0; i < n; ++i) sum += (x(i) - 0.5) * (y(i) - 0.5) * 12;
    return std::abs(sum / n);
  };
  const Random a{.seed = 1, .stream = 1};
  const Random seed{.seed = 2, .stream = 1};
  const Random stream{.seed = 1, .stream = 2};
  const auto at = [](const Random& r) { return [&r](std::size_t i) { return r.uniform(i); }; };
  CHECK(correlation(at(a), at(seed)) < 0.02);
  CHECK(correlation(at(a), at(stream)) < 0.02);
  CHECK(correlation(at(a), [&](std::size_t i) { return a.uniform(i + 1); }) < 0.02);
}

TEST_CASE("random: below(bound) takes every value below it and none other") {
  const Random random{.seed = 9};
  std::array<int, 7> count{};
  for (std::uint64_t i = 0; i < 70000; ++i) {
    const std::uint64_t value = random.below(7, i);
    REQUIRE(value < 7);
    ++count[value];
  }
  for (int c : count) CHECK(std::abs(c - 10000) < 500);
  CHECK(random.below(1, 123) == 0);
}
