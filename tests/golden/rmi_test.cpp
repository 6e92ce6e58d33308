// RMI, importance and Eq. 5 against the published implementation.
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <numeric>
#include <string>
#include <vector>

#include <losa/allocate/importance.hpp>
#include <losa/allocate/rmi.hpp>
#include <losa/allocate/sparsity.hpp>
#include <losa/calibrate/feature_gram.hpp>
#include <losa/published/sparsity.hpp>

#include "golden.hpp"

namespace {

std::vector<golden::Matrix> features_of(const golden::Json& entry) {
  std::vector<golden::Matrix> features;  // per layer (sequences, features)
  REQUIRE(entry["features"].is_array());
  REQUIRE(!entry["features"].empty());
  for (const golden::Json& layer : entry["features"]) {
    features.push_back(golden::matrix(layer, "rmi.features"));
    REQUIRE(features.back().rows == features.front().rows);
    REQUIRE(features.back().cols == features.front().cols);
  }
  return features;
}

/// Grams in double, from the numbers as the file has them.
losa::RmiMatrix rmi_of(const std::vector<golden::Matrix>& features) {
  std::vector<std::vector<double>> grams;
  std::vector<losa::MatrixView<const double>> views;
  for (const golden::Matrix& f : features) {
    std::vector<double> gram(f.rows * f.rows);
    for (std::size_t i = 0; i < f.rows; ++i)
      for (std::size_t j = 0; j < f.rows; ++j)
        for (std::size_t c = 0; c < f.cols; ++c) gram[i * f.rows + j] += f(i, c) * f(j, c);
    grams.push_back(std::move(gram));
  }
  for (std::size_t l = 0; l < features.size(); ++l)
    views.emplace_back(grams[l].data(), features[l].rows, features[l].rows);
  return losa::mutual_information(views);
}

void check_close(const std::vector<double>& got, const std::vector<double>& expected, double relative) {
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i)
    CHECK(std::abs(got[i] - expected[i]) <= relative * std::abs(expected[i]));
}

double mean(const std::vector<double>& s) {
  return std::accumulate(s.begin(), s.end(), 0.0) / static_cast<double>(s.size());
}
double dot(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

}  // namespace

TEST_CASE("RMI is the published CKA") {
  for (const golden::Json& entry : golden::vectors()["rmi"]) {
    const auto features = features_of(entry);
    const golden::Matrix cka = golden::matrix(entry["cka"], "rmi.cka", features.size(), features.size());
    const losa::RmiMatrix rmi = rmi_of(features);
    for (std::size_t i = 0; i < cka.rows; ++i)
      for (std::size_t j = 0; j < cka.cols; ++j) {
        CAPTURE(i);
        CAPTURE(j);
        CHECK(std::abs(rmi(i, j) - cka(i, j)) <= 1e-13);
      }
  }
}

TEST_CASE("RMI from Grams that were streamed in float") {
  for (const golden::Json& entry : golden::vectors()["rmi"]) {
    const auto features = features_of(entry);
    const golden::Matrix cka = golden::matrix(entry["cka"], "rmi.cka", features.size(), features.size());
    std::vector<losa::FeatureGram> grams(features.size(), losa::FeatureGram(features[0].rows));
    std::vector<losa::MatrixView<const double>> views;
    for (std::size_t l = 0; l < features.size(); ++l) {
      const golden::FloatMatrix f(features[l]);
      const std::size_t half = f.cols / 2;
      grams[l].add(f.view().block(0, 0, f.rows, half));
      grams[l].add(f.view().block(0, half, f.rows, f.cols - half));
      views.push_back(grams[l].matrix());
    }
    const losa::RmiMatrix rmi = losa::mutual_information(views);
    CHECK(golden::relative_difference(rmi, cka) <= 1e-6);
  }
}

TEST_CASE("importance is the published one, for both values of beta") {
  for (const golden::Json& entry : golden::vectors()["rmi"]) {
    const losa::RmiMatrix rmi = rmi_of(features_of(entry));
    check_close(losa::importance(rmi, losa::published::beta_wanda),
                golden::vector(entry["importance_beta1"], "rmi.importance_beta1"), 1e-13);
    check_close(losa::importance(rmi, losa::published::beta_sparsegpt),
                golden::vector(entry["importance_beta100"], "rmi.importance_beta100"), 1e-11);
  }
}

TEST_CASE("Eq. 5 is the optimum of the published linear programme") {
  for (const golden::Json& entry : golden::vectors()["rmi"]) {
    const double target = golden::number(entry["target"], "rmi.target");
    const double delta = golden::number(entry["delta"], "rmi.delta");
    CHECK(delta == losa::published::delta(target));
    const auto expected = golden::vector(entry["sparsity_lp"], "rmi.sparsity_lp");
    const auto beta1 = golden::vector(entry["importance_beta1"], "rmi.importance_beta1");
    const auto beta100 = golden::vector(entry["importance_beta100"], "rmi.importance_beta100");
    const losa::SparsityOptions options{.target = target, .delta = delta};
    const auto s = losa::allocate_sparsity(beta100, options);
    check_close(s, expected, 2e-15);
    CHECK(losa::allocate_sparsity(beta1, options) == s);  // β changes nothing
    CHECK(losa::allocate_sparsity(losa::importance(rmi_of(features_of(entry))), options) == s);
    const double objective = golden::number(entry["objective_lp"], "rmi.objective_lp");
    CHECK(std::abs(dot(beta100, s) - objective) <= 1e-14 * objective);
  }
}

TEST_CASE("the published solver's own result") {
  for (const golden::Json& entry : golden::vectors()["rmi"]) {
    const double target = golden::number(entry["target"], "rmi.target");
    const double delta = golden::number(entry["delta"], "rmi.delta");
    const auto importance = golden::vector(entry["importance_beta100"], "rmi.importance_beta100");
    const auto expected = golden::vector(entry["sparsity_slsqp"], "rmi.sparsity_slsqp");
    REQUIRE(expected.size() == importance.size());
    for (double value : expected) {
      CHECK(value >= target - delta - 1e-12);
      CHECK(value <= target + delta + 1e-12);
    }
    CHECK(std::abs(mean(expected) - target) <= 1e-8);
    const auto s = losa::published::allocate_sparsity(importance, target, delta);
    // Where it stops at once the point is known, up to its finite differences of the constraint (1.5·10⁻⁸·δ); else
    // only that the objective is within its tolerance.
    double squares = 0;
    for (double value : importance) squares += std::pow(value - mean(importance), 2);
    if (squares < losa::published::solver_tolerance) {
      for (std::size_t i = 0; i < s.size(); ++i) CHECK(std::abs(s[i] - expected[i]) <= 5e-9);
    } else {
      CHECK(std::abs(dot(importance, s) - dot(importance, expected)) <= 1e-5);
    }
    CHECK(dot(importance, expected) >= golden::number(entry["objective_lp"], "rmi.objective_lp") - 1e-8);
  }
}
