#pragma once
// The published recipe for the adaptation loop: RMI of block inputs → Eq. 5 within ±δ(S_t), cubic schedule, ranks by
// error around a mean that grows by one per step and sliced at 8, nested masks, and an optimiser that starts anew with
// every step (a new trainer each time, so that moments, step count and learning rate begin again).
//
//   losa::Adaptation run(engine, losa::published::Wanda{}, losa::published::Recipe{}, options);
//
// Its masks are nested only with Wanda: the published SparseGPT rewrites weights to the right of a pruned one, pruned
// ones included, and so brings some back (`regrow`).

#include <cstddef>
#include <vector>

#include <losa/adapt/recipe.hpp>
#include <losa/allocate/allocator.hpp>
#include <losa/allocate/schedule.hpp>
#include <losa/published/counts.hpp>
#include <losa/published/rank.hpp>
#include <losa/published/sparsity.hpp>

namespace losa::inline v0 {
namespace published {

inline constexpr std::size_t schedule_steps = 5;

/// Models AdaptRecipe.
struct Recipe {
  RmiSparsity sparsity{};
  ErrorRank rank{};
  Cubic schedule{};
  bool regrow = false;

  SparsityNeeds sparsity_needs() const { return sparsity.needs; }
  RankNeeds rank_needs() const { return rank.needs; }
  Features features() const { return Features::block_inputs; }
  double target(std::size_t step, std::size_t steps, double final_sparsity) const {
    return scheduled_sparsity(schedule, step, steps, final_sparsity);
  }
  double mean_rank(std::size_t step) const { return static_cast<double>(published::mean_rank(step)); }
  std::vector<double> sparsities(const SparsityEvidence& evidence) const { return sparsity(evidence); }
  std::vector<std::size_t> ranks(const RankEvidence& evidence) const { return rank(evidence); }
  bool regrows() const { return regrow; }
  bool restarts_optimizer() const { return true; }
};

}  // namespace published
}  // namespace losa::inline v0
