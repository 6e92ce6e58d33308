#pragma once
// LoSA, Algorithm 1, over any engine: for each step of the schedule, measure the model as it is, share out sparsity,
// prune block by block on the already pruned activations, share out rank by the error that remains, train the adapters
// under the mask.
//
//   losa::Adaptation run(engine, losa::as_policy(losa::Wanda{}), recipe, options);
//   run.run(progress, checkpoint);                      // false: stopped by progress; call it again to go on
//
// Memory: one block's statistics, and the hidden states of the calibration set twice (pruned and original model). Of
// the weights, whatever the engine keeps: one block is enough.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <losa/adapt/calibration.hpp>
#include <losa/adapt/engine.hpp>
#include <losa/adapt/options.hpp>
#include <losa/adapt/recipe.hpp>
#include <losa/adapt/report.hpp>
#include <losa/adapt/spectrum.hpp>
#include <losa/adapt/update.hpp>
#include <losa/allocate/importance.hpp>
#include <losa/allocate/rmi.hpp>
#include <losa/allocate/score_curve.hpp>
#include <losa/calibrate/feature_gram.hpp>
#include <losa/calibrate/reconstruction_error.hpp>
#include <losa/core/finite.hpp>
#include <losa/core/pattern.hpp>
#include <losa/core/progress.hpp>
#include <losa/mask/policy.hpp>

namespace losa::inline v0 {

template <Engine EngineType, MaskPolicy PolicyType, AdaptRecipe RecipeType>
class Adaptation {
 public:
  using AdapterType = typename EngineType::Adapter;

  /// The engine must outlive the run. Throws RangeError for options that contradict each other or the engine's shapes.
  Adaptation(EngineType& engine, PolicyType policy, RecipeType recipe, AdaptOptions options)
      : engine_(engine), policy_(std::move(policy)), recipe_(std::move(recipe)), options_(std::move(options)) {
    for (std::size_t b = 0; b < engine_.blocks(); ++b)
      for (auto& linear : engine_.linears(b)) {
        layers_.push_back(&linear);
        block_.push_back(b);
      }
    validate();
  }

  bool finished() const noexcept { return step_ == options_.steps && trained_ == options_.train_steps; }
  const AdaptReport& report() const noexcept { return report_; }

  /// Runs to the end. Returns false if `progress` asked to stop; called again the run goes on where it stood: between
  /// two blocks while pruning, between two steps of training. Throws NumericError (a loss that is not finite, a failed
  /// factorisation) with the step named.
  bool run(const Progress& progress = {}, const Checkpoint& checkpoint = {}, const Results& results = {}) {
    bool told = false;
    while (!finished()) {
      if (trained_ == segment_end(step_)) {
        // Nothing comes after the last pruning of a run that does not train.
        told = results.block && options_.train_steps == 0 && step_ + 1 == options_.steps;
        if (!prune_step(progress, checkpoint, told ? results : Results{})) return false;
        if (checkpoint && !finished()) checkpoint(true);
      }
      if (!train_segment(progress, checkpoint)) return false;
    }
    if (results.block && !told) tell_all(results);
    return true;
  }

  /// Everything that a resumed run needs; call restore() after reading.
  template <class Visitor>
  void visit(Visitor& visitor) {
    std::uint64_t step = step_;
    visitor("step", step);
    visitor("trained", trained_);
    step_ = step;
    visitor.group("report.", [&] { report_.visit(visitor); });
    std::uint64_t pruning = under_way_.has_value();
    visitor("pruning", pruning);
    if (pruning == 0) {
      under_way_.reset();
    } else {
      if (!under_way_) under_way_.emplace();
      visitor.group("pruning.", [&] { under_way_->visit(visitor); });
    }
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      A_linear& one = layer(l);
      visitor.group(one.name + ".", [&] { one.visit(visitor); });
    }
  }
  /// Throws ShapeError if what was read does not fit the engine.
  void restore() {
    if (under_way_ && (under_way_->zeros.size() != layers_.size() || under_way_->error.size() > engine_.blocks()))
      detail::raise<ShapeError>("adapt: the saved state has a pruning under way of ", under_way_->zeros.size(),
                                " layers and ", under_way_->error.size(), " blocks; the engine has ", layers_.size(),
                                " and ", engine_.blocks());
    for (std::size_t l = 0; l < layers_.size(); ++l) layer(l).restore(engine_.executor());
  }

 private:
  using A_linear = AdaptedLinear<AdapterType>;

  void validate() const {
    if (options_.steps == 0) detail::raise<RangeError>("adapt: steps must be at least 1, got 0");
    if (!(detail::is_finite(options_.sparsity) && options_.sparsity >= 0 && options_.sparsity < 1))
      detail::raise<RangeError>("adapt: sparsity must be in [0, 1), got ", options_.sparsity);
    if (layers_.empty()) detail::raise<RangeError>("adapt: the engine has no linear layer to prune");
    for (const A_linear* layer : layers_) {
      if (options_.n_of_m) zeros_of(*options_.n_of_m, layer->out(), layer->in(), layer->name);
      const std::size_t most = std::min(layer->out(), layer->in());
      if (options_.train_steps != 0 && recipe_.mean_rank(1) > static_cast<double>(most))
        detail::raise<RangeError>("adapt: the mean rank must be at most ", most, " for ", layer->name, ", ",
                                  layer->out(), " × ", layer->in(), "; got ", recipe_.mean_rank(1));
    }
  }

  /// Training steps that are done when the segment after schedule step t ends.
  std::uint64_t segment_end(std::size_t t) const {
    if (t == 0) return 0;
    if (t == options_.steps) return options_.train_steps;
    const auto early = static_cast<std::uint64_t>(options_.early_share * static_cast<double>(options_.train_steps));
    return std::min<std::uint64_t>(early * t, options_.train_steps);
  }

  bool tell(const Progress& progress, std::string_view phase, std::size_t step, std::size_t done,
            std::size_t total) const {
    return detail::report(progress,
                          {.phase = phase, .step = step, .steps = options_.steps, .done = done, .total = total});
  }

  /// Layer l with its weights in memory. (What parked layers still know is read through layers_.)
  A_linear& layer(std::size_t l) {
    detail::hold(engine_, block_[l]);
    return *layers_[l];
  }
  void tell_all(const Results& results) {
    std::vector<std::size_t> zeros;
    for (const A_linear* one : layers_) zeros.push_back(one->zeros());
    if (results.begin) results.begin(zeros);
    for (std::size_t b = 0; b < engine_.blocks(); ++b) {
      detail::hold(engine_, b);
      results.block(b);
    }
  }
  /// Tokens of a calibration sequence on which what only the report needs is measured.
  std::size_t report_context() const {
    return options_.report_context == 0 ? engine_.context() : std::min(options_.report_context, engine_.context());
  }

  // ---- one schedule step --------------------------------------------------------------------------------------

  bool prune_step(const Progress& progress, const Checkpoint& checkpoint, const Results& results) {
    const std::size_t step = step_ + 1;
    if (!under_way_) {
      AdaptStep record;
      record.target = options_.n_of_m ? options_.sparsity : recipe_.target(step, options_.steps, options_.sparsity);
      if (!share_out(step, progress, record)) return false;
      under_way_ = std::move(record);
    }
    const auto save = [&](bool due) {
      if (checkpoint) checkpoint(due);
      return false;
    };
    save(false);
    AdaptStep& record = *under_way_;
    const std::size_t pruned = record.error.size();  // blocks, by a run that was stopped; only passed through again
    if (results.begin) results.begin(std::vector<std::size_t>(record.zeros.begin(), record.zeros.end()));

    const bool ranks_need_error = options_.train_steps != 0 && recipe_.rank_needs().error;
    HiddenStates hidden = embedded(engine_);
    HiddenStates original = embedded(engine_, ranks_need_error ? engine_.context() : report_context());
    // Before anything is pruned the model is the original one, so that its representations pass by here anyway.
    std::vector<FeatureGram> grams;
    if (options_.report_rmi && record.rmi.empty()) grams.resize(engine_.blocks(), FeatureGram(hidden.sequences()));
    for (std::size_t b = 0; b < engine_.blocks(); ++b) {
      if (!tell(progress, "prune", step, b, engine_.blocks())) return save(true);
      original.for_each_batch(
          [&](MatrixView<float> batch) { engine_.run_original_block(b, batch, original.context()); });
      if (!grams.empty()) grams[b].add(original.features(), engine_.executor());
      if (b >= pruned) prune_block(b, record.zeros, hidden);
      run_block(engine_, b, hidden);
      if (results.block) results.block(b);
      if (b < pruned) continue;
      ReconstructionError error(engine_.width());
      for (std::size_t i = 0; i < hidden.sequences(); ++i)
        error.add(original.sequence(i), hidden.sequence(i).block(0, 0, original.context(), engine_.width()),
                  engine_.executor());
      record.error.push_back(error.value());
      save(false);
    }
    if (!tell(progress, "prune", step, engine_.blocks(), engine_.blocks())) return save(true);
    for (std::size_t l = 0; l < layers_.size(); ++l) record.zeros[l] = layers_[l]->zeros();
    if (!grams.empty()) {
      const RmiMatrix rmi = mutual_information(grams, recipe_.sparsity_needs().debiased);
      record.rmi = rmi.values;
      record.importance = importance(rmi);
    }
    if (options_.train_steps != 0 && !share_out_rank(step, progress, record)) return save(true);
    report_.steps.push_back(std::move(record));
    under_way_.reset();
    step_ = step;
    return true;
  }

  /// The zeros of every layer after this step. False if progress asked to stop.
  bool share_out(std::size_t step, const Progress& progress, AdaptStep& record) {
    if (options_.n_of_m) {
      for (const A_linear* one : layers_)
        record.zeros.push_back(zeros_of(*options_.n_of_m, one->out(), one->in(), one->name));
      return true;
    }
    const SparsityNeeds needs = recipe_.sparsity_needs();
    RmiMatrix rmi;
    std::vector<ScoreCurve> curves;
    if (needs.rmi || (options_.report_rmi && step > 1)) {
      const auto go_on = [&](std::size_t b) { return tell(progress, "mutual information", step, b, engine_.blocks()); };
      const std::size_t context = needs.rmi ? engine_.context() : report_context();
      if (!measure_rmi(engine_, context, recipe_.features(), needs.debiased, rmi, go_on)) return false;
      record.rmi = rmi.values;
      record.importance = importance(rmi);
    }
    if (needs.curves && !measure_curves(step, progress, curves)) return false;
    if (needs.curves && !needs.per_matrix) curves = merged_by_block(curves);
    const std::vector<double> sizes = units(needs.per_matrix, [&](std::size_t l) { return size(l); });
    const std::vector<double> sparsity = recipe_.sparsities(
        {.target = record.target, .sizes = sizes, .rmi = needs.rmi ? &rmi : nullptr, .curves = curves, .gains = {}});

    std::vector<double> wanted;
    std::vector<std::size_t> lower;
    std::vector<std::size_t> upper;
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      wanted.push_back(sparsity[needs.per_matrix ? l : block_[l]] * size(l));
      lower.push_back(recipe_.regrows() ? layers_[l]->support_zeros() : layers_[l]->zeros());
      upper.push_back(layers_[l]->weight.size());
    }
    const std::size_t weights = std::accumulate(upper.begin(), upper.end(), std::size_t{0});
    const std::size_t total =
        std::max(zeros_target(weights, record.target), std::accumulate(lower.begin(), lower.end(), std::size_t{0}));
    const std::vector<std::size_t> zeros = apportion(wanted, total, lower, upper);
    record.zeros.assign(zeros.begin(), zeros.end());
    return true;
  }
  double size(std::size_t l) const { return static_cast<double>(layers_[l]->weight.size()); }

  /// One value per matrix, or their sums per block.
  template <class Function>
  std::vector<double> units(bool per_matrix, Function&& of_layer) const {
    std::vector<double> values(per_matrix ? layers_.size() : engine_.blocks());
    for (std::size_t l = 0; l < layers_.size(); ++l) values[per_matrix ? l : block_[l]] += of_layer(l);
    return values;
  }
  std::vector<ScoreCurve> merged_by_block(const std::vector<ScoreCurve>& curves) const {
    std::vector<ScoreCurve> merged(engine_.blocks());
    for (std::size_t l = 0; l < curves.size(); ++l) merged[block_[l]].merge(curves[l]);
    return merged;
  }

  /// What removing weights costs every layer, to second order, by the gradients of batches of the training text, drawn
  /// apart from those of training.
  bool measure_curves(std::size_t step, const Progress& progress, std::vector<ScoreCurve>& curves) {
    const bool go_on = measure_backward(A_linear::Measure::output_squares, step, progress);
    for (A_linear* one : layers_) one->measure(A_linear::Measure::nothing);
    if (!go_on) return false;

    HiddenStates hidden = embedded(engine_);
    for (std::size_t b = 0; b < engine_.blocks(); ++b) {
      const std::vector<InputStatistics> seen = input_statistics(engine_, b, hidden, {.square_norms = true});
      run_block(engine_, b, hidden);
      detail::hold(engine_, b);
      for (A_linear& one : engine_.linears(b)) {
        std::vector<float> effective(one.weight.size());
        const MatrixView<float> w(effective.data(), one.out(), one.in());
        one.effective_weight(w);
        curves.emplace_back().add(w, seen[one.input].norms.sum_squares(), one.output_gradient_squares());
      }
    }
    return true;
  }
  /// Batches drawn apart from those of training, backward only.
  bool measure_backward(typename A_linear::Measure what, std::size_t step, const Progress& progress) {
    for (std::size_t l = 0; l < layers_.size(); ++l) layer(l).measure(what);
    for (std::uint64_t i = 0; i < options_.sensitivity_batches; ++i) {
      if (!tell(progress, "sensitivity", step, i, options_.sensitivity_batches)) return false;
      engine_.train_step(sensitivity_offset + i);
    }
    return tell(progress, "sensitivity", step, options_.sensitivity_batches, options_.sensitivity_batches);
  }

  // ---- pruning one block --------------------------------------------------------------------------------------

  void prune_block(std::size_t b, const std::vector<std::uint64_t>& zeros, HiddenStates& hidden) {
    std::vector<InputStatistics> seen = input_statistics(engine_, b, hidden, policy_.needs);
    std::vector<std::size_t> readers(seen.size());
    for (const A_linear& one : engine_.linears(b)) ++readers[one.input];
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      if (block_[l] != b) continue;
      const std::size_t input = layers_[l]->input;
      prune_layer(layer(l), options_.n_of_m ? Pattern(*options_.n_of_m) : Pattern(ExactZeros{.zeros = zeros[l]}),
                  seen[input].view(policy_.needs));
      if (--readers[input] == 0) seen[input] = InputStatistics(0, {});  // Hessians are the largest that is held here
    }
  }

  void prune_layer(A_linear& layer, const Pattern& pattern, const LayerStatistics& seen) {
    std::vector<float> before(layer.weight.size());
    layer.effective_weight({before.data(), layer.out(), layer.in()});
    std::vector<float> after = before;
    const Mask* within = recipe_.regrows() || !layer.pruned() ? layer.support() : &layer.mask();
    Mask mask = policy_.prune(MatrixView<float>(after.data(), layer.out(), layer.in()), seen,
                              {.pattern = pattern, .within = within, .executor = engine_.executor()});
    layer.absorb({before.data(), layer.out(), layer.in()}, {after.data(), layer.out(), layer.in()}, mask);
    layer.set_mask(std::move(mask), engine_.executor());
  }

  // ---- adapters -----------------------------------------------------------------------------------------------

  bool share_out_rank(std::size_t step, const Progress& progress, AdaptStep& record) {
    const RankNeeds needs = recipe_.rank_needs();
    std::vector<std::vector<double>> spectra;
    if (needs.spectra && !measure_spectra(step, progress, spectra)) return false;
    const std::vector<double> costs = units(
        needs.per_matrix, [&](std::size_t l) { return static_cast<double>(layers_[l]->out() + layers_[l]->in()); });
    const std::vector<std::size_t> ranks = recipe_.ranks(
        {.mean = recipe_.mean_rank(step), .error = record.error, .spectra = spectra, .gains = {}, .costs = costs});
    report_.trainable_parameters = 0;
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      A_linear& layer = this->layer(l);
      const std::size_t rank = ranks[needs.per_matrix ? l : block_[l]];
      const std::uint64_t stream = (std::uint64_t{step} << 32) + l;
      if (layer.has_adapter()) {
        layer.resize(rank, stream, engine_.executor());
        if (recipe_.restarts_optimizer()) layer.reset_optimizer();
      } else {
        LoraOptions lora = options_.lora;
        lora.rank = rank;
        lora.stream = stream;
        layer.attach(AdapterType(layer.out(), layer.in(), lora));
      }
      record.rank.push_back(rank);
      report_.trainable_parameters += rank * (layer.out() + layer.in());
    }
    return true;
  }

  /// Squared singular values, falling, of the loss gradient under the mask: what a masked step of rank r can win to
  /// first order is the sum of the first r.
  bool measure_spectra(std::size_t step, const Progress& progress, std::vector<std::vector<double>>& spectra) {
    const bool go_on = measure_backward(A_linear::Measure::weight_gradient, step, progress);
    spectra.resize(go_on ? layers_.size() : 0);
    engine_.executor().parallel_for(spectra.size(), [&](std::size_t l) {
      const PackedMatrix<float>& gradient = layers_[l]->weight_gradient();
      std::vector<float> dense(gradient.rows() * gradient.cols());
      gradient.to_dense({dense.data(), gradient.rows(), gradient.cols()});
      spectra[l] = detail::squared_singular_values(view(dense.data(), gradient.rows(), gradient.cols()));
    });
    for (A_linear* layer : layers_) layer->measure(A_linear::Measure::nothing);
    return go_on;
  }

  // ---- training -----------------------------------------------------------------------------------------------

  bool train_segment(const Progress& progress, const Checkpoint& checkpoint) {
    const std::uint64_t end = segment_end(step_);
    while (trained_ < end) {
      const double loss = engine_.train_step(trained_);
      if (!detail::is_finite(loss))
        detail::raise<NumericError>("adapt: the loss is not finite at training step ", trained_ + 1, " of ",
                                    options_.train_steps, " (schedule step ", step_, "); lower the learning rate");
      update();
      report_.loss.push_back(loss);
      ++trained_;
      const bool go_on = detail::report(progress, {.phase = "train",
                                                   .step = step_,
                                                   .steps = options_.steps,
                                                   .done = trained_,
                                                   .total = options_.train_steps,
                                                   .tokens = trained_ * options_.tokens_per_step,
                                                   .loss = loss});
      if (checkpoint) checkpoint(!go_on || trained_ == end);
      if (!go_on) return trained_ == options_.train_steps;
    }
    return true;
  }

  /// A recipe that restarts the optimiser runs one schedule of the learning rate per segment, else one in all.
  void update() {
    const std::uint64_t first = recipe_.restarts_optimizer() ? segment_end(step_ - 1) : 0;
    const std::uint64_t length = (recipe_.restarts_optimizer() ? segment_end(step_) : options_.train_steps) - first;
    const LinearWarmupDecay schedule{
        .peak = options_.learning_rate,
        .warmup = static_cast<std::uint64_t>(options_.warmup * static_cast<double>(length)),
        .total = length};
    update_adapters<AdapterType>(layers_, schedule(trained_ - first), options_.clip,
                                 {.weight_decay = options_.weight_decay}, engine_.executor());
  }

  // Numbers of batches that training does not reach.
  static constexpr std::uint64_t sensitivity_offset = std::uint64_t{1} << 40;

  EngineType& engine_;
  PolicyType policy_;
  RecipeType recipe_;
  AdaptOptions options_;
  std::vector<A_linear*> layers_;
  std::vector<std::size_t> block_;  // of each layer
  AdaptReport report_;
  std::size_t step_ = 0;                // schedule steps whose pruning is done
  std::optional<AdaptStep> under_way_;  // the one whose pruning is not: its `error` has the blocks done
  std::uint64_t trained_ = 0;           // training steps done
};

/// Algorithm 1 from start to end; returns what was done.
template <Engine EngineType, MaskPolicy PolicyType, AdaptRecipe RecipeType>
AdaptReport adapt(EngineType& engine, PolicyType policy, RecipeType recipe, AdaptOptions options,
                  const Progress& progress = {}) {
  Adaptation<EngineType, PolicyType, RecipeType> run(engine, std::move(policy), std::move(recipe), std::move(options));
  run.run(progress);
  return run.report();
}

}  // namespace losa::inline v0
