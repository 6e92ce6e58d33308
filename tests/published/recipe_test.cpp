#include <losa/published/recipe.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <vector>

#include <losa/published.hpp>

static_assert(losa::AdaptRecipe<losa::published::Recipe>);

TEST_CASE("the published recipe, step by step") {
  const losa::published::Recipe recipe{};
  const double target[] = {0.3416, 0.5488, 0.6552, 0.6944, 0.7};
  const double box[] = {0.01, 0.02, 0.03, 0.03, 0.03};
  const losa::RmiMatrix rmi{2, {1, 0.5, 0.5, 1}};
  const losa::RmiMatrix three{3, {1, 0.28, 0.32, 0.28, 1, 0.40, 0.32, 0.40, 1}};
  const std::vector<double> error = {1, 2, 5};
  for (std::size_t t = 1; t <= losa::published::schedule_steps; ++t) {
    const double now = recipe.target(t, losa::published::schedule_steps, 0.7);
    CHECK(now == doctest::Approx(target[t - 1]).epsilon(1e-15));
    const auto s = recipe.sparsities({.target = now, .rmi = &three});
    CHECK(s[0] == doctest::Approx(now - box[t - 1]).epsilon(1e-14));
    CHECK(s[1] == doctest::Approx(now).epsilon(1e-14));
    CHECK(s[2] == doctest::Approx(now + box[t - 1]).epsilon(1e-14));
    CHECK(recipe.mean_rank(t) == static_cast<double>(5 + t));
    for (std::size_t r : recipe.ranks({.mean = recipe.mean_rank(t), .error = error})) CHECK(r <= 8);
  }
  CHECK(recipe.target(5, 5, 0.7) == 0.7);
  CHECK(recipe.restarts_optimizer());
  CHECK_FALSE(recipe.regrows());
  CHECK(losa::published::Recipe{.regrow = true}.regrows());
  CHECK(recipe.features() == losa::Features::block_inputs);
  CHECK(losa::SparsityNeeds(recipe.sparsity_needs()).rmi);
  CHECK(losa::RankNeeds(recipe.rank_needs()).error);
  CHECK(recipe.sparsities({.target = 0.5, .rmi = &rmi}).size() == 2);
}
