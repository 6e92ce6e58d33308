#pragma once
// Mean negative log likelihood of the next token, and its gradient. The product with the head is tiled over tokens, so
// that the logits of a whole batch are never all there.
//
//   ℓ = −1/n Σ log softmax(E·h_t)[token_{t+1}],   ∂ℓ/∂h_t = 1/n·Eᵀ(softmax(E·h_t) − 1[token_{t+1}])
//
//   double sum = llama::next_token_loss(head, hidden, tokens, 256, {}, executor);   // Σ, not the mean

#include <cstddef>
#include <losa/core/executor.hpp>
#include <losa/core/view.hpp>
#include <span>

#include "matrix.hpp"
#include "tokens.hpp"

namespace llama {

/// Sum of −log p(token_{t+1} | …t) over the context−1 predictions of every sequence. hidden (tokens, hidden) are the
/// states after the final norm, head is (vocabulary, hidden). `gradient` (tokens, hidden; empty = not wanted) receives
/// the gradient of the *mean*, zero for the last token of each sequence; it may be `hidden` itself.
double next_token_loss(losa::MatrixView<const float> head, losa::MatrixView<const float> hidden,
                       std::span<const Token> tokens, std::size_t context, losa::MatrixView<float> gradient,
                       losa::ExecutorRef executor = {});

}  // namespace llama
