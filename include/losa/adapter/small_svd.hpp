#pragma once
// What a change of rank needs of linear algebra: the QR factorisation of a tall matrix (Householder) and the right
// singular vectors of a small one (one-sided Jacobi: Demmel & Veselić, "Jacobi's method is more accurate than QR",
// 1992), both in double. A matrix is held by columns, each one contiguous row of a vector.
//
// Eigen has both, but costs everyone who includes an adapter 7 s of compile time (g++ 12, -O2: 7.6 s against 0.4 s);
// ranks are tens, so plain loops do.
// Cost O(length·columns²) and O(sweeps·columns³), about 6 sweeps.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

namespace losa::inline v0::detail {

inline double dot(const double* a, const double* b, std::size_t n) noexcept {
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

/// T = Q·R of a matrix of `columns` ≤ `length` columns; Q as a product of reflections, so that it is orthogonal even
/// where T has not full rank.
class ThinQr {
 public:
  ThinQr(std::vector<double> tall, std::size_t cols, std::size_t length)
      : n_(cols), length_(length), v_(std::move(tall)), r_(cols * cols) {
    for (std::size_t j = 0; j < n_; ++j) {
      double* v = v_.data() + j * length_;
      for (std::size_t i = 0; i < j; ++i) r_[i * n_ + j] = std::exchange(v[i], 0.0);
      const double norm = std::sqrt(dot(v + j, v + j, length_ - j));
      const double diagonal = v[j] > 0 ? -norm : norm;
      r_[j * n_ + j] = diagonal;
      v[j] -= diagonal;
      const double size = std::sqrt(dot(v + j, v + j, length_ - j));
      if (size > 0)
        for (std::size_t i = j; i < length_; ++i) v[i] /= size;
      for (std::size_t k = j + 1; k < n_; ++k) reflect(j, v_.data() + k * length_);
    }
  }
  /// R[i, j], 0 below the diagonal.
  double r(std::size_t i, std::size_t j) const noexcept { return r_[i * n_ + j]; }
  /// x ← Q·x for a vector of the full length whose entries past the first `columns` are 0.
  void apply_q(double* x) const noexcept {
    for (std::size_t j = n_; j-- > 0;) reflect(j, x);
  }
  /// x ← R⁻¹·x, with 0 for the unknowns that a singular R leaves free.
  void solve_r(double* x) const noexcept {
    double largest = 0;
    for (std::size_t i = 0; i < n_; ++i) largest = std::max(largest, std::abs(r(i, i)));
    for (std::size_t i = n_; i-- > 0;) {
      for (std::size_t j = i + 1; j < n_; ++j) x[i] -= r(i, j) * x[j];
      x[i] = std::abs(r(i, i)) > 1e-12 * largest ? x[i] / r(i, i) : 0.0;
    }
  }

 private:
  void reflect(std::size_t j, double* x) const noexcept {
    const double* v = v_.data() + j * length_;
    const double twice = 2 * dot(v + j, x + j, length_ - j);
    for (std::size_t i = j; i < length_; ++i) x[i] -= twice * v[i];
  }

  std::size_t n_;
  std::size_t length_;
  std::vector<double> v_;  // (columns, length): unit normals of the reflections, 0 before the diagonal
  std::vector<double> r_;  // (columns, columns)
};

/// The right singular vectors of an n × n matrix, in falling order of its singular values: n² numbers, one vector
/// after the other.
inline std::vector<double> right_singular_vectors(std::vector<double> matrix, std::size_t n) {
  std::vector<double> v(n * n);
  for (std::size_t i = 0; i < n; ++i) v[i * n + i] = 1;
  const auto rotate = [n](double* p, double* q, double cosine, double sine) {
    for (std::size_t i = 0; i < n; ++i) {
      const double x = p[i];
      p[i] = cosine * x - sine * q[i];
      q[i] = sine * x + cosine * q[i];
    }
  };
  bool turned = true;
  for (int sweep = 0; turned && sweep < 60; ++sweep) {
    turned = false;
    for (std::size_t p = 0; p < n; ++p)
      for (std::size_t q = p + 1; q < n; ++q) {
        double* a = matrix.data() + p * n;
        double* b = matrix.data() + q * n;
        const double aa = dot(a, a, n), bb = dot(b, b, n), ab = dot(a, b, n);
        if (!(std::abs(ab) > 4 * std::numeric_limits<double>::epsilon() * std::sqrt(aa * bb))) continue;
        turned = true;
        const double zeta = (bb - aa) / (2 * ab);
        const double tangent = (zeta > 0 ? 1.0 : -1.0) / (std::abs(zeta) + std::sqrt(1 + zeta * zeta));
        const double cosine = 1 / std::sqrt(1 + tangent * tangent);
        rotate(a, b, cosine, cosine * tangent);
        rotate(v.data() + p * n, v.data() + q * n, cosine, cosine * tangent);
      }
  }
  std::vector<double> square(n);
  for (std::size_t j = 0; j < n; ++j) square[j] = dot(matrix.data() + j * n, matrix.data() + j * n, n);
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return square[a] > square[b]; });
  std::vector<double> sorted(n * n);
  for (std::size_t j = 0; j < n; ++j) std::copy_n(v.data() + order[j] * n, n, sorted.data() + j * n);
  return sorted;
}

}  // namespace losa::inline v0::detail
