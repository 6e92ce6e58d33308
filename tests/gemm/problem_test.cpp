#include <doctest/doctest.h>

#include <cstdlib>
#include <set>
#include <vector>

#include "problem.hpp"

TEST_CASE("LOSA_TEST_SHARE: the sweep runs one of every so many cases, and all without it") {
  const std::uint64_t share = test::parse_share(std::getenv("LOSA_TEST_SHARE"));
  std::vector<std::uint64_t> run;
  test::sweep([&](std::size_t, std::size_t, std::size_t, double, std::uint64_t i) { run.push_back(i); });
  for (std::size_t k = 0; k < run.size(); ++k) CHECK(run[k] / share == k);
  CHECK(run.size() >= 363 / share);
}

TEST_CASE("in_share: a tenth is one of every ten, and meets all that goes round with the index") {
  std::vector<std::uint64_t> per_group(36);
  std::set<std::uint64_t> sixths;  // sparsity, and whether a product accumulates and has a bias
  for (std::uint64_t i = 0; i < 360; ++i)
    if (test::in_share(i, 10)) {
      ++per_group[i / 10];
      sixths.insert(i % 6);
    }
  CHECK(per_group == std::vector<std::uint64_t>(36, 1));
  CHECK(sixths.size() == 6);
}

TEST_CASE("parse_share: a whole number from 1") {
  CHECK(test::parse_share(nullptr) == 1);
  CHECK(test::parse_share("10") == 10);
  for (const char* bad : {"", "0", "-1", "10x", "all"}) CHECK_THROWS_AS(test::parse_share(bad), std::invalid_argument);
  CHECK_THROWS_WITH_AS(test::parse_share("0.1"), "LOSA_TEST_SHARE must be a whole number from 1, got \"0.1\"",
                       std::invalid_argument);
}
