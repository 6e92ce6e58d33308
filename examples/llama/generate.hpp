#pragma once
// Text from a model: greedy, or drawn from softmax(logits/temperature); one token at a time with a KV cache.
//
//   auto out = llama::generate(model, prompt, {.tokens = 100, .temperature = 0.8, .seed = 1}, on_token);

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model.hpp"

namespace llama {

struct GenerateOptions {
  std::size_t tokens = 100;
  double temperature = 0;  // 0 = greedy: the largest logit, of equal ones the lowest id
  std::size_t top_k = 0;   // draw from the k largest only; 0 = all
  std::uint64_t seed = 0;
  bool stop_at_end = true;  // stop after an eos_token_id (Config::ends), which is returned too
};

/// The next token from logits (vocabulary); `draw` is the index of the random number.
/// Throws losa::NumericError if no logit is finite.
Token sample(std::span<const float> logits, const GenerateOptions& options, std::uint64_t draw);

/// Returns the generated tokens (without the prompt); on_token sees each as it comes and returns false to stop.
/// Throws losa::RangeError if the prompt is empty, holds an id outside the vocabulary, prompt and tokens exceed
/// max_position_embeddings, or the temperature is negative.
std::vector<Token> generate(const Model& model, std::span<const Token> prompt, const GenerateOptions& options = {},
                            const std::function<bool(Token)>& on_token = {});

}  // namespace llama
