#include <losa/published/sparsity.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <vector>

#include <losa/allocate/allocator.hpp>

static_assert(losa::SparsityAllocator<losa::published::RmiSparsity>);

TEST_CASE("published box by sparsity") {
  using losa::published::delta;
  CHECK(delta(0.3) == 0.01);
  CHECK(delta(0.5) == 0.01);
  CHECK(delta(0.51) == 0.02);
  CHECK(delta(0.6) == 0.02);
  CHECK(delta(0.61) == 0.03);
  CHECK(delta(0.7) == 0.03);
  CHECK(delta(0.8) == 0.03);
  CHECK(delta(0.8, 0.01) == 0.01);
}

TEST_CASE("published sparsity is the optimum where the importances differ") {
  const std::vector<double> importance = {3, 1, 2, 4};
  CHECK(losa::published::allocate_sparsity(importance, 0.5, 0.1) == std::vector<double>{0.4, 0.6, 0.6, 0.4});
}

TEST_CASE("published sparsity stops after one step where the importances hardly differ") {
  const std::vector<double> importance = {3e-4, 1e-4, 2e-4, 4e-4};
  const auto s = losa::published::allocate_sparsity(importance, 0.5, 0.01);
  const double mean = 2.5e-4;
  for (std::size_t i = 0; i < 4; ++i) CHECK(s[i] == doctest::Approx(0.5 - (importance[i] - mean)).epsilon(1e-14));
  // On either side of the solver's tolerance, Σ (I − Ī)² = 10⁻⁶.
  const std::vector<double> below = {1.0, 1.0 + 1.41e-3};
  const std::vector<double> above = {1.0, 1.0 + 1.42e-3};
  CHECK(losa::published::allocate_sparsity(below, 0.5, 0.01)[0] == doctest::Approx(0.500705).epsilon(1e-12));
  CHECK(losa::published::allocate_sparsity(above, 0.5, 0.01) == std::vector<double>{0.51, 0.49});
  // The step ends at the box, and at 0.
  CHECK(losa::published::allocate_sparsity(below, 0.5, 1e-4)[0] == doctest::Approx(0.5001).epsilon(1e-14));
  CHECK(losa::published::allocate_sparsity(below, 0.0, 0.01)[1] == 0.0);
  CHECK(losa::published::allocate_sparsity({}, 0.5, 0.01).empty());
}

TEST_CASE("published sparsity as an allocator: beta tells the two cases apart") {
  // Redundancies 0.3:0.34:0.36 of their sum.
  const losa::RmiMatrix rmi{3, {1, 0.28, 0.32, 0.28, 1, 0.40, 0.32, 0.40, 1}};
  const losa::published::RmiSparsity wanda{};
  const auto s = wanda({.target = 0.7, .rmi = &rmi});
  CHECK(s[0] == 0.7 - 0.03);
  CHECK(s[2] == 0.7 + 0.03);
  const losa::published::RmiSparsity sparsegpt{.beta = losa::published::beta_sparsegpt};
  for (double value : sparsegpt({.target = 0.7, .rmi = &rmi})) CHECK(std::abs(value - 0.7) < 1e-9);
  CHECK(losa::SparsityNeeds(wanda.needs).rmi);
  CHECK_FALSE(losa::SparsityNeeds(wanda.needs).per_matrix);
  CHECK_THROWS_WITH_AS(wanda({.target = 0.7}), "published::RmiSparsity: the evidence holds no RMI matrix",
                       losa::RangeError);
  CHECK_THROWS_AS(losa::published::allocate_sparsity(std::vector<double>{1, 2}, 1.0, 0.1), losa::RangeError);
}
