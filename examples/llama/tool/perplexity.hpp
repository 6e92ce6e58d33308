#pragma once
// Perplexity, exp of a mean negative log likelihood, as a person and a program read it: above a mean of 709.78 it is
// larger than the largest double, which JSON cannot say either.

#include <nlohmann/json.hpp>
#include <string>

namespace tool {

/// What --help says of the fields that add_perplexity writes.
inline constexpr const char* perplexity_help =
    "In JSON, perplexity is null where it is above the largest double (1.8e308: mean_nll above 709.78), and "
    "perplexity_overflows true.";

/// Sets "perplexity" and "mean_nll"; where the former is above the largest double it is null, and
/// "perplexity_overflows" is true. Without a finite mean, both are null.
void add_perplexity(nlohmann::ordered_json& json, double mean_nll);

/// "perplexity 12.3456", "perplexity above 1.8e308", or "perplexity unknown: the loss is not finite".
std::string perplexity_text(double mean_nll, int digits);

}  // namespace tool
