// Ranks against the published implementation, with its unspent budget.
#include <doctest/doctest.h>

#include <cstddef>
#include <numeric>
#include <vector>

#include <losa/allocate/rank.hpp>
#include <losa/published/rank.hpp>

#include "golden.hpp"

TEST_CASE("published ranks, rank for rank") {
  for (const golden::Json& entry : golden::vectors()["ranks_published"]) {
    const auto errors = golden::vector(entry["errors"], "ranks_published.errors");
    const std::size_t mean = golden::count(entry["mean_rank"], "ranks_published.mean_rank");
    REQUIRE(entry["ranks"].is_array());
    std::vector<std::size_t> expected;
    for (const golden::Json& rank : entry["ranks"]) expected.push_back(golden::count(rank, "ranks_published.ranks"));
    CHECK(losa::published::allocate_rank(errors, mean) == expected);
  }
}

TEST_CASE("the same errors with the budget spent exactly") {
  for (const golden::Json& entry : golden::vectors()["ranks_published"]) {
    const auto errors = golden::vector(entry["errors"], "ranks_published.errors");
    const std::size_t mean = golden::count(entry["mean_rank"], "ranks_published.mean_rank");
    const auto rank = losa::allocate_rank(errors, {.mean = static_cast<double>(mean)});
    CHECK(std::accumulate(rank.begin(), rank.end(), std::size_t{0}) == mean * errors.size());
  }
}
