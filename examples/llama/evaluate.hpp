#pragma once
// Perplexity over consecutive, non-overlapping sequences from the first token: exp of the mean negative log likelihood
// of the context − 1 tokens that each sequence predicts.
//
//   auto result = llama::evaluate(model, tokens, {.context = 512, .sequences = 32});

#include <cstddef>
#include <losa/core/progress.hpp>

#include "model.hpp"
#include "tokens.hpp"

namespace llama {

struct EvaluateOptions {
  std::size_t context = 512;
  std::size_t sequences = 32;  // 0 = all that fit
  std::size_t batch = 4;       // sequences that run together; no influence on the result's meaning
};

struct Evaluation {
  double perplexity = 0;  // infinity where exp(mean_nll) is above the largest double, 1.8e308
  double mean_nll = 0;
  std::size_t tokens = 0;     // predicted
  std::size_t sequences = 0;  // evaluated
};

/// Throws losa::RangeError if the tokens hold no (or not the asked number of) sequences, if context < 2 or above the
/// model's positions, and for an id outside the vocabulary, before anything is evaluated. Only the sequences that are
/// evaluated are read of a file, a batch at a time. Progress phase "evaluate" counts sequences; stopped, it returns
/// what was evaluated until then.
Evaluation evaluate(const Model& model, const Tokens& tokens, const EvaluateOptions& options = {},
                    const losa::Progress& progress = {});

}  // namespace llama
