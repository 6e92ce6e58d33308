#include "perplexity.hpp"

#include <cmath>
#include <cstdio>
#include <losa/core/finite.hpp>

namespace tool {

void add_perplexity(nlohmann::ordered_json& json, double mean_nll) {
  const double perplexity = std::exp(mean_nll);
  if (losa::detail::is_finite(perplexity))
    json["perplexity"] = perplexity;
  else
    json["perplexity"] = nullptr;
  if (!losa::detail::is_finite(mean_nll)) {
    json["mean_nll"] = nullptr;
    return;
  }
  json["mean_nll"] = mean_nll;
  if (!losa::detail::is_finite(perplexity)) json["perplexity_overflows"] = true;
}

std::string perplexity_text(double mean_nll, int digits) {
  if (!losa::detail::is_finite(mean_nll)) return "perplexity unknown: the loss is not finite";
  const double perplexity = std::exp(mean_nll);
  if (!losa::detail::is_finite(perplexity)) return "perplexity above 1.8e308";
  char text[64];
  std::snprintf(text, sizeof text, perplexity < 1e15 ? "perplexity %.*f" : "perplexity %.*g",
                perplexity < 1e15 ? digits : 6, perplexity);
  return text;
}

}  // namespace tool
