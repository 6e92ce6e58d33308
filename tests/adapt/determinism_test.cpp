#include <doctest/doctest.h>

#include <losa/core/thread_pool.hpp>
#include <losa/published/recipe.hpp>

#include "common.hpp"

using namespace toy;

TEST_CASE("the same bits on any number of threads") {
  const auto outcome = [](std::size_t threads, auto recipe, auto policy) {
    losa::ThreadPool pool(threads);
    SmallEngine engine(3, 1, pool);
    auto report = losa::adapt(engine, policy, recipe, options());
    return std::pair{std::move(report), all_weights(engine)};
  };
  const auto check = [&](auto recipe, auto policy) {
    const auto one = outcome(1, recipe, policy);
    for (const std::size_t threads : {2u, 3u, 7u}) {
      const auto many = outcome(threads, recipe, policy);
      CHECK(same(one.first, many.first));
      CHECK(one.second == many.second);
    }
  };
  check(uniform_recipe(), losa::SparseGpt{});
  check(losa::published::Recipe{}, losa::as_policy(losa::Wanda{}));
  check(losa::Recipe{losa::WaterFill{}, losa::SpectralRank{.min = 1, .max = 8}, losa::Linear{},
                     losa::RecipeOptions{.mean_rank = 3, .regrow = true}},
        losa::SparseGpt{});
}

TEST_CASE_TEMPLATE("one block in memory at a time gives the same bits, and every result is told of once, in order", A,
                   losa::MaskedLora, losa::Lora) {
  const auto check = [](auto recipe, auto policy, losa::AdaptOptions o) {
    toy::Engine<A> whole(3), parked(3);
    parked.one_at_a_time = true;
    const auto expected = losa::adapt(whole, policy, recipe, o);
    losa::Adaptation run(parked, policy, recipe, o);
    std::vector<std::size_t> told, zeros;
    std::vector<std::vector<float>> results;
    const losa::Results sink{.begin = [&](std::span<const std::size_t> z) { zeros.assign(z.begin(), z.end()); },
                             .block =
                                 [&](std::size_t b) {
                                   told.push_back(b);
                                   for (const auto& layer : parked.linears(b)) {
                                     const auto merged = layer.merged();
                                     results.emplace_back(merged.values().begin(), merged.values().end());
                                   }
                                 }};
    CHECK(run.run({}, {}, sink));
    for (std::size_t b = 0; b + 1 < 3; ++b)
      for (const auto& layer : parked.linears(b)) CHECK(layer.bytes() == 0);
    CHECK(same(run.report(), expected));
    CHECK(told == std::vector<std::size_t>{0, 1, 2});
    std::size_t at = 0;
    for (std::size_t b = 0; b < 3; ++b)
      for (const auto& layer : whole.linears(b)) {
        const auto merged = layer.merged();
        CHECK(results[at] == std::vector<float>(merged.values().begin(), merged.values().end()));
        CHECK(zeros[at] == layer.zeros());
        ++at;
      }
  };
  check(losa::Recipe{losa::WaterFill{}, losa::SpectralRank{.min = 1, .max = 8}, losa::Linear{},
                     losa::RecipeOptions{.mean_rank = 3, .regrow = true}},
        losa::SparseGpt{}, options());
  check(losa::published::Recipe{}, losa::as_policy(losa::Wanda{}), options());
  check(uniform_recipe(), losa::SparseGpt{}, options(0.6, 1, 0));
  check(uniform_recipe(), losa::as_policy(losa::Wanda{}), options(0.6, 2, 0));
}

TEST_CASE_TEMPLATE("a run that is resumed from any checkpoint ends with the same bits", A, losa::MaskedLora,
                   losa::Lora) {
  const auto recipe = losa::Recipe{losa::RmiSparsity{.delta = 0.05}, losa::ErrorRank{.min = 1, .max = 6}, losa::Cubic{},
                                   losa::RecipeOptions{.mean_rank = 3, .regrow = true}};
  auto o = options(0.6, 3, 20);
  o.lora.dropout = 0.1;
  std::vector<toy::Archive> saved;
  toy::Engine<A> engine(3);
  losa::Adaptation whole(engine, losa::SparseGpt{}, recipe, o);
  whole.run({}, [&](bool) {
    saved.emplace_back();
    whole.visit(saved.back());
  });
  const auto expected = all_weights(engine);
  // At the beginning of 3 prunings, after every block of them and at their end; after 20 training steps.
  REQUIRE(saved.size() == 3 * (2 + engine.blocks()) + 20);
  for (toy::Archive& archive : saved) {
    toy::Engine<A> fresh(3);
    fresh.one_at_a_time = (&archive - saved.data()) % 2 == 1;
    losa::Adaptation rest(fresh, losa::SparseGpt{}, recipe, o);
    archive.reading = true;
    rest.visit(archive);
    rest.restore();
    CHECK(rest.run());
    CHECK(same(rest.report(), whole.report()));
    CHECK(all_weights(fresh) == expected);
  }
}

TEST_CASE("a saved pruning that does not fit the engine is refused") {
  SmallEngine engine(2);
  losa::Adaptation run(engine, losa::SparseGpt{}, uniform_recipe(), options());
  toy::Archive saved;
  run.run({}, [&](bool) {
    if (saved.values.empty()) run.visit(saved);
  });
  REQUIRE(std::get<std::uint64_t>(saved.values.at("pruning")) == 1);
  saved.reading = true;
  for (const std::string name : {"zeros", "error"}) {
    toy::Archive lying = saved;
    if (name == "zeros") std::get<std::vector<std::uint64_t>>(lying.values.at("pruning.zeros")).pop_back();
    if (name == "error") std::get<std::vector<double>>(lying.values.at("pruning.error")).assign(3, 0.0);
    SmallEngine fresh(2);
    losa::Adaptation rest(fresh, losa::SparseGpt{}, uniform_recipe(), options());
    rest.visit(lying);
    CHECK_THROWS_AS(rest.restore(), losa::ShapeError);
  }
}

TEST_CASE("progress can stop the run, which then goes on where it stood") {
  const auto check = [](const auto& recipe) {
    SmallEngine reference(2), engine(2);
    const auto expected = losa::adapt(reference, losa::as_policy(losa::Wanda{}), recipe, options());
    losa::Adaptation run(engine, losa::as_policy(losa::Wanda{}), recipe, options());
    std::size_t stops = 0;
    std::size_t told = 0;
    std::size_t next = 1;  // later and later in whatever phase comes, so that every phase ends at last
    std::string_view phase;
    bool saved = false;
    while (!run.run(
        [&](const losa::ProgressEvent& event) {
          phase = event.phase;
          return ++told < next;
        },
        [&](bool due) { saved = due; })) {
      // All but what comes before a pruning is saved.
      if (phase == "prune" || phase == "train" || (phase == "sensitivity" && !recipe.sparsity_needs().curves))
        CHECK(saved);
      saved = false;
      ++stops;
      told = 0;
      next = stops < 12 ? next + 1 : 1000000;
    }
    CHECK(stops > 3);
    CHECK(same(run.report(), expected));
    CHECK(all_weights(engine) == all_weights(reference));
  };
  check(uniform_recipe());
  check(losa::Recipe{losa::UniformSparsity{}, losa::SpectralRank{.min = 1, .max = 8}, losa::Linear{},
                     losa::RecipeOptions{.mean_rank = 3}});
}
