#pragma once
// Options, recipes and comparisons that the tests of the adaptation loop share.

#include <losa/adapt.hpp>
#include <losa/adapter/lora.hpp>
#include <losa/adapter/masked_lora.hpp>
#include <losa/allocate/rank.hpp>
#include <losa/allocate/sparsity.hpp>
#include <losa/allocate/spectral_rank.hpp>
#include <losa/allocate/uniform.hpp>
#include <losa/allocate/water_fill.hpp>
#include <losa/mask/sparsegpt.hpp>
#include <losa/mask/wanda.hpp>
#include <numeric>
#include <vector>

#include "toy_engine.hpp"

namespace toy {

using SmallEngine = Engine<losa::MaskedLora>;

inline losa::AdaptOptions options(double sparsity = 0.6, std::size_t steps = 3, std::uint64_t train = 30) {
  losa::AdaptOptions o;
  o.sparsity = sparsity;
  o.steps = steps;
  o.train_steps = train;
  o.early_share = 0.2;
  o.learning_rate = 1e-2;
  o.lora = {.rank = 0, .scale = 2.0, .dropout = 0, .seed = 3};
  o.sensitivity_batches = 2;
  return o;
}

inline auto uniform_recipe(bool regrow = false) {
  return losa::Recipe{losa::UniformSparsity{}, losa::UniformRank{}, losa::Cubic{},
                      losa::RecipeOptions{.mean_rank = 2, .regrow = regrow}};
}

template <class E>
std::vector<float> all_weights(E& engine) {
  std::vector<float> values;
  for (std::size_t b = 0; b < engine.blocks(); ++b) {
    engine.hold(b);
    for (auto& linear : engine.linears(b)) {
      std::vector<float> dense(linear.weight.size());
      linear.merged().to_dense({dense.data(), linear.out(), linear.in()});
      values.insert(values.end(), dense.begin(), dense.end());
    }
  }
  return values;
}

inline std::size_t total_zeros(const losa::AdaptStep& step) {
  return static_cast<std::size_t>(std::accumulate(step.zeros.begin(), step.zeros.end(), std::uint64_t{0}));
}

inline bool same(const losa::AdaptReport& a, const losa::AdaptReport& b) {
  if (a.loss != b.loss || a.trainable_parameters != b.trainable_parameters || a.steps.size() != b.steps.size())
    return false;
  for (std::size_t t = 0; t < a.steps.size(); ++t)
    if (a.steps[t].zeros != b.steps[t].zeros || a.steps[t].rank != b.steps[t].rank ||
        a.steps[t].error != b.steps[t].error || a.steps[t].rmi != b.steps[t].rmi ||
        a.steps[t].importance != b.steps[t].importance || a.steps[t].target != b.steps[t].target)
      return false;
  return true;
}

}  // namespace toy
