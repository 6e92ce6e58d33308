#pragma once
// A recipe says how sparsity and rank are shared out over the layers, and how both rise over the steps: a bundle of
// allocators (allocate/) and a schedule. Any allocator of your own fits, without base class or registration.
//
//   losa::Recipe recipe{losa::RmiSparsity{.delta = 0.02}, losa::ErrorRank{}, losa::Cubic{}, {.mean_rank = 8}};

#include <concepts>
#include <cstddef>
#include <vector>

#include <losa/allocate/allocator.hpp>
#include <losa/allocate/schedule.hpp>

namespace losa::inline v0 {

/// Which representation of a block the mutual information is measured between.
enum class Features { block_inputs, block_outputs };

/// What the adaptation loop asks for. Any type with these members is a recipe.
template <class RecipeType>
concept AdaptRecipe = requires(const RecipeType& recipe, std::size_t step, const SparsityEvidence& sparsity,
                               const RankEvidence& rank) {
  { recipe.sparsity_needs() } -> std::convertible_to<SparsityNeeds>;
  { recipe.rank_needs() } -> std::convertible_to<RankNeeds>;
  { recipe.features() } -> std::convertible_to<Features>;
  { recipe.target(step, step, 0.5) } -> std::convertible_to<double>;  // sparsity after step 1 … steps
  { recipe.mean_rank(step) } -> std::convertible_to<double>;
  { recipe.sparsities(sparsity) } -> std::convertible_to<std::vector<double>>;
  { recipe.ranks(rank) } -> std::convertible_to<std::vector<std::size_t>>;
  { recipe.regrows() } -> std::convertible_to<bool>;             // may a later mask bring a pruned weight back?
  { recipe.restarts_optimizer() } -> std::convertible_to<bool>;  // moments and learning rate, at every step
};

struct RecipeOptions {
  double mean_rank = 8;
  bool regrow = false;
  Features features = Features::block_outputs;
};

template <SparsityAllocator SparsityType, RankAllocator RankType, Schedule ScheduleType>
struct Recipe {
  SparsityType sparsity;
  RankType rank;
  ScheduleType schedule;
  RecipeOptions options{};

  SparsityNeeds sparsity_needs() const { return sparsity.needs; }
  RankNeeds rank_needs() const { return rank.needs; }
  Features features() const { return options.features; }
  double target(std::size_t step, std::size_t steps, double final_sparsity) const {
    return scheduled_sparsity(schedule, step, steps, final_sparsity);
  }
  double mean_rank(std::size_t) const { return options.mean_rank; }
  std::vector<double> sparsities(const SparsityEvidence& evidence) const { return sparsity(evidence); }
  std::vector<std::size_t> ranks(const RankEvidence& evidence) const { return rank(evidence); }
  bool regrows() const { return options.regrow; }
  bool restarts_optimizer() const { return false; }
};
template <class SparsityType, class RankType, class ScheduleType>
Recipe(SparsityType, RankType, ScheduleType) -> Recipe<SparsityType, RankType, ScheduleType>;
template <class SparsityType, class RankType, class ScheduleType>
Recipe(SparsityType, RankType, ScheduleType, RecipeOptions) -> Recipe<SparsityType, RankType, ScheduleType>;

}  // namespace losa::inline v0
