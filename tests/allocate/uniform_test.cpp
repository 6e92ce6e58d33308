#include <losa/allocate/uniform.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <vector>

TEST_CASE("uniform sparsity") {
  CHECK(losa::uniform_sparsity(3, 0.7) == std::vector<double>{0.7, 0.7, 0.7});
  CHECK_THROWS_AS(losa::uniform_sparsity(3, 1.0), losa::RangeError);
  CHECK_THROWS_WITH_AS(losa::uniform_sparsity(3, -0.5), "uniform_sparsity: target must be in [0, 1), got -0.5",
                       losa::RangeError);
  const std::vector<double> sizes = {4, 5};
  CHECK(losa::UniformSparsity{}({.target = 0.5, .sizes = sizes}) == std::vector<double>{0.5, 0.5});
}

TEST_CASE("uniform rank spends the rounded budget, lower index first") {
  CHECK(losa::uniform_rank(3, 8) == std::vector<std::size_t>{8, 8, 8});
  CHECK(losa::uniform_rank(4, 2.5) == std::vector<std::size_t>{3, 3, 2, 2});
  CHECK(losa::uniform_rank(3, 1.4) == std::vector<std::size_t>{2, 1, 1});  // round(4.2)
  CHECK(losa::uniform_rank(0, 8).empty());
  CHECK_THROWS_AS(losa::uniform_rank(3, -1), losa::RangeError);
  const std::vector<double> costs = {10, 20};
  CHECK(losa::UniformRank{}({.mean = 1.5, .costs = costs}) == std::vector<std::size_t>{2, 1});
}
