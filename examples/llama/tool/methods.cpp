#include "methods.hpp"

#include <algorithm>
#include <losa/allocate/rank.hpp>
#include <losa/allocate/schedule.hpp>
#include <losa/allocate/sparsity.hpp>
#include <losa/allocate/spectral_rank.hpp>
#include <losa/allocate/uniform.hpp>
#include <losa/allocate/water_fill.hpp>
#include <losa/mask/magnitude.hpp>
#include <losa/mask/sparsegpt.hpp>
#include <losa/mask/wanda.hpp>
#include <losa/published/recipe.hpp>
#include <utility>

#include "common.hpp"

namespace tool {

namespace {

void set(std::string& choice, const char* value) {
  if (choice.empty()) choice = value;
}

template <losa::MaskPolicy P>
AnyPolicy wrap(P policy) {
  auto held = std::make_shared<P>(std::move(policy));
  return {held->needs, [held](losa::MatrixView<float> weight, const losa::LayerStatistics& statistics,
                              const losa::PruneTask& task) { return held->prune(weight, statistics, task); }};
}

/// Calls next(x) with the object that a name stands for.
template <class F>
AnyRecipe with_schedule(const std::string& name, F&& next) {
  if (name == "linear") return next(losa::Linear{});
  if (name == "cubic") return next(losa::Cubic{});
  return next(losa::OneShot{});
}
template <class F>
AnyRecipe with_rank(const MethodChoice& choice, F&& next) {
  const auto most = [&](double means) {  // that an adapter gets; no layer takes more than its smaller side
    return std::min(static_cast<std::size_t>(std::max(1.0, means * *choice.mean_rank)), choice.rank_limit);
  };
  if (choice.rank_allocation == "error") return next(losa::ErrorRank{.min = 1, .max = most(2)});
  if (choice.rank_allocation == "spectral") return next(losa::SpectralRank{.min = 1, .max = most(4)});
  return next(losa::UniformRank{});
}
template <class F>
AnyRecipe with_sparsity(const MethodChoice& choice, F&& next) {
  if (choice.sparsity_allocation == "rmi") return next(losa::RmiSparsity{.delta = *choice.delta});
  if (choice.sparsity_allocation == "damage")
    return next(losa::WaterFill{.below = *choice.delta, .above = *choice.delta, .limit = 0.95});
  return next(losa::UniformSparsity{});
}

}  // namespace

MethodChoice resolve(MethodChoice c, bool n_of_m, double sparsity) {
  const bool published = c.method == "losa-published";
  if (published && n_of_m)
    usage_error("--method losa-published: the published implementation has no N:M patterns; use losa or uniform");
  if (n_of_m && !c.sparsity_allocation.empty() && c.sparsity_allocation != "uniform")
    usage_error("--pattern N:M fixes the sparsity of every layer; --sparsity-allocation does not apply");
  if (published &&
      !(c.sparsity_allocation.empty() && c.rank_allocation.empty() && c.schedule.empty() && !c.mean_rank && !c.regrow))
    usage_error(
        "--method losa-published: allocation, ranks and schedule are the published ones; they cannot be chosen");

  if (published) {
    set(c.mask, "wanda");
    set(c.sparsity_allocation, "rmi");
    set(c.rank_allocation, "error");
    set(c.schedule, "cubic");
    c.regrow = false;
    c.steps = c.steps.value_or(losa::published::schedule_steps);
    c.mean_rank = 8;
    c.training = {
        .dropout = 0.1, .warmup = 0.3, .weight_decay = 1e-3, .clip = 0.3, .early_share = c.training.early_share};
  } else if (c.method == "losa") {
    set(c.mask, "sparsegpt");
    set(c.sparsity_allocation, n_of_m ? "uniform" : "damage");
    set(c.rank_allocation, "uniform");
    set(c.schedule, "cubic");
    c.regrow = c.regrow.value_or(false);
    c.steps = c.steps.value_or(n_of_m ? 1 : 2);
  } else {
    set(c.mask, "sparsegpt");
    set(c.sparsity_allocation, "uniform");
    set(c.rank_allocation, "uniform");
    set(c.schedule, "one-shot");
    c.regrow = c.regrow.value_or(false);
  }
  c.steps = c.steps.value_or(c.schedule == "one-shot" ? 1 : losa::published::schedule_steps);
  if (c.schedule == "one-shot" && *c.steps != 1) c.schedule = "cubic";
  if (*c.regrow && *c.steps == 1)
    usage_error("--regrow: with one schedule step there is no later mask to bring weights back");
  c.mean_rank = c.mean_rank.value_or(8);
  c.delta = c.delta.value_or(c.sparsity_allocation == "damage" ? 0.15 : losa::published::delta(sparsity));
  c.training.early_share = c.training.early_share.value_or(0.1);
  c.learning_rate = c.learning_rate.value_or(5e-3);
  return c;
}

AnyPolicy make_policy(const MethodChoice& choice, DampingLog& log) {
  if (choice.mask == "wanda") return wrap(losa::as_policy(losa::Wanda{}));
  if (choice.mask == "magnitude") return wrap(losa::as_policy(losa::Magnitude{}));
  return {losa::SparseGpt::needs,
          [&log](losa::MatrixView<float> weight, const losa::LayerStatistics& statistics, const losa::PruneTask& task) {
            losa::SparseGpt policy;
            losa::Mask mask = policy.prune(weight, statistics, task);
            log.raised += policy.report.raises != 0;
            log.largest = std::max(log.largest, policy.report.damping);
            return mask;
          }};
}

AnyRecipe make_recipe(const MethodChoice& choice) {
  if (choice.method == "losa-published") return AnyRecipe(losa::published::Recipe{});
  const losa::RecipeOptions options{.mean_rank = *choice.mean_rank, .regrow = *choice.regrow};
  return with_schedule(choice.schedule, [&](auto schedule) {
    return with_rank(choice, [&](auto rank) {
      return with_sparsity(choice, [&](auto sparsity) {
        return AnyRecipe(losa::Recipe{sparsity, rank, schedule, options});
      });
    });
  });
}

}  // namespace tool
