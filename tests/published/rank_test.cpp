#include <losa/published/rank.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <limits>
#include <numeric>
#include <vector>

#include <losa/allocate/allocator.hpp>

static_assert(losa::RankAllocator<losa::published::ErrorRank>);

TEST_CASE("published ranks by hand") {
  using losa::published::allocate_rank;
  CHECK(allocate_rank(std::vector<double>{1, 1, 2, 4}, 6) == std::vector<std::size_t>{3, 3, 6, 12});
  // Shares 2.4e-5 and 24: clipped to 1 and 16, 7 short, of which the one pass makes up 1.
  CHECK(allocate_rank(std::vector<double>{1, 1e6}, 12) == std::vector<std::size_t>{2, 16});
  // Shares 0.3, 0.3, 8.4: clipped to 1, 1, 8, one too many; the smallest error that is above 1 gives.
  CHECK(allocate_rank(std::vector<double>{1, 1, 28}, 3) == std::vector<std::size_t>{1, 1, 7});
  CHECK(allocate_rank({}, 6).empty());
}

TEST_CASE("published ranks round halves to even") {
  // Shares 2.5, 3.5, 2 of 8 in all (mean 2 over 4, the last share 0 becomes 1): 2 + 4 + 2 + 1 is one too many, and the
  // smallest error above rank 1 gives it.
  CHECK(losa::published::allocate_rank(std::vector<double>{2.5, 3.5, 2, 0}, 2) == std::vector<std::size_t>{2, 4, 1, 1});
  // Shares 0.5, 1.5, 2.5, 3.5: 0 → 1, 2, 2, 4, one too many: the second gives.
  CHECK(losa::published::allocate_rank(std::vector<double>{1, 3, 5, 7}, 2) == std::vector<std::size_t>{1, 1, 2, 4});
}

TEST_CASE("published ranks: the single pass leaves the budget unmet, either way") {
  // 8 blocks, all error in one: 16 + 7·1, 25 short, the pass adds 7.
  std::vector<double> error(8, 0.0);
  error[3] = 1;
  auto rank = losa::published::allocate_rank(error, 6);
  CHECK(rank == std::vector<std::size_t>{2, 2, 2, 16, 2, 2, 2, 2});
  // Too much: 15 blocks at the floor of 1 and one with all of the error, mean 1: 16 + 15 = 31 for 16; the only block
  // above the floor gives one.
  std::vector<double> one(16, 0.0);
  one[0] = 1;
  rank = losa::published::allocate_rank(one, 1);
  CHECK(rank[0] == 15);
  CHECK(std::accumulate(rank.begin(), rank.end(), std::size_t{0}) == 30);
}

TEST_CASE("published ranks are sliced at the rows that adapters have") {
  CHECK(losa::published::effective_rank(std::vector<std::size_t>{3, 3, 6, 12}) == std::vector<std::size_t>{3, 3, 6, 8});
  CHECK(losa::published::effective_rank(std::vector<std::size_t>{3, 12}, 4) == std::vector<std::size_t>{3, 4});
  const std::vector<double> error = {1, 1, 2, 4};
  const losa::published::ErrorRank allocator{};
  CHECK(allocator({.mean = 6, .error = error}) == std::vector<std::size_t>{3, 3, 6, 8});
  CHECK(losa::RankNeeds(allocator.needs).error);
}

TEST_CASE("published mean rank grows by one per step") {
  for (std::size_t t = 1; t <= 5; ++t) CHECK(losa::published::mean_rank(t) == 5 + t);
}

TEST_CASE("published ranks refuse what has no shares") {
  CHECK_THROWS_WITH_AS(losa::published::allocate_rank(std::vector<double>{0, 0}, 6),
                       "published::allocate_rank: the errors sum to 0, their shares are undefined", losa::RangeError);
  CHECK_THROWS_WITH_AS(losa::published::allocate_rank(std::vector<double>{1, -1}, 6),
                       "published::allocate_rank: error of block 1 must be at least 0 and finite, got -1",
                       losa::RangeError);
  CHECK_THROWS_AS(losa::published::allocate_rank(std::vector<double>{1, std::numeric_limits<double>::infinity()}, 6),
                  losa::RangeError);
  const std::vector<double> error = {1, 1};
  CHECK_THROWS_WITH_AS(losa::published::ErrorRank{}({.mean = 6.5, .error = error}),
                       "published::ErrorRank: mean must be a whole number, got 6.5", losa::RangeError);
}
