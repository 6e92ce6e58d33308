#pragma once
// Rank per unit from singular values: with σ² the squared singular values of what a rank is to recover (the masked
// gradient, or the weighted residual of pruning), the loss falls by g_l·σ²_{l,k} with the k-th rank of unit l
// (Eckart and Young), at a price of in + out parameters.
//
//   maximise Σ_l g_l Σ_{k≤r_l} σ²_{l,k}   subject to   Σ r_l·price_l ≤ budget ,   min ≤ r_l ≤ max
//
// Gains fall with k, so taking ranks in falling order of g·σ²/price is exact where prices are equal, and else the
// relaxation of the knapsack. A power law σ²_k ∝ e·k⁻¹ gives ranks proportional to e (LoSA, Eq. 7); k⁻² gives √e.
// Cost O(Σr · log L).
//
//   auto rank = losa::spectral_ranks(squared_singular_values, gains, price_per_rank, {.budget = 8 * total_price});

#include <algorithm>
#include <cstddef>
#include <limits>
#include <queue>
#include <span>
#include <vector>

#include <losa/allocate/allocator.hpp>
#include <losa/core/error.hpp>
#include <losa/core/finite.hpp>

namespace losa::inline v0 {

struct SpectralRankOptions {
  double budget = 0;  // parameters
  std::size_t min = 0;
  std::size_t max = std::numeric_limits<std::size_t>::max();
};

/// Ranks within the budget; what is left of it is less than the price of one more rank of any unit that could take one.
/// Units take at most as many ranks as they have singular values. Of equal ratios the lower index goes first. `gains`
/// empty = 1. Throws ShapeError on unequal lengths; RangeError on values that are negative, not finite or not falling,
/// on non-positive gains or prices, or if the budget does not pay for `min` everywhere or exceeds what max can spend.
inline std::vector<std::size_t> spectral_ranks(std::span<const std::vector<double>> squared_singular_values,
                                               std::span<const double> gains, std::span<const double> price_per_rank,
                                               const SpectralRankOptions& options) {
  const std::size_t units = squared_singular_values.size();
  if ((!gains.empty() && gains.size() != units) || price_per_rank.size() != units)
    detail::raise<ShapeError>("spectral_ranks: ", units, " spectra need ", units, " gains and prices, got ",
                              gains.size(), " gains and ", price_per_rank.size(), " prices");
  double left = options.budget;
  double most = 0;
  std::vector<std::size_t> cap(units);
  for (std::size_t l = 0; l < units; ++l) {
    const std::vector<double>& spectrum = squared_singular_values[l];
    const double gain = gains.empty() ? 1.0 : gains[l];
    if (!(detail::is_finite(gain) && gain > 0.0 && detail::is_finite(price_per_rank[l]) && price_per_rank[l] > 0.0))
      detail::raise<RangeError>("spectral_ranks: gain and price of unit ", l, " must be positive and finite, got ",
                                gain, " and ", price_per_rank[l]);
    for (std::size_t k = 0; k < spectrum.size(); ++k)
      if (!(detail::is_finite(spectrum[k]) && spectrum[k] >= 0.0 && (k == 0 || spectrum[k] <= spectrum[k - 1])))
        detail::raise<RangeError>("spectral_ranks: squared singular values of unit ", l,
                                  " must be finite, at least 0 and falling");
    cap[l] = std::min(options.max, spectrum.size());
    if (options.min > cap[l])
      detail::raise<RangeError>("spectral_ranks: min ", options.min, " exceeds what unit ", l, " can take, ", cap[l]);
    left -= static_cast<double>(options.min) * price_per_rank[l];
    most += static_cast<double>(cap[l]) * price_per_rank[l];
  }
  if (detail::is_nan(options.budget) || !(left >= 0.0))
    detail::raise<RangeError>("spectral_ranks: budget ", options.budget, " does not pay for min ", options.min,
                              " everywhere");
  if (!(detail::is_finite(options.budget) && options.budget <= most))
    detail::raise<RangeError>("spectral_ranks: budget ", options.budget, " exceeds ", most, ", all that max allows");

  struct Offer {
    double ratio;
    std::size_t unit;
  };
  const auto worse = [](const Offer& a, const Offer& b) {
    return a.ratio != b.ratio ? a.ratio < b.ratio : a.unit > b.unit;
  };
  std::vector<std::size_t> rank(units, options.min);
  std::priority_queue<Offer, std::vector<Offer>, decltype(worse)> offers(worse);
  const auto offer = [&](std::size_t l) {
    if (rank[l] < cap[l])
      offers.push({(gains.empty() ? 1.0 : gains[l]) * squared_singular_values[l][rank[l]] / price_per_rank[l], l});
  };
  for (std::size_t l = 0; l < units; ++l) offer(l);
  while (!offers.empty()) {
    const std::size_t l = offers.top().unit;
    offers.pop();
    if (price_per_rank[l] > left) continue;  // too dear now, and what is left only falls
    left -= price_per_rank[l];
    ++rank[l];
    offer(l);
  }
  return rank;
}

/// The same as an allocator: spends what ranks of the given mean everywhere would cost.
struct SpectralRank {
  std::size_t min = 1;
  std::size_t max = 64;
  RankNeeds needs{.spectra = true, .per_matrix = true};

  /// Throws as spectral_ranks does.
  std::vector<std::size_t> operator()(const RankEvidence& evidence) const {
    double price = 0;
    for (double cost : evidence.costs) price += cost;
    return spectral_ranks(evidence.spectra, evidence.gains, evidence.costs,
                          {.budget = evidence.mean * price, .min = min, .max = max});
  }
};

}  // namespace losa::inline v0
