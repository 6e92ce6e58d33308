#include <doctest/doctest.h>

#include "common.hpp"

using namespace toy;

TEST_CASE("the loop meets every step's budget to the weight, and training lowers the loss") {
  SmallEngine engine(3);
  const auto report = losa::adapt(engine, losa::as_policy(losa::Wanda{}), uniform_recipe(), options());
  const std::size_t weights = 3 * 2 * SmallEngine::width_ * SmallEngine::middle;
  REQUIRE(report.steps.size() == 3);
  for (std::size_t t = 1; t <= 3; ++t) {
    const double target = losa::scheduled_sparsity(losa::Cubic{}, t, 3, 0.6);
    CHECK(report.steps[t - 1].target == target);
    CHECK(total_zeros(report.steps[t - 1]) == losa::zeros_target(weights, target));
    CHECK(report.steps[t - 1].error.size() == 3);
  }
  CHECK(report.loss.size() == 30);
  CHECK(report.loss.back() < 0.8 * report.loss[12]);  // 12 = first step after the last pruning
  CHECK(report.trainable_parameters == 3 * 2 * 2 * (SmallEngine::width_ + SmallEngine::middle));
  for (std::size_t b = 0; b < 3; ++b)
    for (auto& linear : engine.linears(b)) {
      std::vector<float> merged(linear.weight.size());
      linear.merged().to_dense({merged.data(), linear.out(), linear.in()});
      for (std::size_t i = 0; i < merged.size(); ++i)
        if (!linear.mask()(i / linear.in(), i % linear.in())) CHECK(merged[i] == 0.0f);
    }
}

TEST_CASE("monotone masks are nested; with regrow pruned weights do come back") {
  std::vector<losa::Mask> earlier;
  for (const bool regrow : {false, true}) {
    SmallEngine engine(2);
    std::size_t returned = 0;
    losa::Adaptation run(engine, losa::as_policy(losa::Wanda{}), uniform_recipe(regrow), options(0.7, 4, 40));
    earlier.clear();
    run.run({}, [&](bool) {
      std::vector<losa::Mask> now;
      for (std::size_t b = 0; b < 2; ++b)
        for (auto& linear : engine.linears(b)) now.push_back(linear.mask());
      for (std::size_t l = 0; l < earlier.size(); ++l)
        returned += earlier[l].size() != 0 && !now[l].subset_of(earlier[l]);
      earlier = now;
    });
    CHECK((returned != 0) == regrow);
  }
}

TEST_CASE("what was zero before stays zero: masks stay within a layer's support, whatever the method and the target") {
  const losa::Random random{.seed = 5};
  for (const bool regrow : {false, true})
    for (const bool sparsegpt : {false, true})
      for (const bool one_at_a_time : {false, true})
        for (const double target : {0.3, 0.5, 0.8}) {
          SmallEngine engine(2);
          engine.one_at_a_time = one_at_a_time;
          std::vector<losa::Mask> support;
          for (std::size_t b = 0; b < 2; ++b)
            for (auto& linear : engine.linears(b)) {
              engine.hold(b);
              losa::Mask kept(linear.out(), linear.in());
              for (std::size_t i = 0; i < kept.size(); ++i)
                kept.set(i / linear.in(), i % linear.in(), random.uniform(i + 1000 * support.size()) < 0.5);
              linear.restrict_to(kept);
              CHECK(linear.restricted());
              CHECK(linear.zeros() == kept.zeros());
              CHECK(linear.mask() == kept);
              support.push_back(std::move(kept));
            }
          const auto report =
              sparsegpt
                  ? losa::adapt(engine, losa::SparseGpt{}, uniform_recipe(regrow), options(target, 2, 10))
                  : losa::adapt(engine, losa::as_policy(losa::Wanda{}), uniform_recipe(regrow), options(target, 2, 10));
          std::size_t l = 0, zeros = 0, present = 0, weights = 0;
          for (std::size_t b = 0; b < 2; ++b) {
            engine.hold(b);
            for (auto& linear : engine.linears(b)) {
              CHECK(linear.mask().subset_of(support[l]));
              CHECK(linear.support_zeros() == support[l].zeros());
              zeros += linear.zeros();
              present += support[l++].zeros();
              weights += linear.weight.size();
            }
          }
          CHECK(zeros == std::max(present, losa::zeros_target(weights, target)));
          CHECK(total_zeros(report.steps.back()) == zeros);
        }
}

TEST_CASE("a mask outside of a layer's support is refused") {
  SmallEngine engine(1);
  auto& linear = engine.linears(0)[0];
  losa::Mask kept = losa::Mask::full(linear.out(), linear.in());
  kept.set(1, 2, false);
  linear.restrict_to(kept);
  CHECK_THROWS_WITH_AS(linear.set_mask(losa::Mask::full(linear.out(), linear.in())),
                       "AdaptedLinear::set_mask: the mask of block0.up keeps weights that its support prunes",
                       losa::RangeError);
  CHECK_THROWS_AS(linear.restrict_to(losa::Mask(2, 2)), losa::ShapeError);
  kept.set(3, 3, false);
  linear.set_mask(kept);
  CHECK(linear.zeros() == 2);
  CHECK(linear.support_zeros() == 1);
}

TEST_CASE("without training steps the loop only prunes, and there are no adapters") {
  SmallEngine engine(2);
  const auto report =
      losa::adapt(engine, losa::SparseGpt{},
                  losa::Recipe{losa::UniformSparsity{}, losa::UniformRank{}, losa::OneShot{}}, options(0.5, 1, 0));
  CHECK(report.loss.empty());
  CHECK(report.trainable_parameters == 0);
  CHECK(report.steps.at(0).rank.empty());
  CHECK_FALSE(engine.linears(0)[0].has_adapter());
  CHECK(engine.linears(0)[0].mask().zeros() == losa::zeros_target(SmallEngine::width_ * SmallEngine::middle, 0.5));
}

TEST_CASE("SparseGPT, whose survivors change, hurts the model less than Wanda") {
  const auto error = [](auto policy) {
    SmallEngine engine(3);
    return losa::adapt(engine, policy, losa::Recipe{losa::UniformSparsity{}, losa::UniformRank{}, losa::OneShot{}},
                       options(0.6, 1, 0))
        .steps.at(0)
        .error.back();
  };
  CHECK(error(losa::SparseGpt{}) < error(losa::as_policy(losa::Wanda{})));
}

TEST_CASE("N:M holds in every group after every step") {
  SmallEngine engine(2);
  auto o = options(0.5, 2, 10);
  o.n_of_m = losa::NofM{2, 4};
  losa::adapt(engine, losa::as_policy(losa::Wanda{}), uniform_recipe(true), o);
  for (std::size_t b = 0; b < 2; ++b)
    for (auto& linear : engine.linears(b))
      for (std::size_t r = 0; r < linear.out(); ++r)
        for (std::size_t c = 0; c < linear.in(); c += 4) {
          int kept = 0;
          for (std::size_t j = 0; j < 4; ++j) kept += linear.mask()(r, c + j);
          CHECK(kept == 2);
        }
}

TEST_CASE("sparsity follows the evidence: Eq. 5 gives ± delta, water-filling spares what matters") {
  SmallEngine engine(3);
  auto o = options(0.5, 1, 5);
  const auto by_rmi = losa::adapt(engine, losa::as_policy(losa::Wanda{}),
                                  losa::Recipe{losa::RmiSparsity{.delta = 0.1}, losa::UniformRank{}, losa::OneShot{},
                                               losa::RecipeOptions{.mean_rank = 1}},
                                  o);
  std::vector<double> sparsity;
  for (std::uint64_t zeros : by_rmi.steps[0].zeros)
    sparsity.push_back(static_cast<double>(zeros) / (SmallEngine::width_ * SmallEngine::middle));
  std::sort(sparsity.begin(), sparsity.end());
  CHECK(sparsity.front() == doctest::Approx(0.4).epsilon(0.01));
  CHECK(sparsity.back() == doctest::Approx(0.6).epsilon(0.01));
  CHECK(by_rmi.steps[0].rmi.size() == 9);
  CHECK(by_rmi.steps[0].importance.size() == 3);

  // The dense toy has loss 0 and no gradient, so that nothing tells its layers apart before the first pruning.
  SmallEngine other(3);
  const auto filled = losa::adapt(
      other, losa::as_policy(losa::Wanda{}),
      losa::Recipe{losa::WaterFill{}, losa::UniformRank{}, losa::Linear{}, losa::RecipeOptions{.mean_rank = 1}},
      options(0.5, 2, 5));
  const auto& zeros = filled.steps[1].zeros;
  CHECK(total_zeros(filled.steps[1]) == total_zeros(by_rmi.steps[0]));
  CHECK(*std::max_element(zeros.begin(), zeros.end()) > *std::min_element(zeros.begin(), zeros.end()) + 10);
}

TEST_CASE("mistakes get one clear sentence") {
  SmallEngine engine(2);
  const auto message = [&](auto change) {
    auto o = options();
    change(o, engine);
    try {
      losa::adapt(engine, losa::as_policy(losa::Wanda{}), uniform_recipe(), o);
    } catch (const losa::Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(message([](auto& o, auto&) { o.steps = 0; }) == "adapt: steps must be at least 1, got 0");
  CHECK(message([](auto& o, auto&) { o.sparsity = 1; }) == "adapt: sparsity must be in [0, 1), got 1");
  CHECK(message([](auto& o, auto&) {
          o.n_of_m = losa::NofM{2, 5};
        }) == "block0.up: mask pattern 2:5 needs `in` to be a multiple of 5, got weight 24 × 16");
  CHECK(message([](auto&, auto& e) { e.poisoned_step = 7; }) ==
        "adapt: the loss is not finite at training step 8 of 30 (schedule step 2); lower the learning rate");
  const losa::Recipe wide{losa::UniformSparsity{}, losa::UniformRank{}, losa::OneShot{},
                          losa::RecipeOptions{.mean_rank = 17}};
  CHECK_THROWS_WITH_AS(losa::Adaptation(engine, losa::as_policy(losa::Wanda{}), wide, options()),
                       "adapt: the mean rank must be at most 16 for block0.up, 24 × 16; got 17", losa::RangeError);
}
