#include "evaluate.hpp"

#include <algorithm>
#include <cmath>
#include <losa/core/finite.hpp>
#include <vector>

#include "loss.hpp"

namespace llama {

using losa::detail::raise;

Evaluation evaluate(const Model& model, const Tokens& tokens, const EvaluateOptions& options,
                    const losa::Progress& progress) {
  const std::size_t context = options.context;
  if (context < 2 || context > model.config().positions)
    raise<losa::RangeError>("evaluate: context must be in [2, ", model.config().positions, "], got ", context);
  const std::size_t there = tokens.size() / context;
  const std::size_t wanted = options.sequences == 0 ? there : options.sequences;
  if (wanted == 0 || wanted > there)
    raise<losa::RangeError>("evaluate: ", tokens.size(), " tokens hold ", there, " sequences of ", context,
                            options.sequences == 0 ? "" : ", fewer than asked for");
  tokens.part(0, wanted * context).check(model.config().vocabulary);
  Evaluation result;
  std::vector<Token> part;
  Matrix hidden;
  double sum = 0;
  while (result.sequences < wanted) {
    const std::size_t batch = std::min(std::max<std::size_t>(options.batch, 1), wanted - result.sequences);
    part.resize(batch * context);
    tokens.read(result.sequences * context, part);
    model.forward(part, context, hidden);
    sum += next_token_loss(model.head_weight(), hidden.cview(), part, context, {}, model.executor());
    result.sequences += batch;
    if (!losa::detail::report(
            progress,
            {.phase = "evaluate", .done = result.sequences, .total = wanted, .tokens = result.sequences * context}))
      break;
  }
  if (!losa::detail::is_finite(sum))
    losa::detail::raise<losa::NumericError>("evaluate: the loss is not finite within the first ", result.sequences,
                                            " sequences");
  result.tokens = result.sequences * (context - 1);
  result.mean_nll = sum / static_cast<double>(result.tokens);
  result.perplexity = std::exp(result.mean_nll);
  return result;
}

}  // namespace llama
