#pragma once
// The calibration set on its way through the blocks of an engine: its hidden states, the statistics of what a block's
// linear layers read, and the mutual information between the blocks' representations (LoSA, Eq. 4).
//
//   losa::HiddenStates hidden = losa::embedded(engine);
//   auto statistics = losa::input_statistics(engine, block, hidden, policy.needs);     // hidden stays as it is
//   losa::run_block(engine, block, hidden);                                            // now behind the block

#include <algorithm>
#include <any>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include <losa/adapt/engine.hpp>
#include <losa/adapt/recipe.hpp>
#include <losa/allocate/rmi.hpp>
#include <losa/calibrate/column_moments.hpp>
#include <losa/calibrate/column_norms.hpp>
#include <losa/calibrate/feature_gram.hpp>
#include <losa/calibrate/hessian.hpp>
#include <losa/mask/statistics.hpp>

namespace losa::inline v0 {

/// Hidden states of every calibration sequence before some block.
class HiddenStates {
 public:
  HiddenStates(std::size_t sequences, std::size_t context, std::size_t width)
      : sequences_(sequences), context_(context), width_(width), values_(sequences * context * width) {}

  std::size_t sequences() const noexcept { return sequences_; }
  MatrixView<float> sequence(std::size_t i) noexcept {  // (context, width)
    return {values_.data() + i * context_ * width_, context_, width_};
  }
  /// One row per sequence, all of its hidden states side by side: the features of RMI.
  MatrixView<const float> features() const noexcept {  // (sequences, context · width)
    return {values_.data(), sequences_, context_ * width_};
  }

 private:
  std::size_t sequences_;
  std::size_t context_;
  std::size_t width_;
  std::vector<float> values_;  // (sequences, context, width)
};

/// The calibration set before block 0.
template <Engine E>
HiddenStates embedded(E& engine) {
  HiddenStates hidden(engine.sequences(), engine.context(), engine.width());
  for (std::size_t i = 0; i < hidden.sequences(); ++i) engine.embed(i, hidden.sequence(i));
  return hidden;
}

/// Takes every sequence through block b with the weights as adapted so far.
template <Engine E>
void run_block(E& engine, std::size_t b, HiddenStates& hidden) {
  for (std::size_t i = 0; i < hidden.sequences(); ++i) engine.run_block(b, hidden.sequence(i), detail::IgnoreInput{});
}

/// What was seen of one input of a block. The norms are always kept, the rest as needed.
struct InputStatistics {
  InputStatistics(std::size_t in, const StatisticsNeeds& needs)
      : norms(in), moments(needs.moments ? in : 0), hessian(needs.hessian ? in : 0) {}

  ColumnNorms norms;
  ColumnMoments moments;
  Hessian hessian;
  mutable std::any derived;  // a policy's own, for the layers that read this input (LayerStatistics::derived)

  LayerStatistics view(const StatisticsNeeds& needs) const {
    LayerStatistics seen{.tokens = norms.tokens(), .square_norms = norms.sum_squares()};
    if (needs.moments) {
      seen.mean = moments.mean();
      seen.variance = moments.variance();
    }
    if (needs.hessian) seen.hessian = hessian.matrix();
    seen.derived = &derived;
    return seen;
  }
};

/// One per input of block b, from the hidden states before it, which stay as they are.
template <Engine E>
std::vector<InputStatistics> input_statistics(E& engine, std::size_t b, HiddenStates& hidden,
                                              const StatisticsNeeds& needs) {
  std::vector<std::optional<InputStatistics>> seen(engine.inputs(b));
  std::vector<float> scratch(engine.context() * engine.width());
  MatrixView<float> copy(scratch.data(), engine.context(), engine.width());
  for (std::size_t i = 0; i < hidden.sequences(); ++i) {
    std::copy_n(hidden.sequence(i).data, scratch.size(), scratch.data());
    engine.run_block(b, copy, [&](std::size_t input, MatrixView<const float> x) {
      if (!seen[input]) seen[input].emplace(x.cols, needs);
      seen[input]->norms.add(x);
      if (needs.moments) seen[input]->moments.add(x);
      if (needs.hessian) seen[input]->hessian.add(x, engine.executor());
    });
  }
  std::vector<InputStatistics> all;
  for (auto& one : seen) all.push_back(one ? std::move(*one) : InputStatistics(0, {}));
  return all;
}

/// RMI between the representations of all blocks with the weights as adapted so far. `go_on(block)` is asked before
/// each block; returns false as soon as it does.
template <Engine E, class F>
bool measure_rmi(E& engine, Features features, bool debiased, RmiMatrix& rmi, F&& go_on) {
  HiddenStates hidden = embedded(engine);
  std::vector<FeatureGram> grams(engine.blocks(), FeatureGram(hidden.sequences()));
  for (std::size_t b = 0; b < engine.blocks(); ++b) {
    if (!go_on(b)) return false;
    if (features == Features::block_inputs) grams[b].add(hidden.features(), engine.executor());
    run_block(engine, b, hidden);
    if (features == Features::block_outputs) grams[b].add(hidden.features(), engine.executor());
  }
  std::vector<MatrixView<const double>> views;
  for (const FeatureGram& gram : grams) views.push_back(gram.matrix());
  rmi = mutual_information(views, {.debiased = debiased});
  return true;
}

}  // namespace losa::inline v0
