#pragma once
// A recipe says how sparsity and rank are shared out over the layers, and how both rise over the steps. It is a bundle
// of small rule types; a rule of your own needs no base class and no registration.
//
//   losa::Recipe recipe{losa::RmiSparsity{.delta = 0.02}, losa::ErrorRank{.mean = 8}, losa::Cubic{}};

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <span>
#include <vector>

#include <losa/allocate/importance.hpp>
#include <losa/allocate/rank.hpp>
#include <losa/allocate/rmi.hpp>
#include <losa/allocate/schedule.hpp>
#include <losa/allocate/sparsity.hpp>
#include <losa/allocate/water_fill.hpp>

namespace losa::inline v0 {

/// Which representations of the blocks a sparsity rule wants to see.
enum class Features { none, block_inputs, block_outputs };

/// What a sparsity rule needs to have measured before each step.
struct SignalNeeds {
  Features features = Features::none;  // RMI between blocks
  bool curves = false;                 // distribution of the squared scores of every layer
};

/// What was measured. Vectors are per adapted layer unless said otherwise.
struct Signals {
  std::size_t step = 1;  // 1 … steps
  std::size_t steps = 1;
  double target = 0;  // sparsity of this step
  std::size_t blocks = 0;
  std::vector<std::size_t> block;  // which block a layer belongs to
  std::vector<std::size_t> size;   // weights
  RmiMatrix rmi;                   // blocks × blocks, if asked for
  std::vector<double> importance;  // per block; a rule that computes it leaves it here for the report
  std::vector<ScoreCurve> curves;  // if asked for
};

/// Shares out sparsity: one value per layer, weighted mean = signals.target.
template <class R>
concept SparsityRule = requires(const R rule, Signals& signals) {
  { rule.needs() } -> std::convertible_to<SignalNeeds>;
  { rule(signals) } -> std::same_as<std::vector<double>>;
};

/// Shares out rank: one value per block, from the blocks' reconstruction errors.
template <class R>
concept RankRule = requires(const R rule, std::span<const double> error, std::size_t step) {
  { rule(error, step) } -> std::same_as<std::vector<std::size_t>>;
};

/// The same sparsity everywhere.
struct UniformSparsity {
  SignalNeeds needs() const { return {}; }
  std::vector<double> operator()(Signals& signals) const {
    return std::vector<double>(signals.size.size(), signals.target);
  }
};

/// LoSA, Eq. 4 and 5: blocks that share more information with the others are pruned more, by at most `delta`.
struct RmiSparsity {
  double delta = 0.02;
  double beta = 1;  // without effect on the result (the programme sees the order alone); kept for the report
  bool debiased = false;
  Features features = Features::block_outputs;

  SignalNeeds needs() const { return {.features = features}; }
  std::vector<double> operator()(Signals& signals) const {
    signals.importance = losa::importance(signals.rmi, beta);
    std::vector<double> sizes(signals.blocks, 0.0);
    for (std::size_t l = 0; l < signals.size.size(); ++l)
      sizes[signals.block[l]] += static_cast<double>(signals.size[l]);
    const auto of_block =
        allocate_sparsity(signals.importance, {.target = signals.target, .delta = delta, .sizes = sizes});
    std::vector<double> of_layer(signals.size.size());
    for (std::size_t l = 0; l < of_layer.size(); ++l) of_layer[l] = of_block[signals.block[l]];
    return of_layer;
  }
};

/// One threshold for the estimated damage of a weight over the whole model: layers that lose little by it give more.
struct DamageSparsity {
  double reach = 0.2;     // a layer's sparsity stays within target ± reach
  double ceiling = 0.95;  // and below this

  SignalNeeds needs() const { return {.curves = true}; }
  std::vector<double> operator()(Signals& signals) const {
    return water_fill(signals.curves, {},
                      {.target = signals.target,
                       .min_sparsity = std::max(0.0, signals.target - reach),
                       .max_sparsity = std::max(signals.target, std::min(ceiling, signals.target + reach))});
  }
};

/// The same rank everywhere.
struct UniformRank {
  std::size_t rank = 8;
  std::vector<std::size_t> operator()(std::span<const double> error, std::size_t) const {
    return std::vector<std::size_t>(error.size(), rank);
  }
};

/// LoSA, Eq. 7, with the budget met exactly: rank in proportion to the block's reconstruction error.
struct ErrorRank {
  double mean = 8;
  std::size_t min = 1;
  std::size_t max = 16;
  std::vector<std::size_t> operator()(std::span<const double> error, std::size_t) const {
    return allocate_rank(error, {.mean = mean, .min = min, .max = max});
  }
};

/// What the adaptation loop asks for. Any type with these members is a recipe.
template <class R>
concept AdaptRecipe = requires(const R recipe, Signals& signals, std::span<const double> error, std::size_t step) {
  { recipe.signal_needs() } -> std::convertible_to<SignalNeeds>;
  { recipe.target(step, step, 0.5) } -> std::convertible_to<double>;
  { recipe.sparsities(signals) } -> std::same_as<std::vector<double>>;
  { recipe.ranks(error, step) } -> std::same_as<std::vector<std::size_t>>;
  { recipe.regrows() } -> std::convertible_to<bool>;
  { recipe.restarts_optimizer() } -> std::convertible_to<bool>;
};

template <SparsityRule S, RankRule R, class Schedule>
struct Recipe {
  S sparsity;
  R rank;
  Schedule schedule;
  bool regrow = false;  // may a later mask bring a pruned weight back? If not, masks are nested

  SignalNeeds signal_needs() const { return sparsity.needs(); }
  double target(std::size_t step, std::size_t steps, double final_sparsity) const {
    return schedule(step, steps, final_sparsity);
  }
  std::vector<double> sparsities(Signals& signals) const { return sparsity(signals); }
  std::vector<std::size_t> ranks(std::span<const double> error, std::size_t step) const { return rank(error, step); }
  bool regrows() const { return regrow; }
  bool restarts_optimizer() const { return false; }
};
template <SparsityRule S, RankRule R, class Schedule>
Recipe(S, R, Schedule) -> Recipe<S, R, Schedule>;
template <SparsityRule S, RankRule R, class Schedule>
Recipe(S, R, Schedule, bool) -> Recipe<S, R, Schedule>;

}  // namespace losa::inline v0
