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
#include <memory>
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

/// Hidden states of every calibration sequence, or of its beginning, before some block.
class HiddenStates {
 public:
  /// `storage` holds sequences · context · width values; null = memory of its own.
  HiddenStates(std::size_t sequences, std::size_t context, std::size_t width, std::shared_ptr<float[]> storage = {})
      : sequences_(sequences), context_(context), width_(width), values_(std::move(storage)) {
    if (!values_) values_ = std::make_shared<float[]>(sequences * context * width);
  }

  std::size_t sequences() const noexcept { return sequences_; }
  std::size_t context() const noexcept { return context_; }
  MatrixView<float> sequence(std::size_t i) noexcept {  // (context, width)
    return {values_.get() + i * context_ * width_, context_, width_};
  }
  /// One row per sequence, all of its hidden states side by side: the features of RMI.
  MatrixView<const float> features() const noexcept {  // (sequences, context · width)
    return {values_.get(), sequences_, context_ * width_};
  }
  /// Calls f with a few whole sequences at a time, (sequences · context, width).
  template <class Function>
  void for_each_batch(Function&& f) {
    const std::size_t each = std::max<std::size_t>(1, batch_tokens / std::max<std::size_t>(1, context_));
    for (std::size_t i = 0; i < sequences_; i += each) {
      const std::size_t rows = std::min(each, sequences_ - i) * context_;
      f(MatrixView<float>(values_.get() + i * context_ * width_, rows, width_));
    }
  }

 private:
  // Enough that a dense product runs at full speed; activations of a block for as many tokens stay far below its
  // weights.
  static constexpr std::size_t batch_tokens = 1024;

  std::size_t sequences_;
  std::size_t context_;
  std::size_t width_;
  std::shared_ptr<float[]> values_;  // (sequences, context, width)
};

/// The first `context` tokens of every calibration sequence before block 0.
template <Engine EngineType>
HiddenStates embedded(EngineType& engine, std::size_t context) {
  std::shared_ptr<float[]> storage;
  if constexpr (requires { engine.hidden_storage(context); })
    storage = engine.hidden_storage(engine.sequences() * context * engine.width());
  HiddenStates hidden(engine.sequences(), context, engine.width(), std::move(storage));
  for (std::size_t i = 0; i < hidden.sequences(); ++i) engine.embed(i, hidden.sequence(i));
  return hidden;
}
template <Engine EngineType>
HiddenStates embedded(EngineType& engine) {
  return embedded(engine, engine.context());
}

/// Takes every sequence through block b with the weights as adapted so far.
template <Engine EngineType>
void run_block(EngineType& engine, std::size_t b, HiddenStates& hidden) {
  hidden.for_each_batch([&](MatrixView<float> batch) { engine.run_block(b, batch, hidden.context()); });
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
template <Engine EngineType>
std::vector<InputStatistics> input_statistics(EngineType& engine, std::size_t b, HiddenStates& hidden,
                                              const StatisticsNeeds& needs) {
  std::vector<std::optional<InputStatistics>> seen(engine.inputs(b));
  hidden.for_each_batch([&](MatrixView<const float> batch) {
    engine.observe_block(b, batch, hidden.context(), [&](std::size_t input, MatrixView<const float> x) {
      if (!seen[input]) seen[input].emplace(x.cols, needs);
      seen[input]->norms.add(x);
      if (needs.moments) seen[input]->moments.add(x);
      if (needs.hessian) seen[input]->hessian.add(x, engine.executor());
    });
  });
  std::vector<InputStatistics> all;
  for (auto& one : seen) all.push_back(one ? std::move(*one) : InputStatistics(0, {}));
  return all;
}

/// RMI from the Gram matrix of each block's features.
inline RmiMatrix mutual_information(const std::vector<FeatureGram>& grams, bool debiased) {
  std::vector<MatrixView<const double>> views;
  for (const FeatureGram& gram : grams) views.push_back(gram.matrix());
  return mutual_information(std::span<const MatrixView<const double>>(views), RmiOptions{.debiased = debiased});
}

/// RMI between the representations of all blocks with the weights as adapted so far, from the first `context` tokens of
/// every sequence. `go_on(block)` is asked before each block; returns false as soon as it does.
template <Engine EngineType, class Function>
bool measure_rmi(EngineType& engine, std::size_t context, Features features, bool debiased, RmiMatrix& rmi,
                 Function&& go_on) {
  HiddenStates hidden = embedded(engine, context);
  std::vector<FeatureGram> grams(engine.blocks(), FeatureGram(hidden.sequences()));
  for (std::size_t b = 0; b < engine.blocks(); ++b) {
    if (!go_on(b)) return false;
    if (features == Features::block_inputs) grams[b].add(hidden.features(), engine.executor());
    run_block(engine, b, hidden);
    if (features == Features::block_outputs) grams[b].add(hidden.features(), engine.executor());
  }
  rmi = mutual_information(grams, debiased);
  return true;
}

}  // namespace losa::inline v0
