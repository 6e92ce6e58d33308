#pragma once
// Policies: what turns the weights and statistics of a layer into a mask, and may rewrite the weights that stay.
// A score lifts to a policy; both stay plain structs, without base class or registration.
//
//   auto policy = losa::as_policy(losa::Wanda{});                                   // or losa::SparseGpt{.damping =
//   .01} losa::Mask mask = policy.prune(weight, statistics, {.pattern = losa::Unstructured{0.7}});

#include <concepts>
#include <type_traits>
#include <utility>

#include <losa/core/executor.hpp>
#include <losa/core/mask.hpp>
#include <losa/core/pattern.hpp>
#include <losa/core/view.hpp>
#include <losa/mask/select.hpp>
#include <losa/mask/statistics.hpp>

namespace losa::inline v0 {

/// What a policy is asked for: where zeros may lie and how many, and, in monotone mode, the mask that the new one must
/// stay within.
struct PruneTask {
  Pattern pattern{};
  const Mask* within = nullptr;
  ExecutorRef executor{};
};

/// Prunes a weight (out, in). On return the kept positions of `weight` hold the surviving values, perhaps rewritten;
/// pruned positions hold what they held before (the caller applies the mask). `needs` says which statistics it reads.
template <class PolicyType>
concept MaskPolicy = requires(PolicyType& policy, MatrixView<float> weight, const LayerStatistics& statistics,
                              const PruneTask& task) {
  { policy.needs } -> std::convertible_to<StatisticsNeeds>;
  { policy.prune(weight, statistics, task) } -> std::same_as<Mask>;
};

/// A score that can be made from a layer's statistics.
template <class ScoreType>
concept StatisticsScore = MaskScore<ScoreType> && requires(const LayerStatistics& statistics) {
  { ScoreType::needs } -> std::convertible_to<StatisticsNeeds>;
  { ScoreType::from(statistics) } -> std::same_as<ScoreType>;
};

/// Selects by a score that is made anew from every layer's statistics; weights stay as they are.
template <StatisticsScore Score, CountRule Counts = ExactCounts>
struct ScorePolicy {
  static constexpr StatisticsNeeds needs = Score::needs;

  /// Errors: as select.
  Mask prune(MatrixView<float> weight, const LayerStatistics& statistics, const PruneTask& task) const {
    return select<Counts>(Score::from(statistics), weight, task.pattern,
                          {.within = task.within, .executor = task.executor});
  }
};

/// Selects by one score that knows its layer already.
template <MaskScore Score, CountRule Counts = ExactCounts>
struct FixedScorePolicy {
  static constexpr StatisticsNeeds needs{};
  Score score;

  /// Errors: as select.
  Mask prune(MatrixView<float> weight, const LayerStatistics& /*statistics*/, const PruneTask& task) const {
    return select<Counts>(score, weight, task.pattern, {.within = task.within, .executor = task.executor});
  }
};

/// A policy from a policy (itself) or from a score: by its type if it can be made from statistics, else by its value.
template <class ScoreOrPolicy>
auto as_policy(ScoreOrPolicy score_or_policy) {
  static_assert(MaskPolicy<ScoreOrPolicy> || MaskScore<ScoreOrPolicy>,
                "as_policy needs a mask policy (needs, prune) or a mask score (operator()(row, col, weight))");
  if constexpr (MaskPolicy<ScoreOrPolicy>) {
    return score_or_policy;
  } else if constexpr (StatisticsScore<ScoreOrPolicy>) {
    return ScorePolicy<ScoreOrPolicy>{};
  } else {
    return FixedScorePolicy<ScoreOrPolicy>{std::move(score_or_policy)};
  }
}

}  // namespace losa::inline v0
