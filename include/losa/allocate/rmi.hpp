#pragma once
// Mutual information between layer representations, estimated by the normalised Hilbert–Schmidt independence criterion
// with a linear kernel, that is centred linear CKA (LoSA, Eq. 4; Kornblith et al. 2019). From the Gram matrices
// K_i = F_i·F_iᵀ of the representations F_i (N sequences as rows):
//
//   K̃ = C·K·C, C = I − 11ᵀ/N             RMI(i, j) = ⟨K̃_i, K̃_j⟩ / (‖K̃_i‖·‖K̃_j‖)      in [0, 1]
//
// With few sequences and many features the estimate is biased towards 1; `debiased` takes the U-centred Gram of the
// unbiased HSIC estimator (Song et al. 2012; Székely and Rizzo 2014) in place of K̃, and the result is in [−1, 1].
// Shapes: L Grams of N × N, result L × L. Accumulated in double. Cost O(L·N² + L²·N²), memory O(L·N²).
//
//   auto rmi = losa::mutual_information(grams);                       // (layers, layers), rmi(i, j)

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/core/finite.hpp>
#include <losa/core/view.hpp>

namespace losa::inline v0 {

struct RmiOptions {
  bool debiased = false;  // needs at least 4 sequences
};

/// Symmetric layers × layers matrix, ones on the diagonal.
struct RmiMatrix {
  std::size_t layers = 0;
  std::vector<double> values;  // (layers, layers)

  double operator()(std::size_t i, std::size_t j) const noexcept { return values[i * layers + j]; }
};

namespace detail {

/// Double centring K̃_ij = K_ij − row_i − row_j + mean; K symmetric (n, n).
inline void center_gram(MatrixView<const double> gram, bool debiased, std::span<double> centred) {
  const std::size_t n = gram.rows;
  const double count = static_cast<double>(n);
  std::vector<double> row(n);
  double total = 0;
  for (std::size_t i = 0; i < n; ++i) {
    double sum = 0;
    for (std::size_t j = 0; j < n; ++j) sum += debiased && i == j ? 0.0 : gram(i, j);
    row[i] = sum;
    total += sum;
  }
  const double row_weight = debiased ? 1.0 / (count - 2.0) : 1.0 / count;
  const double total_weight = debiased ? 1.0 / ((count - 1.0) * (count - 2.0)) : 1.0 / (count * count);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j)
      centred[i * n + j] =
          debiased && i == j ? 0.0 : gram(i, j) - (row[i] + row[j]) * row_weight + total * total_weight;
}

inline double dot(std::span<const double> a, std::span<const double> b) noexcept {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace detail

/// RMI of every pair of layers from their feature Grams (N, N), all of one N. A representation that is the same for
/// every sequence tells nothing about another one: its 0/0 is 0 (and 1 with itself), also when N = 1.
/// Throws ShapeError if the Grams are not square or differ in size, RangeError if `debiased` and N < 4,
/// NumericError if a Gram is not finite or not symmetric.
inline RmiMatrix mutual_information(std::span<const MatrixView<const double>> grams, const RmiOptions& options = {}) {
  const std::size_t layers = grams.size();
  RmiMatrix rmi{layers, std::vector<double>(layers * layers)};
  if (layers == 0) return rmi;
  const std::size_t n = grams[0].rows;
  if (options.debiased && n < 4)
    detail::raise<RangeError>("mutual_information: the debiased estimate needs at least 4 sequences, got ", n);

  std::vector<std::vector<double>> centred(layers);  // of norm 1, or all zero
  for (std::size_t l = 0; l < layers; ++l) {
    detail::expect_shape("mutual_information", detail::text("gram ", l), grams[l], n, n);
    double largest = 0;
    double square = 0;
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j) {
        const double value = grams[l](i, j);
        if (!detail::is_finite(value)) detail::raise<NumericError>("mutual_information: gram ", l, " is not finite");
        largest = std::max(largest, std::abs(value));
      }
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < i; ++j)
        if (std::abs(grams[l](i, j) - grams[l](j, i)) > 1e-6 * largest)
          detail::raise<NumericError>("mutual_information: gram ", l, " is not symmetric");
    // Scaled to largest entry 1 (by a power of two, which is exact), so that no square over- or underflows.
    const double scale = largest > 0 ? std::ldexp(1.0, -std::ilogb(largest)) : 1.0;
    centred[l].resize(n * n);
    detail::center_gram(grams[l], options.debiased, centred[l]);
    for (double& value : centred[l]) {
      value *= scale;
      square += value * value;
    }
    // Centring a constant representation leaves rounding errors of its entries, about N·ε in norm.
    const double noise = 4.0 * static_cast<double>(n) * std::numeric_limits<double>::epsilon();
    const double norm = std::sqrt(square);
    for (double& value : centred[l]) value = norm > noise ? value / norm : 0.0;
  }
  for (std::size_t i = 0; i < layers; ++i) {
    rmi.values[i * layers + i] = 1.0;
    for (std::size_t j = 0; j < i; ++j)
      rmi.values[i * layers + j] = rmi.values[j * layers + i] = detail::dot(centred[i], centred[j]);
  }
  return rmi;
}

}  // namespace losa::inline v0
