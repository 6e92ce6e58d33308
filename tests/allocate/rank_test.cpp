#include <losa/allocate/rank.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <vector>

#include <losa/core/random.hpp>

namespace {

std::size_t sum(const std::vector<std::size_t>& rank) {
  return std::accumulate(rank.begin(), rank.end(), std::size_t{0});
}

/// Σ (r − q)² / e, of which the allocation is the least over all ranks with its sum and caps.
double cost(const std::vector<double>& error, const std::vector<std::size_t>& rank) {
  const double total = std::accumulate(error.begin(), error.end(), 0.0);
  double result = 0;
  for (std::size_t i = 0; i < error.size(); ++i) {
    const double quota = error[i] / total * static_cast<double>(sum(rank));
    result += (static_cast<double>(rank[i]) - quota) * (static_cast<double>(rank[i]) - quota) / error[i];
  }
  return result;
}

void best_cost(const std::vector<double>& error, std::size_t left, std::size_t min, std::size_t max,
               std::vector<std::size_t>& rank, double& best) {
  if (rank.size() == error.size()) {
    if (left == 0) best = std::min(best, cost(error, rank));
    return;
  }
  for (std::size_t r = min; r <= std::min(max, left); ++r) {
    rank.push_back(r);
    best_cost(error, left - r, min, max, rank, best);
    rank.pop_back();
  }
}

std::vector<double> random_errors(std::size_t n, std::uint64_t stream) {
  const losa::Random random{.seed = 5, .stream = stream};
  std::vector<double> error(n);
  for (std::size_t i = 0; i < n; ++i) error[i] = std::exp(1.2 * random.normal(i));
  return error;
}

}  // namespace

TEST_CASE("ranks in whole proportions are met as they are") {
  CHECK(losa::allocate_rank(std::vector<double>{1, 1, 2, 4}, {.mean = 6}) == std::vector<std::size_t>{3, 3, 6, 12});
}

TEST_CASE("ranks that do not fit the caps are refused, and used up where they just fit") {
  const std::vector<double> error = {1, 1e6};
  CHECK(losa::allocate_rank(error, {.mean = 12}) == std::vector<std::size_t>{8, 16});
  CHECK(losa::allocate_rank(error, {.mean = 16}) == std::vector<std::size_t>{16, 16});
  CHECK(losa::allocate_rank(error, {.mean = 1}) == std::vector<std::size_t>{1, 1});
  CHECK_THROWS_WITH_AS(losa::allocate_rank(std::vector<double>(32, 1.0), {.mean = 20, .min = 1, .max = 16}),
                       "allocate_rank: mean 20 over 32 layers needs 640, but max 16 allows at most 512",
                       losa::RangeError);
  CHECK_THROWS_WITH_AS(losa::allocate_rank(error, {.mean = 2, .min = 3, .max = 16}),
                       "allocate_rank: mean 2 over 2 layers gives 4, but min 3 needs at least 6", losa::RangeError);
  CHECK_THROWS_WITH_AS(losa::allocate_rank(error, {.mean = 2, .min = 3, .max = 2}),
                       "allocate_rank: min 3 is greater than max 2", losa::RangeError);
  CHECK_THROWS_AS(losa::allocate_rank(error, {.mean = std::numeric_limits<double>::quiet_NaN()}), losa::RangeError);
  CHECK_THROWS_WITH_AS(losa::allocate_rank(std::vector<double>{1, -1}, {}),
                       "allocate_rank: error of layer 1 must be at least 0 and finite, got -1", losa::RangeError);
}

TEST_CASE("ranks spend the budget exactly within the caps, for every budget that fits") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const std::size_t n = 1 + seed;
    const auto error = random_errors(n, seed);
    for (std::size_t total = n; total <= 16 * n; total += 1 + n / 3) {
      const auto rank = losa::allocate_rank(error, {.mean = static_cast<double>(total) / static_cast<double>(n)});
      CHECK(sum(rank) == total);
      for (std::size_t r : rank) {
        CHECK(r >= 1);
        CHECK(r <= 16);
      }
      for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j < n; ++j)
          if (error[i] > error[j]) CHECK(rank[i] >= rank[j]);
    }
  }
}

TEST_CASE("ranks never fall when the budget grows") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const std::size_t n = 2 + seed;
    const auto error = random_errors(n, 50 + seed);
    std::vector<std::size_t> last(n, 0);
    for (std::size_t total = 0; total <= 10 * n; ++total) {
      const auto rank = losa::allocate_rank(
          error, {.mean = static_cast<double>(total) / static_cast<double>(n), .min = 0, .max = 10});
      std::size_t grown = 0;
      for (std::size_t i = 0; i < n; ++i) {
        CHECK(rank[i] >= last[i]);
        grown += rank[i] - last[i];
      }
      CHECK(grown == (total == 0 ? 0 : 1));
      last = rank;
    }
  }
}

TEST_CASE("ranks are the closest to proportion that integers allow") {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    const auto error = random_errors(4, 100 + seed);
    for (std::size_t total : {4u, 7u, 12u, 15u}) {
      const auto rank = losa::allocate_rank(error, {.mean = static_cast<double>(total) / 4.0, .min = 1, .max = 6});
      double best = std::numeric_limits<double>::infinity();
      std::vector<std::size_t> scratch;
      best_cost(error, total, 1, 6, scratch, best);
      CHECK(cost(error, rank) == doctest::Approx(best).epsilon(1e-12));
    }
  }
}

TEST_CASE("ranks follow a permutation of the errors and a common factor") {
  const auto error = random_errors(9, 200);
  const std::vector<std::size_t> order = {4, 2, 8, 0, 1, 7, 3, 6, 5};
  std::vector<double> permuted(9);
  for (std::size_t i = 0; i < 9; ++i) permuted[i] = error[order[i]];
  const auto rank = losa::allocate_rank(error, {.mean = 7.3});
  const auto rank_permuted = losa::allocate_rank(permuted, {.mean = 7.3});
  for (std::size_t i = 0; i < 9; ++i) CHECK(rank_permuted[i] == rank[order[i]]);
  auto scaled = error;
  for (double& e : scaled) e *= 0x1p30;
  CHECK(losa::allocate_rank(scaled, {.mean = 7.3}) == rank);
}

TEST_CASE("ranks of equal errors differ by at most one, lower index first") {
  CHECK(losa::allocate_rank(std::vector<double>(4, 0.3), {.mean = 2.5}) == std::vector<std::size_t>{3, 3, 2, 2});
  CHECK(losa::allocate_rank(std::vector<double>(4, 0.0), {.mean = 2.5}) == std::vector<std::size_t>{3, 3, 2, 2});
  CHECK(losa::allocate_rank(std::vector<double>{0, 1, 0}, {.mean = 6}) == std::vector<std::size_t>{1, 16, 1});
  CHECK(losa::allocate_rank(std::vector<double>{0, 1, 0}, {.mean = 7}) == std::vector<std::size_t>{3, 16, 2});
  CHECK(losa::allocate_rank({}, {.mean = 6}).empty());
}

TEST_CASE("error ranks as an allocator") {
  const std::vector<double> error = {1, 1, 2, 4};
  const losa::ErrorRank allocator{};
  CHECK(allocator({.mean = 6, .error = error}) == std::vector<std::size_t>{3, 3, 6, 12});
  CHECK(losa::RankNeeds(allocator.needs).error);
}
