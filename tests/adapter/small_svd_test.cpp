#include <losa/adapter/small_svd.hpp>

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "oracle.hpp"

using losa::detail::dot;
using losa::detail::right_singular_vectors;
using losa::detail::ThinQr;

namespace {
std::vector<double> random_columns(std::size_t columns, std::size_t length, std::uint64_t stream) {
  const losa::Random random{.seed = 9, .stream = stream};
  std::vector<double> result(columns * length);
  for (std::size_t i = 0; i < result.size(); ++i) result[i] = random.normal(i);
  return result;
}
}  // namespace

TEST_CASE("QR: Q·R is the matrix, Q orthonormal, whatever the rank") {
  for (int defect = 0; defect < 5; ++defect)
    for (const auto& shape : std::vector<std::pair<std::size_t, std::size_t>>{{1, 1}, {1, 6}, {4, 4}, {5, 40}}) {
      const std::size_t n = shape.first, length = shape.second;
      CAPTURE(defect);
      CAPTURE(n);
      std::vector<double> tall = random_columns(n, length, 1);
      if (defect == 1) std::fill_n(tall.begin(), length, 0.0);  // a zero column
      if (defect == 2 && n > 1) std::copy_n(tall.begin(), length, tall.end() - static_cast<std::ptrdiff_t>(length));
      if (defect == 3) std::fill(tall.begin(), tall.end(), 0.0);
      if (defect == 4 && length > 1) {  // almost along an axis: the wrong sign of the diagonal would cancel
        std::fill_n(tall.begin(), length, 0.0);
        tall[0] = 1;
        tall[1] = 1e-9;
      }
      const ThinQr qr(tall, n, length);
      std::vector<double> q(n * length);
      for (std::size_t j = 0; j < n; ++j) {
        q[j * length + j] = 1;
        qr.apply_q(q.data() + j * length);
      }
      for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j < n; ++j) {
          CHECK(std::abs(dot(q.data() + i * length, q.data() + j * length, length) - (i == j)) < 1e-14);
          if (i > j) CHECK(qr.r(i, j) == 0.0);
        }
      for (std::size_t j = 0; j < n; ++j)
        for (std::size_t c = 0; c < length; ++c) {
          double sum = 0;
          for (std::size_t i = 0; i <= j; ++i) sum += q[i * length + c] * qr.r(i, j);
          CHECK(std::abs(sum - tall[j * length + c]) < 1e-13);
        }
    }
}

TEST_CASE("QR: solving with R, free unknowns are 0") {
  const ThinQr qr(random_columns(3, 7, 2), 3, 7);
  const double x[3] = {1, -2, 3};
  double b[3] = {};
  for (std::size_t i = 0; i < 3; ++i)
    for (std::size_t j = 0; j < 3; ++j) b[i] += qr.r(i, j) * x[j];
  qr.solve_r(b);
  for (std::size_t i = 0; i < 3; ++i) CHECK(b[i] == doctest::Approx(x[i]));
  const ThinQr zero(std::vector<double>(6), 2, 3);
  double y[2] = {1, 1};
  zero.solve_r(y);
  CHECK(y[0] == 0.0);
  CHECK(y[1] == 0.0);
}

TEST_CASE("singular vectors: V orthogonal, T·V with orthogonal columns of falling length") {
  for (std::size_t n : {1u, 2u, 5u, 16u})
    for (int kind = 0; kind < 4; ++kind) {
      CAPTURE(n);
      CAPTURE(kind);
      std::vector<double> t = random_columns(n, n, 3);
      if (kind == 1) std::copy_n(t.begin(), n, t.end() - static_cast<std::ptrdiff_t>(n));  // rank n − 1
      if (kind == 2) std::fill(t.begin(), t.end(), 0.0);
      if (kind == 3)  // singular values over twelve orders of magnitude
        for (std::size_t j = 0; j < n; ++j)
          for (std::size_t i = 0; i < n; ++i) t[j * n + i] *= std::pow(10.0, -12.0 * static_cast<double>(j) / 16);
      const std::vector<double> v = right_singular_vectors(t, n);
      std::vector<double> tv(n * n);
      for (std::size_t j = 0; j < n; ++j)
        for (std::size_t k = 0; k < n; ++k)
          for (std::size_t i = 0; i < n; ++i) tv[j * n + i] += v[j * n + k] * t[k * n + i];
      double before = std::numeric_limits<double>::infinity();
      double frobenius = 0, sum = 0;
      for (double value : t) frobenius += value * value;
      for (std::size_t i = 0; i < n; ++i) {
        const double square = dot(&tv[i * n], &tv[i * n], n);
        CHECK(square <= before * (1 + 1e-12) + 1e-25);
        before = square;
        sum += square;
        for (std::size_t j = 0; j < n; ++j) {
          CHECK(std::abs(dot(&v[i * n], &v[j * n], n) - (i == j)) < 1e-13);
          if (i != j) CHECK(std::abs(dot(&tv[i * n], &tv[j * n], n)) <= 1e-13 * frobenius);
        }
      }
      CHECK(sum == doctest::Approx(frobenius));
    }
}
