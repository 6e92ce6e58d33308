#include "generate.hpp"

#include <algorithm>
#include <cmath>
#include <losa/core/finite.hpp>
#include <losa/core/random.hpp>

namespace llama {

using losa::detail::raise;

Token sample(std::span<const float> logits, const GenerateOptions& options, std::uint64_t draw) {
  Token best = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (!losa::detail::is_finite(logits[i]))
      raise<losa::NumericError>("sample: the logit of token ", i, " is not finite");
    if (logits[i] > logits[best]) best = static_cast<Token>(i);
  }
  if (options.temperature == 0) return best;

  float floor = -INFINITY;  // the smallest logit that takes part
  if (options.top_k != 0 && options.top_k < logits.size()) {
    std::vector<float> sorted(logits.begin(), logits.end());
    const auto nth = sorted.begin() + static_cast<std::ptrdiff_t>(options.top_k - 1);
    std::nth_element(sorted.begin(), nth, sorted.end(), std::greater<>());
    floor = *nth;
  }
  const auto weight = [&](std::size_t i) {
    return logits[i] < floor
               ? 0.0
               : std::exp((static_cast<double>(logits[i]) - static_cast<double>(logits[best])) / options.temperature);
  };
  double total = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) total += weight(i);
  double left = losa::Random{.seed = options.seed}.uniform(draw) * total;
  for (std::size_t i = 0; i < logits.size(); ++i)
    if ((left -= weight(i)) < 0) return static_cast<Token>(i);
  return best;
}

std::vector<Token> generate(const Model& model, std::span<const Token> prompt, const GenerateOptions& options,
                            const std::function<bool(Token)>& on_token) {
  const Config& config = model.config();
  if (prompt.empty()) raise<losa::RangeError>("generate: the prompt is empty");
  if (!(losa::detail::is_finite(options.temperature) && options.temperature >= 0))
    raise<losa::RangeError>("generate: temperature must be at least 0, got ", options.temperature);
  if (prompt.size() > config.positions || options.tokens > config.positions - prompt.size())
    raise<losa::RangeError>("generate: a prompt of ", prompt.size(), " and ", options.tokens,
                            " tokens exceed max_position_embeddings ", config.positions);
  KvCache cache(config, prompt.size() + options.tokens);
  Matrix hidden;
  Matrix logits(1, config.vocabulary);
  // In pieces, so that a long prompt needs no more scratch than a short one.
  constexpr std::size_t piece = 512;
  for (std::size_t at = 0; at < prompt.size(); at += piece)
    model.decode(prompt.subspan(at, std::min(piece, prompt.size() - at)), cache, hidden);

  std::vector<Token> out;
  while (out.size() < options.tokens) {
    model.head(hidden.cview().block(hidden.rows() - 1, 0, 1, config.hidden), logits.view());
    const Token next = sample(logits.cview().row(0), options, out.size());
    out.push_back(next);
    if (on_token && !on_token(next)) break;
    if (options.stop_at_end && std::ranges::find(config.ends, std::size_t{next}) != config.ends.end()) break;
    if (out.size() < options.tokens) model.decode(std::span(&next, 1), cache, hidden);
  }
  return out;
}

}  // namespace llama
