#include "block.hpp"

#include <algorithm>

#include "attention.hpp"
#include "loops.hpp"
#include "norm.hpp"
#include "swiglu.hpp"

namespace llama {

using losa::MatrixView;

namespace {

AttentionShape attention_shape(const Config& c, std::size_t sequences, std::size_t queries, std::size_t keys) {
  return {sequences, queries, keys, c.heads, c.kv_heads, c.head_dim};
}

void reshape(BlockActivations& s, const Config& c, std::size_t tokens) {
  for (Matrix* m : {&s.x, &s.h, &s.m, &s.n}) m->reshape(tokens, c.hidden);
  for (Matrix* m : {&s.q, &s.a}) m->reshape(tokens, c.query_width());
  for (Matrix* m : {&s.k, &s.v}) m->reshape(tokens, c.kv_width());
  for (Matrix* m : {&s.g, &s.u, &s.s}) m->reshape(tokens, c.intermediate);
  s.scale_x.resize(tokens);
  s.scale_m.resize(tokens);
}

// y = x·Wᵀ + bias
void forward(const BlockContext& c, const BlockNorms& norms, BlockLinears& linears, LinearIndex which,
             MatrixView<const float> x, MatrixView<float> y) {
  linears.forward(which, x, y);
  const std::vector<float>& bias = norms.biases[which];
  if (bias.empty()) return;
  for_row_tiles(y.rows, y.cols, c.executor, [&](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) {
      float* row = y.row(t).data();
      for (std::size_t i = 0; i < y.cols; ++i) row[i] += bias[i];
    }
  });
}

// Everything behind the attention: y = m + down(swiglu(n)), with m = x + output(a).
void second_half(const BlockContext& c, const BlockNorms& norms, BlockLinears& linears, MatrixView<const float> x,
                 MatrixView<float> y, BlockActivations& s) {
  linears.observe(linear_input[output], s.a.view());
  forward(c, norms, linears, output, s.a.cview(), s.m.view());
  add_to(x, s.m.view(), c.executor);
  rms_norm(s.m.cview(), norms.mlp, c.config->norm_epsilon, s.n.view(), s.scale_m, c.executor);
  linears.observe(linear_input[gate], s.n.cview());
  forward(c, norms, linears, gate, s.n.cview(), s.g.view());
  forward(c, norms, linears, up, s.n.cview(), s.u.view());
  swiglu(s.g.cview(), s.u.cview(), s.s.view(), c.executor);
  linears.observe(linear_input[down], s.s.cview());
  if (y.empty()) return;
  forward(c, norms, linears, down, s.s.cview(), y);
  add_to(s.m.cview(), y, c.executor);
}

}  // namespace

std::size_t BlockActivations::bytes(const Config& c, std::size_t tokens) {
  return tokens * sizeof(float) *
         (4 * c.hidden + 2 * c.query_width() + 2 * c.kv_width() + 3 * c.intermediate + 2 + c.heads);
}

void block_forward(const BlockContext& c, const BlockNorms& norms, BlockLinears& linears, std::size_t context,
                   MatrixView<const float> x, MatrixView<float> y, BlockActivations& s) {
  const std::size_t sequences = x.rows / context;
  reshape(s, *c.config, x.rows);
  s.log_sum.resize(x.rows * c.config->heads);
  copy_to(x, s.x.view());
  rms_norm(s.x.cview(), norms.attention, c.config->norm_epsilon, s.h.view(), s.scale_x, c.executor);
  linears.observe(linear_input[query], s.h.cview());
  forward(c, norms, linears, query, s.h.cview(), s.q.view());
  forward(c, norms, linears, key, s.h.cview(), s.k.view());
  forward(c, norms, linears, value, s.h.cview(), s.v.view());
  c.rope->apply(s.q.view(), 0, context, c.executor);
  c.rope->apply(s.k.view(), 0, context, c.executor);
  attention(attention_shape(*c.config, sequences, context, context), s.q.cview(), s.k.cview(), s.v.cview(), s.a.view(),
            s.log_sum, c.executor);
  second_half(c, norms, linears, s.x.cview(), y, s);
}

void block_backward(const BlockContext& c, const BlockNorms& norms, BlockLinears& linears, std::size_t context,
                    const BlockActivations& s, MatrixView<float> grad, bool input_wanted, BlockGradients& w) {
  const std::size_t tokens = grad.rows, sequences = tokens / context;
  for (Matrix* m : {&w.wide_a, &w.wide_b, &w.wide_s}) m->reshape(tokens, c.config->intermediate);
  for (Matrix* m : {&w.hidden_a, &w.hidden_b}) m->reshape(tokens, c.config->hidden);
  for (Matrix* m : {&w.q, &w.a}) m->reshape(tokens, c.config->query_width());
  for (Matrix* m : {&w.k, &w.v}) m->reshape(tokens, c.config->kv_width());

  linears.backward(down, s.s.cview(), grad, w.wide_s.view());
  swiglu_backward(s.g.cview(), s.u.cview(), w.wide_s.cview(), w.wide_a.view(), w.wide_b.view(), c.executor);
  linears.backward(gate, s.n.cview(), w.wide_a.cview(), w.hidden_a.view());
  linears.backward(up, s.n.cview(), w.wide_b.cview(), w.hidden_b.view());
  add_to(w.hidden_b.cview(), w.hidden_a.view(), c.executor);
  rms_norm_backward(s.m.cview(), norms.mlp, s.scale_m, w.hidden_a.cview(), grad, c.executor);

  linears.backward(output, s.a.cview(), grad, w.a.view());
  attention_backward(attention_shape(*c.config, sequences, context, context), s.q.cview(), s.k.cview(), s.v.cview(),
                     s.a.cview(), s.log_sum, w.a.cview(), w.q.view(), w.k.view(), w.v.view(), c.executor);
  c.rope->apply_inverse(w.q.view(), 0, context, c.executor);
  c.rope->apply_inverse(w.k.view(), 0, context, c.executor);
  if (!input_wanted) {
    linears.backward(query, s.h.cview(), w.q.cview(), {});
    linears.backward(key, s.h.cview(), w.k.cview(), {});
    linears.backward(value, s.h.cview(), w.v.cview(), {});
    return;
  }
  linears.backward(query, s.h.cview(), w.q.cview(), w.hidden_a.view());
  linears.backward(key, s.h.cview(), w.k.cview(), w.hidden_b.view());
  add_to(w.hidden_b.cview(), w.hidden_a.view(), c.executor);
  linears.backward(value, s.h.cview(), w.v.cview(), w.hidden_b.view());
  add_to(w.hidden_b.cview(), w.hidden_a.view(), c.executor);
  rms_norm_backward(s.x.cview(), norms.attention, s.scale_x, w.hidden_a.cview(), grad, c.executor);
}

void block_decode(const BlockContext& c, const BlockNorms& norms, BlockLinears& linears, KvCache& cache,
                  std::size_t block, MatrixView<float> hidden, BlockActivations& s) {
  const std::size_t tokens = hidden.rows, seen = cache.size(), keys = seen + tokens;
  reshape(s, *c.config, tokens);
  rms_norm(hidden, norms.attention, c.config->norm_epsilon, s.h.view(), s.scale_x, c.executor);
  const auto k = cache.keys(block, keys), v = cache.values(block, keys);
  const auto new_k = k.block(seen, 0, tokens, k.cols), new_v = v.block(seen, 0, tokens, v.cols);
  forward(c, norms, linears, query, s.h.cview(), s.q.view());
  forward(c, norms, linears, key, s.h.cview(), new_k);
  forward(c, norms, linears, value, s.h.cview(), new_v);
  c.rope->apply(s.q.view(), seen, tokens, c.executor);
  c.rope->apply(new_k, seen, tokens, c.executor);
  attention(attention_shape(*c.config, 1, tokens, keys), s.q.cview(), k, v, s.a.view(), {}, c.executor);
  second_half(c, norms, linears, hidden, hidden, s);
}

}  // namespace llama
