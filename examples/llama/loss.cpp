#include "loss.hpp"

#include <cmath>
#include <vector>

#include "blas.hpp"
#include "loops.hpp"

namespace llama {

double next_token_loss(MatrixView<const float> head, MatrixView<const float> hidden, std::span<const Token> tokens,
                       std::size_t context, MatrixView<float> gradient, losa::ExecutorRef executor) {
  losa::detail::expect_shape("next_token_loss", "hidden", hidden, tokens.size(), head.cols);
  if (context < 2 || tokens.size() % context != 0)
    losa::detail::raise<losa::RangeError>("next_token_loss: ", tokens.size(), " tokens are no sequences of ", context);
  if (!gradient.empty()) losa::detail::expect_shape("next_token_loss", "gradient", gradient, hidden.rows, hidden.cols);
  // 64 tokens × 49,152 words are 12 MB of logits a thread.
  constexpr std::size_t tile = 64;
  const std::size_t predictions = tokens.size() / context * (context - 1);
  const auto share = 1.0f / static_cast<float>(predictions);
  std::vector<double> nll(tokens.size());
  executor.parallel_for((tokens.size() + tile - 1) / tile, [&](std::size_t task) {
    const std::size_t first = task * tile, rows = std::min(tile, tokens.size() - first);
    static thread_local std::vector<float> memory;
    if (memory.size() < tile * head.rows) memory.resize(tile * head.rows);
    MatrixView<float> logits(memory.data(), rows, head.rows);
    gemm(Op::plain, Op::transposed, 1.0f, hidden.block(first, 0, rows, hidden.cols), head, 0.0f, logits);
    for (std::size_t i = 0; i < rows; ++i) {
      float* row = logits.row(i).data();
      const std::size_t t = first + i;
      if ((t + 1) % context == 0) {  // the last token predicts nothing
        std::fill_n(row, head.rows, 0.0f);
        continue;
      }
      const std::size_t target = tokens[t + 1];
      const double chosen = static_cast<double>(row[target]);
      float top = 0;
      const float sum = exponentials(row, head.rows, top);
      nll[t] = std::log(static_cast<double>(sum)) + static_cast<double>(top) - chosen;
      if (gradient.empty()) continue;
      scale_row(row, head.rows, share / sum);
      row[target] -= share;
    }
    if (!gradient.empty())
      gemm(Op::plain, Op::plain, 1.0f, logits, head, 0.0f, gradient.block(first, 0, rows, gradient.cols));
  });
  double sum = 0;
  for (double one : nll) sum += one;
  return sum;
}

}  // namespace llama
