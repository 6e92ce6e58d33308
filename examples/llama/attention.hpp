#pragma once
// Causal grouped-query attention: query head h reads key-value head h·kv_heads/heads.
//
//   P = softmax(Q·Kᵀ/√head_dim) over keys that are not later than the query,   O = P·V
//   dV = Pᵀ·dO,   dS = P∘(dO·Vᵀ − rowsum(dO∘O)),   dQ = dS·K/√head_dim,   dK = dSᵀ·Q/√head_dim
//
// Probabilities are never stored: backward computes them again from the logarithm of the softmax's denominator (Dao et
// al., 2022). Tasks are tiles of queries of one head (forward) or a whole key-value head (backward), so sums have one
// order. Cost 4·queries·keys·head_dim operations a head, halved by causality; scratch one tile of rows per thread.

#include <cstddef>
#include <losa/core/executor.hpp>
#include <losa/core/view.hpp>
#include <span>

namespace llama {

struct AttentionShape {
  std::size_t sequences = 1;
  std::size_t queries = 0;  // per sequence: the last ones of its keys
  std::size_t keys = 0;     // per sequence, ≥ queries
  std::size_t heads = 0;
  std::size_t kv_heads = 0;
  std::size_t head_dim = 0;
};

/// o from q (sequences·queries, heads·head_dim) and k, v (sequences·keys, kv_heads·head_dim); o has the shape of q.
/// log_sum (sequences·heads·queries) receives what attention_backward needs; it may be empty.
/// Throws losa::ShapeError if the shapes do not fit.
void attention(const AttentionShape& shape, losa::MatrixView<const float> q, losa::MatrixView<const float> k,
               losa::MatrixView<const float> v, losa::MatrixView<float> o, std::span<float> log_sum,
               losa::ExecutorRef executor = {});

/// grad_q, grad_k, grad_v (overwritten) from grad_o and what attention was given and gave.
void attention_backward(const AttentionShape& shape, losa::MatrixView<const float> q, losa::MatrixView<const float> k,
                        losa::MatrixView<const float> v, losa::MatrixView<const float> o,
                        std::span<const float> log_sum, losa::MatrixView<const float> grad_o,
                        losa::MatrixView<float> grad_q, losa::MatrixView<float> grad_k, losa::MatrixView<float> grad_v,
                        losa::ExecutorRef executor = {});

}  // namespace llama
