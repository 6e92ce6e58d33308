#include <losa/allocate/rmi.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include <losa/core/random.hpp>

namespace {

/// Features (n, d) as rows of sequences.
struct Features {
  std::size_t n = 0;
  std::size_t d = 0;
  std::vector<double> values;
  double& operator()(std::size_t i, std::size_t j) { return values[i * d + j]; }
  double operator()(std::size_t i, std::size_t j) const { return values[i * d + j]; }
};

Features gaussian(std::size_t n, std::size_t d, std::uint64_t stream) {
  Features f{n, d, std::vector<double>(n * d)};
  const losa::Random random{.seed = 7, .stream = stream};
  for (std::size_t i = 0; i < n * d; ++i) f.values[i] = random.normal(i);
  return f;
}

Features column(std::vector<double> values) {
  const std::size_t n = values.size();
  return {n, 1, std::move(values)};
}

Features times(const Features& f, const std::vector<double>& right, std::size_t columns) {
  Features result{f.n, columns, std::vector<double>(f.n * columns)};
  for (std::size_t i = 0; i < f.n; ++i)
    for (std::size_t j = 0; j < columns; ++j)
      for (std::size_t k = 0; k < f.d; ++k) result(i, j) += f(i, k) * right[k * columns + j];
  return result;
}

std::vector<double> gram(const Features& f) {
  std::vector<double> k(f.n * f.n);
  for (std::size_t i = 0; i < f.n; ++i)
    for (std::size_t j = 0; j < f.n; ++j)
      for (std::size_t c = 0; c < f.d; ++c) k[i * f.n + j] += f(i, c) * f(j, c);
  return k;
}

losa::RmiMatrix rmi_of(const std::vector<Features>& layers, losa::RmiOptions options = {}) {
  std::vector<std::vector<double>> grams;
  for (const Features& f : layers) grams.push_back(gram(f));
  std::vector<losa::MatrixView<const double>> views;
  for (std::size_t l = 0; l < layers.size(); ++l) views.emplace_back(grams[l].data(), layers[l].n, layers[l].n);
  return losa::mutual_information(views, options);
}

double rmi_pair(const Features& x, const Features& y, losa::RmiOptions options = {}) {
  return rmi_of({x, y}, options)(0, 1);
}

Features with_rows(const Features& f, const std::vector<std::size_t>& order) {
  Features result = f;
  for (std::size_t i = 0; i < f.n; ++i)
    for (std::size_t j = 0; j < f.d; ++j) result(i, j) = f(order[i], j);
  return result;
}

}  // namespace

TEST_CASE("RMI of single columns is Pearson's correlation squared") {
  // Centred (−1, 0, 1) and (−4/3, −1/3, 5/3): (3)² / (2 · 42/9) = 27/28.
  CHECK(rmi_pair(column({1, 2, 3}), column({1, 2, 4})) == doctest::Approx(27.0 / 28.0).epsilon(1e-14));
}

TEST_CASE("RMI from Grams is the feature form with centred features") {
  const Features x = gaussian(9, 4, 1);
  const Features y = gaussian(9, 6, 2);
  const auto centred = [](Features f) {
    for (std::size_t j = 0; j < f.d; ++j) {
      double mean = 0;
      for (std::size_t i = 0; i < f.n; ++i) mean += f(i, j) / static_cast<double>(f.n);
      for (std::size_t i = 0; i < f.n; ++i) f(i, j) -= mean;
    }
    return f;
  };
  const auto cross = [](const Features& a, const Features& b) {  // ‖aᵀb‖²
    double total = 0;
    for (std::size_t p = 0; p < a.d; ++p)
      for (std::size_t q = 0; q < b.d; ++q) {
        double dot = 0;
        for (std::size_t i = 0; i < a.n; ++i) dot += a(i, p) * b(i, q);
        total += dot * dot;
      }
    return total;
  };
  const Features a = centred(x);
  const Features b = centred(y);
  const double expected = cross(a, b) / std::sqrt(cross(a, a) * cross(b, b));
  CHECK(rmi_pair(x, y) == doctest::Approx(expected).epsilon(1e-12));
}

TEST_CASE("RMI is unchanged by scaling, rotation, shift and joint permutation") {
  const Features x = gaussian(8, 3, 3);
  const Features y = gaussian(8, 5, 4);
  const double base = rmi_pair(x, y);
  const double c = std::cos(0.7);
  const double s = std::sin(0.7);
  const std::vector<double> rotation = {-3 * c, 3 * s, 0, -3 * s, -3 * c, 0, 0, 0, -3};  // −3 · orthogonal
  CHECK(rmi_pair(times(x, rotation, 3), y) == doctest::Approx(base).epsilon(1e-12));
  CHECK(rmi_pair(x, times(x, rotation, 3)) == doctest::Approx(1.0).epsilon(1e-12));

  Features shifted = x;
  for (std::size_t i = 0; i < x.n; ++i)
    for (std::size_t j = 0; j < x.d; ++j) shifted(i, j) += 10.0 * static_cast<double>(j + 1);
  CHECK(rmi_pair(shifted, y) == doctest::Approx(base).epsilon(1e-10));

  std::vector<std::size_t> order = {3, 1, 7, 0, 2, 6, 5, 4};
  CHECK(rmi_pair(with_rows(x, order), with_rows(y, order)) == doctest::Approx(base).epsilon(1e-12));
  CHECK(std::abs(rmi_pair(with_rows(x, order), y) - base) > 1e-3);
}

TEST_CASE("RMI is not unchanged by a general invertible map") {
  const Features x = gaussian(8, 2, 5);
  CHECK(rmi_pair(x, times(x, {1, 0, 0, 20}, 2)) < 0.99);
}

TEST_CASE("RMI is symmetric, in 0 to 1, with ones on the diagonal") {
  const auto rmi = rmi_of({gaussian(6, 4, 6), gaussian(6, 4, 7), gaussian(6, 9, 8)});
  REQUIRE(rmi.layers == 3);
  for (std::size_t i = 0; i < 3; ++i)
    for (std::size_t j = 0; j < 3; ++j) {
      CHECK(rmi(i, j) == rmi(j, i));
      CHECK(rmi(i, j) >= 0.0);
      CHECK(rmi(i, j) <= 1.0 + 1e-15);
    }
  for (std::size_t i = 0; i < 3; ++i) CHECK(rmi(i, i) == 1.0);
}

TEST_CASE("RMI of a representation that never changes is 0 with others and 1 with itself") {
  Features constant{5, 3, std::vector<double>(15)};
  for (std::size_t i = 0; i < 5; ++i)
    for (std::size_t j = 0; j < 3; ++j) constant(i, j) = 0.1 + 1.7 * static_cast<double>(j);
  const Features zero{5, 2, std::vector<double>(10)};
  const Features x = gaussian(5, 4, 9);
  for (bool debiased : {false, true}) {
    const auto rmi = rmi_of({constant, zero, x}, {.debiased = debiased});
    CHECK(rmi(0, 1) == 0.0);
    CHECK(rmi(0, 2) == 0.0);
    CHECK(rmi(1, 2) == 0.0);
    CHECK(rmi(0, 0) == 1.0);
  }
  const auto one = rmi_of({column({3}), column({4})});  // N = 1
  CHECK(one(0, 1) == 0.0);
  CHECK(one(1, 1) == 1.0);
  CHECK(losa::mutual_information({}).layers == 0);
}

TEST_CASE("RMI does not care for the scale of the Grams, however far it goes") {
  const Features x = gaussian(6, 3, 10);
  const Features y = gaussian(6, 3, 11);
  const double base = rmi_pair(x, y);
  for (double scale : {0x1p-400, 0x1p400}) {
    std::vector<double> kx = gram(x);
    std::vector<double> ky = gram(y);
    for (double& value : kx) value *= scale;
    const std::vector<losa::MatrixView<const double>> views = {{kx.data(), 6, 6}, {ky.data(), 6, 6}};
    CHECK(losa::mutual_information(views)(0, 1) == doctest::Approx(base).epsilon(1e-12));
  }
}

TEST_CASE("RMI of independent features: the biased estimate nears 1, the debiased one 0") {
  // N = 16 sequences, d = 400 features each.
  double biased = 0;
  double debiased = 0;
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    const Features x = gaussian(16, 400, 100 + 2 * seed);
    const Features y = gaussian(16, 400, 101 + 2 * seed);
    biased += rmi_pair(x, y) / 8;
    debiased += rmi_pair(x, y, {.debiased = true}) / 8;
  }
  CHECK(biased > 0.9);
  CHECK(std::abs(debiased) < 0.1);
}

TEST_CASE("debiased RMI equals the unbiased HSIC written out") {
  // HSIC = (tr K̄L̄ + 1ᵀK̄1·1ᵀL̄1/((n−1)(n−2)) − 2/(n−2)·1ᵀK̄L̄1) / (n(n−3)), K̄ and L̄ with zero diagonals.
  const std::size_t n = 7;
  const Features x = gaussian(n, 3, 12);
  const Features y = gaussian(n, 3, 13);
  const auto hollow = [&](const Features& f) {
    std::vector<double> k = gram(f);
    for (std::size_t i = 0; i < n; ++i) k[i * n + i] = 0;
    return k;
  };
  const auto hsic = [&](const std::vector<double>& k, const std::vector<double>& l) {
    double trace = 0;
    double sum_k = 0;
    double sum_l = 0;
    double cross = 0;
    for (std::size_t i = 0; i < n; ++i) {
      double row_k = 0;
      double row_l = 0;
      for (std::size_t j = 0; j < n; ++j) {
        trace += k[i * n + j] * l[i * n + j];
        row_k += k[i * n + j];
        row_l += l[i * n + j];
      }
      sum_k += row_k;
      sum_l += row_l;
      cross += row_k * row_l;
    }
    const double m = static_cast<double>(n);
    return (trace + sum_k * sum_l / ((m - 1) * (m - 2)) - 2 / (m - 2) * cross) / (m * (m - 3));
  };
  const auto k = hollow(x);
  const auto l = hollow(y);
  const double expected = hsic(k, l) / std::sqrt(hsic(k, k) * hsic(l, l));
  CHECK(rmi_pair(x, y, {.debiased = true}) == doctest::Approx(expected).epsilon(1e-12));
}

TEST_CASE("RMI refuses Grams that do not fit, are not finite or not symmetric") {
  std::vector<double> a = {1, 0, 0, 1};
  std::vector<double> b(9, 1.0);
  CHECK_THROWS_WITH_AS(
      losa::mutual_information(std::vector<losa::MatrixView<const double>>{{a.data(), 2, 2}, {b.data(), 3, 3}}),
      "mutual_information: gram 1 must be 2 × 2, got 3 × 3", losa::ShapeError);
  CHECK_THROWS_AS(losa::mutual_information(std::vector<losa::MatrixView<const double>>{{b.data(), 3, 2}}),
                  losa::ShapeError);
  CHECK_THROWS_AS(
      losa::mutual_information(std::vector<losa::MatrixView<const double>>{{b.data(), 3, 3}}, {.debiased = true}),
      losa::RangeError);
  a[1] = 0.1;
  CHECK_THROWS_WITH_AS(losa::mutual_information(std::vector<losa::MatrixView<const double>>{{a.data(), 2, 2}}),
                       "mutual_information: gram 0 is not symmetric", losa::NumericError);
  a[1] = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_WITH_AS(losa::mutual_information(std::vector<losa::MatrixView<const double>>{{a.data(), 2, 2}}),
                       "mutual_information: gram 0 is not finite", losa::NumericError);
}
