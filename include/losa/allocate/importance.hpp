#pragma once
// Importance of a layer from its mutual information with the others (LoSA, after Eq. 4):
//
//   ρ_i = Σ_{j≠i} RMI(i, j)          I_i = exp(−β·ρ_i / Σ_k ρ_k)
//
// Much mutual information with the others means redundant, thus small importance. Only the order of I matters to Eq. 5,
// and the order does not depend on β. Cost O(L²).
//
//   auto importance = losa::importance(rmi);                          // (layers)

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include <losa/allocate/rmi.hpp>
#include <losa/core/error.hpp>
#include <losa/core/finite.hpp>

namespace losa::inline v0 {

/// I_i in (0, 1], one per layer. Negative estimates (debiased RMI) count as no information, 0. Where no layer shares
/// information with another, 0/0 is 1/layers: all are equally important. Throws RangeError unless β ≥ 0 is finite.
inline std::vector<double> importance(const RmiMatrix& rmi, const double& beta = 1.0) {
  if (!(detail::is_finite(beta) && beta >= 0.0))
    detail::raise<RangeError>("importance: beta must be at least 0 and finite, got ", beta);
  std::vector<double> result(rmi.layers);
  double total = 0;
  for (std::size_t i = 0; i < rmi.layers; ++i) {
    double redundancy = 0;
    for (std::size_t j = 0; j < rmi.layers; ++j)
      if (j != i) redundancy += std::max(rmi(i, j), 0.0);
    result[i] = redundancy;
    total += redundancy;
  }
  for (double& value : result)
    value = std::exp(-beta * (total > 0 ? value / total : 1.0 / static_cast<double>(rmi.layers)));
  return result;
}

}  // namespace losa::inline v0
