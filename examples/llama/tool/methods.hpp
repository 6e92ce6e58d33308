#pragma once
// The methods of `adapt`, as bundles of the library's parts. The library chooses by type; a command line chooses at run
// time, so policies and recipes are wrapped once, here.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <losa/adapt/recipe.hpp>
#include <losa/mask/policy.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace tool {

/// Any mask policy behind one type.
struct AnyPolicy {
  losa::StatisticsNeeds needs;
  std::function<losa::Mask(losa::MatrixView<float>, const losa::LayerStatistics&, const losa::PruneTask&)> function;

  losa::Mask prune(losa::MatrixView<float> weight, const losa::LayerStatistics& statistics,
                   const losa::PruneTask& task) const {
    return function(weight, statistics, task);
  }
};

/// Any recipe behind one type.
class AnyRecipe {
 public:
  template <losa::AdaptRecipe R>
  requires(!std::same_as<R, AnyRecipe>) explicit AnyRecipe(R recipe)
      : held_(std::make_shared<Held<R>>(std::move(recipe))) {}

  losa::SparsityNeeds sparsity_needs() const { return held_->sparsity_needs(); }
  losa::RankNeeds rank_needs() const { return held_->rank_needs(); }
  losa::Features features() const { return held_->features(); }
  double target(std::size_t step, std::size_t steps, double final_sparsity) const {
    return held_->target(step, steps, final_sparsity);
  }
  double mean_rank(std::size_t step) const { return held_->mean_rank(step); }
  std::vector<double> sparsities(const losa::SparsityEvidence& evidence) const { return held_->sparsities(evidence); }
  std::vector<std::size_t> ranks(const losa::RankEvidence& evidence) const { return held_->ranks(evidence); }
  bool regrows() const { return held_->regrows(); }
  bool restarts_optimizer() const { return held_->restarts_optimizer(); }

 private:
  struct Base {
    virtual ~Base() = default;
    virtual losa::SparsityNeeds sparsity_needs() const = 0;
    virtual losa::RankNeeds rank_needs() const = 0;
    virtual losa::Features features() const = 0;
    virtual double target(std::size_t, std::size_t, double) const = 0;
    virtual double mean_rank(std::size_t) const = 0;
    virtual std::vector<double> sparsities(const losa::SparsityEvidence&) const = 0;
    virtual std::vector<std::size_t> ranks(const losa::RankEvidence&) const = 0;
    virtual bool regrows() const = 0;
    virtual bool restarts_optimizer() const = 0;
  };
  template <class R>
  struct Held final : Base {
    explicit Held(R r) : recipe(std::move(r)) {}
    losa::SparsityNeeds sparsity_needs() const override { return recipe.sparsity_needs(); }
    losa::RankNeeds rank_needs() const override { return recipe.rank_needs(); }
    losa::Features features() const override { return recipe.features(); }
    double target(std::size_t step, std::size_t steps, double s) const override {
      return recipe.target(step, steps, s);
    }
    double mean_rank(std::size_t step) const override { return recipe.mean_rank(step); }
    std::vector<double> sparsities(const losa::SparsityEvidence& e) const override { return recipe.sparsities(e); }
    std::vector<std::size_t> ranks(const losa::RankEvidence& e) const override { return recipe.ranks(e); }
    bool regrows() const override { return recipe.regrows(); }
    bool restarts_optimizer() const override { return recipe.restarts_optimizer(); }
    R recipe;
  };
  std::shared_ptr<const Base> held_;
};

/// How adapters are trained, beside the learning rate.
struct TrainingChoice {
  double dropout = 0;
  double warmup = 0.1;  // share of the steps
  double weight_decay = 0;
  double clip = 1;                    // global norm of the gradients
  std::optional<double> early_share;  // of the training tokens, for every schedule step but the last
};

/// What a method is made of. Empty strings and absent values are the method's own choice until `resolve` fills them.
struct MethodChoice {
  std::string method = "losa";      // losa, losa-published, uniform, unmasked, prune
  std::string mask;                 // wanda, magnitude, sparsegpt
  std::string sparsity_allocation;  // uniform, rmi, damage
  std::string rank_allocation;      // uniform, error, spectral
  std::string schedule;             // one-shot, linear, cubic
  std::optional<std::size_t> steps;
  std::optional<double> mean_rank;
  std::optional<double> delta;
  std::optional<double> learning_rate;
  std::optional<bool> regrow;
  TrainingChoice training;
  std::size_t rank_limit = std::numeric_limits<std::size_t>::max();  // the smallest side of a layer of the model

  bool trains() const { return method != "prune"; }
  bool plain_adapter() const { return method == "unmasked"; }
};

/// Fills in what the caller left to the method. Throws UsageError where the choices contradict each other.
MethodChoice resolve(MethodChoice choice, bool n_of_m, double sparsity);

/// Layers for which SparseGPT had to raise its damping, and the largest damping used.
struct DampingLog {
  std::uint64_t raised = 0;
  double largest = 0;

  template <class V>
  void visit(V& visitor) {
    visitor("raised", raised);
    visitor("largest", largest);
  }
};

/// The log must outlive the policy.
AnyPolicy make_policy(const MethodChoice& choice, DampingLog& log);
AnyRecipe make_recipe(const MethodChoice& choice);

}  // namespace tool
