#include "attention.hpp"

#include <cmath>
#include <vector>

#include "blas.hpp"
#include "loops.hpp"

namespace llama {
namespace {

// Rows of scores that are alive at once, per task: 64 × 2048 keys are 512 KB.
constexpr std::size_t query_tile = 64;

void check(const AttentionShape& s, MatrixView<const float> q, MatrixView<const float> k, MatrixView<const float> v,
           MatrixView<const float> o) {
  if (s.heads == 0 || s.kv_heads == 0 || s.heads % s.kv_heads != 0 || s.keys < s.queries)
    losa::detail::raise<losa::ShapeError>("attention: ", s.heads, " heads, ", s.kv_heads, " key-value heads, ",
                                          s.queries, " queries and ", s.keys, " keys do not fit together");
  losa::detail::expect_shape("attention", "q", q, s.sequences * s.queries, s.heads * s.head_dim);
  losa::detail::expect_shape("attention", "k", k, s.sequences * s.keys, s.kv_heads * s.head_dim);
  losa::detail::expect_shape("attention", "v", v, s.sequences * s.keys, s.kv_heads * s.head_dim);
  losa::detail::expect_shape("attention", "o", o, s.sequences * s.queries, s.heads * s.head_dim);
}

// The thread's own memory; grows to the largest tile and stays.
float* scratch(std::size_t which, std::size_t size) {
  static thread_local std::vector<float> memory[2];
  if (memory[which].size() < size) memory[which].resize(size);
  return memory[which].data();
}

// Where a tile of queries lies and which keys it sees.
struct Tile {
  std::size_t first;    // query, within its sequence
  std::size_t queries;  // in the tile
  std::size_t visible;  // keys that the last query of the tile sees
};
Tile tile_of(const AttentionShape& s, std::size_t index) {
  const std::size_t first = index * query_tile;
  const std::size_t queries = std::min(query_tile, s.queries - first);
  return {first, queries, s.keys - s.queries + first + queries};
}
std::size_t tiles(const AttentionShape& s) { return (s.queries + query_tile - 1) / query_tile; }

}  // namespace

void attention(const AttentionShape& s, MatrixView<const float> q, MatrixView<const float> k, MatrixView<const float> v,
               MatrixView<float> o, std::span<float> log_sum, losa::ExecutorRef executor) {
  check(s, q, k, v, o);
  const float scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
  const std::size_t per_head = tiles(s);
  executor.parallel_for(s.sequences * s.heads * per_head, [&](std::size_t task) {
    const std::size_t sequence = task / (s.heads * per_head), head = task / per_head % s.heads;
    const std::size_t kv = head * s.kv_heads / s.heads * s.head_dim;
    const Tile tile = tile_of(s, task % per_head);
    const auto row = sequence * s.queries + tile.first;
    const auto keys = k.block(sequence * s.keys, kv, tile.visible, s.head_dim);
    const auto values = v.block(sequence * s.keys, kv, tile.visible, s.head_dim);

    MatrixView<float> p(scratch(0, query_tile * s.keys), tile.queries, tile.visible);
    gemm(Op::plain, Op::transposed, scale, q.block(row, head * s.head_dim, tile.queries, s.head_dim), keys, 0.0f, p);
    for (std::size_t i = 0; i < tile.queries; ++i) {
      float* score = p.row(i).data();
      const std::size_t seen = tile.visible - tile.queries + i + 1;
      float top = 0;
      const float sum = exponentials(score, seen, top);
      scale_row(score, seen, 1.0f / sum);
      std::fill(score + seen, score + tile.visible, 0.0f);
      if (!log_sum.empty()) log_sum[(sequence * s.heads + head) * s.queries + tile.first + i] = top + std::log(sum);
    }
    gemm(Op::plain, Op::plain, 1.0f, p, values, 0.0f, o.block(row, head * s.head_dim, tile.queries, s.head_dim));
  });
}

void attention_backward(const AttentionShape& s, MatrixView<const float> q, MatrixView<const float> k,
                        MatrixView<const float> v, MatrixView<const float> o, std::span<const float> log_sum,
                        MatrixView<const float> grad_o, MatrixView<float> grad_q, MatrixView<float> grad_k,
                        MatrixView<float> grad_v, losa::ExecutorRef executor) {
  check(s, q, k, v, o);
  const float scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
  const std::size_t group = s.heads / s.kv_heads;
  executor.parallel_for(s.sequences * s.kv_heads, [&](std::size_t task) {
    const std::size_t sequence = task / s.kv_heads, kv = task % s.kv_heads;
    auto grad_keys = grad_k.block(sequence * s.keys, kv * s.head_dim, s.keys, s.head_dim);
    auto grad_values = grad_v.block(sequence * s.keys, kv * s.head_dim, s.keys, s.head_dim);
    for (std::size_t j = 0; j < s.keys; ++j) {
      std::fill_n(grad_keys.row(j).data(), s.head_dim, 0.0f);
      std::fill_n(grad_values.row(j).data(), s.head_dim, 0.0f);
    }
    for (std::size_t head = kv * group; head < (kv + 1) * group; ++head)
      for (std::size_t t = 0; t < tiles(s); ++t) {
        const Tile tile = tile_of(s, t);
        const std::size_t row = sequence * s.queries + tile.first, col = head * s.head_dim;
        const auto queries = q.block(row, col, tile.queries, s.head_dim);
        const auto result = o.block(row, col, tile.queries, s.head_dim);
        const auto grad = grad_o.block(row, col, tile.queries, s.head_dim);
        const auto keys = k.block(sequence * s.keys, kv * s.head_dim, tile.visible, s.head_dim);
        const auto values = v.block(sequence * s.keys, kv * s.head_dim, tile.visible, s.head_dim);
        const float* denominator = log_sum.data() + (sequence * s.heads + head) * s.queries + tile.first;

        MatrixView<float> p(scratch(0, query_tile * s.keys), tile.queries, tile.visible);
        MatrixView<float> ds(scratch(1, query_tile * s.keys), tile.queries, tile.visible);
        gemm(Op::plain, Op::transposed, scale, queries, keys, 0.0f, p);
        gemm(Op::plain, Op::transposed, 1.0f, grad, values, 0.0f, ds);
        for (std::size_t i = 0; i < tile.queries; ++i) {
          const std::size_t seen = tile.visible - tile.queries + i + 1;
          const float* dot_a = grad.row(i).data();
          const float* dot_b = result.row(i).data();
          const float along = detail::sum_of(s.head_dim, [&](std::size_t c) { return dot_a[c] * dot_b[c]; });
          float* pi = p.row(i).data();
          float* di = ds.row(i).data();
          softmax_backward_row(pi, di, seen, denominator[i], along);
          std::fill(pi + seen, pi + tile.visible, 0.0f);
          std::fill(di + seen, di + tile.visible, 0.0f);
        }
        gemm(Op::plain, Op::plain, scale, ds, keys, 0.0f, grad_q.block(row, col, tile.queries, s.head_dim));
        gemm(Op::transposed, Op::plain, scale, ds, queries, 1.0f, grad_keys.block(0, 0, tile.visible, s.head_dim));
        gemm(Op::transposed, Op::plain, 1.0f, p, grad, 1.0f, grad_values.block(0, 0, tile.visible, s.head_dim));
      }
  });
}

}  // namespace llama
