#include <losa/allocate/spectral_rank.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include <losa/core/random.hpp>

namespace {

using Spectra = std::vector<std::vector<double>>;

double residual(const Spectra& spectra, const std::vector<double>& gains, const std::vector<std::size_t>& rank) {
  double total = 0;
  for (std::size_t l = 0; l < spectra.size(); ++l)
    for (std::size_t k = rank[l]; k < spectra[l].size(); ++k) total += gains[l] * spectra[l][k];
  return total;
}

}  // namespace

TEST_CASE("spectral ranks by hand") {
  const Spectra spectra = {{16, 0, 0, 0}, {4, 4, 4, 4}};
  const std::vector<double> ones = {1, 1};
  const auto rank = losa::spectral_ranks(spectra, {}, ones, {.budget = 4});
  CHECK(rank == std::vector<std::size_t>{1, 3});
  CHECK(residual(spectra, ones, rank) == 4.0);
  CHECK(residual(spectra, ones, {2, 2}) == 8.0);  // in proportion to the errors, 16 and 16
}

TEST_CASE("spectral ranks equal brute force at equal prices") {
  const losa::Random random{.seed = 23};
  std::uint64_t draw = 0;
  for (int round = 0; round < 60; ++round) {
    Spectra spectra(3, std::vector<double>(5));
    std::vector<double> gains(3);
    for (auto& spectrum : spectra) {
      for (double& value : spectrum) value = std::exp(2 * random.normal(draw++));
      std::sort(spectrum.rbegin(), spectrum.rend());
    }
    for (double& gain : gains) gain = 0.2 + random.uniform(draw++);
    const std::vector<double> prices(3, 7.0);
    const std::size_t min = static_cast<std::size_t>(round % 2);
    const std::size_t budget = 3 + random.below(10, draw++);
    const auto rank = losa::spectral_ranks(spectra, gains, prices,
                                           {.budget = 7.0 * static_cast<double>(budget), .min = min, .max = 4});
    double best = std::numeric_limits<double>::infinity();
    for (std::size_t a = min; a <= 4; ++a)
      for (std::size_t b = min; b <= 4; ++b)
        for (std::size_t c = min; c <= 4; ++c)
          if (a + b + c <= std::min<std::size_t>(budget, 12))
            best = std::min(best, residual(spectra, gains, {a, b, c}));
    CHECK(rank[0] + rank[1] + rank[2] == budget);
    CHECK(residual(spectra, gains, rank) == doctest::Approx(best).epsilon(1e-12));
  }
}

TEST_CASE("spectral ranks of power laws: proportional for 1/k, square root for 1/k squared") {
  const std::vector<double> error = {1, 4, 9};
  const std::vector<double> ones(3, 1.0);
  for (int power : {1, 2}) {
    Spectra spectra(3, std::vector<double>(3000));
    for (std::size_t l = 0; l < 3; ++l)
      for (std::size_t k = 0; k < 3000; ++k) spectra[l][k] = error[l] * std::pow(static_cast<double>(k + 1), -power);
    const auto rank = losa::spectral_ranks(spectra, {}, ones, {.budget = 1400});
    const double total = power == 1 ? 14.0 : 6.0;
    for (std::size_t l = 0; l < 3; ++l) {
      const double share = (power == 1 ? error[l] : std::sqrt(error[l])) / total;
      CHECK(std::abs(static_cast<double>(rank[l]) - share * 1400) <= 2.0);
    }
  }
}

TEST_CASE("spectral ranks at unequal prices: nothing affordable is left") {
  const Spectra spectra = {{10, 5, 1}, {30, 3, 2}};
  const std::vector<double> prices = {2, 5};
  // Ratios 5, 2.5, 0.5 and 6, 0.6, 0.4; budget 10: unit 1 (5), unit 0 (2), unit 0 (2), then 1 is left.
  CHECK(losa::spectral_ranks(spectra, {}, prices, {.budget = 10}) == std::vector<std::size_t>{2, 1});
  // Budget 5: 12 for a price of 5 is worse than 10 and 5 for 2 each.
  CHECK(losa::spectral_ranks(Spectra{{10, 5}, {12, 3}}, {}, prices, {.budget = 5}) == std::vector<std::size_t>{2, 0});
  // Budget 11: the second rank of unit 1 (5) does not fit, the third of unit 0 does.
  CHECK(losa::spectral_ranks(spectra, {}, prices, {.budget = 11}) == std::vector<std::size_t>{3, 1});
}

TEST_CASE("spectral ranks refuse what makes no sense") {
  const Spectra spectra = {{4, 1}, {2, 2}};
  const std::vector<double> prices = {1, 1};
  const std::vector<double> one = {1};
  CHECK_THROWS_AS(losa::spectral_ranks(spectra, one, prices, {.budget = 1}), losa::ShapeError);
  CHECK_THROWS_AS(losa::spectral_ranks(spectra, {}, one, {.budget = 1}), losa::ShapeError);
  const std::vector<double> negative = {1, -1};
  CHECK_THROWS_AS(losa::spectral_ranks(spectra, negative, prices, {.budget = 1}), losa::RangeError);
  CHECK_THROWS_AS(losa::spectral_ranks(spectra, {}, negative, {.budget = 1}), losa::RangeError);
  CHECK_THROWS_WITH_AS(losa::spectral_ranks(spectra, {}, prices, {.budget = 1, .min = 1}),
                       "spectral_ranks: budget 1 does not pay for min 1 everywhere", losa::RangeError);
  CHECK_THROWS_WITH_AS(losa::spectral_ranks(spectra, {}, prices, {.budget = 5}),
                       "spectral_ranks: budget 5 exceeds 4, all that max allows", losa::RangeError);
  CHECK_THROWS_WITH_AS(losa::spectral_ranks(spectra, {}, prices, {.budget = 4, .min = 3}),
                       "spectral_ranks: min 3 exceeds what unit 0 can take, 2", losa::RangeError);
  const Spectra rising = {{1, 4}, {2, 2}};
  CHECK_THROWS_WITH_AS(losa::spectral_ranks(rising, {}, prices, {.budget = 1}),
                       "spectral_ranks: squared singular values of unit 0 must be finite, at least 0 and falling",
                       losa::RangeError);
}

TEST_CASE("spectral ranks as an allocator spend the mean's price") {
  const Spectra spectra = {{16, 1, 0.5, 0.25}, {8, 7, 6, 5}};
  const std::vector<double> costs = {10, 10};
  const losa::SpectralRank allocator{};
  CHECK(allocator({.mean = 2, .spectra = spectra, .costs = costs}) == std::vector<std::size_t>{1, 3});
  CHECK(losa::RankNeeds(allocator.needs).spectra);
}
