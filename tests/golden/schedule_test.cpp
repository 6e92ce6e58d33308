// The cubic schedule against the published implementation.
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>

#include <losa/allocate/schedule.hpp>

#include "golden.hpp"

TEST_CASE("cubic schedule is the published one, its end bit for bit") {
  for (const golden::Json& entry : golden::vectors()["schedule"]) {
    const double final = golden::number(entry["final"], "schedule.final");
    const std::size_t steps = golden::count(entry["steps"], "schedule.steps");
    const auto expected = golden::vector(entry["sparsity"], "schedule.sparsity");
    REQUIRE(expected.size() == steps);
    for (std::size_t t = 1; t <= steps; ++t)
      CHECK(std::abs(losa::scheduled_sparsity(losa::Cubic{}, t, steps, final) - expected[t - 1]) <= 1.2e-16);
    CHECK(expected.back() == final);
  }
}
