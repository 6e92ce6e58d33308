#include <losa/mask/inverse_factor.hpp>

#include <doctest/doctest.h>

#include <Eigen/Dense>
#include <algorithm>
#include <limits>
#include <vector>

#include "matrices.hpp"

namespace {

using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Eigen::MatrixXd dense(const losa::InverseFactor& factor) {
  const auto n = static_cast<Eigen::Index>(factor.size());
  Eigen::MatrixXd u(n, n);
  for (Eigen::Index r = 0; r < n; ++r)
    for (Eigen::Index c = 0; c < n; ++c) u(r, c) = factor(static_cast<std::size_t>(r), static_cast<std::size_t>(c));
  return u;
}

Eigen::MatrixXd dense(const std::vector<double>& h, std::size_t n) {
  return Eigen::Map<const RowMajor>(h.data(), static_cast<Eigen::Index>(n), static_cast<Eigen::Index>(n));
}

}  // namespace

TEST_CASE("inverse factor: UᵀU is the inverse of the damped Hessian, U upper with positive diagonal") {
  // Around a strip of 24, a panel of 192, and a task of 4 strips.
  for (std::size_t n : {1u, 2u, 9u, 23u, 24u, 25u, 127u, 128u, 129u, 191u, 192u, 193u, 300u, 409u}) {
    const std::vector<double> h = test::random_hessian(n, 2 * n + 3, n);
    const auto factor = losa::inverse_factor(losa::view(h.data(), n, n), {.damping = 0.01});
    CHECK(factor.damping == 0.01);
    CHECK(factor.raises == 0);
    const Eigen::MatrixXd u = dense(factor);
    Eigen::MatrixXd damped = dense(h, n);
    const double mean = damped.diagonal().mean();
    damped.diagonal().array() += 0.01 * mean;
    const Eigen::MatrixXd identity = Eigen::MatrixXd::Identity(u.rows(), u.rows());
    CHECK((u.transpose() * u * damped - identity).norm() < 1e-9);
    CHECK(u.isUpperTriangular(0.0));
    CHECK(u.diagonal().minCoeff() > 0);
    test::with_executors([&](losa::ExecutorRef executor) {
      const auto again = losa::inverse_factor(losa::view(h.data(), n, n), {.damping = 0.01}, executor);
      CHECK(std::ranges::equal(again.upper.values(), factor.upper.values()));
    });
  }
}

TEST_CASE("inverse factor: damping rises tenfold until the matrix is positive definite, and says so") {
  const std::vector<double> ones(16, 1.0);  // rank 1
  const auto rank_one = losa::inverse_factor(losa::view(ones.data(), 4, 4), {.damping = 0});
  CHECK(rank_one.raises == 1);
  CHECK(rank_one.damping == 1e-6);
  // A pivot of 2⁻⁵⁰ is a zero that rounding lifted.
  const std::vector<double> nearly{1, 1, 1, 1 + 0x1p-50};
  CHECK(losa::inverse_factor(losa::view(nearly.data(), 2, 2), {.damping = 0}).raises == 1);
  const std::vector<double> narrow{1, 1, 1, 1 + 0x1p-40};
  CHECK(losa::inverse_factor(losa::view(narrow.data(), 2, 2), {.damping = 0}).raises == 0);
  // Eigenvalues 1.5 and −0.5, mean diagonal 0.5: positive definite from damping 1 on, exclusively.
  const std::vector<double> indefinite{0.5, 1, 1, 0.5};
  const auto risen = losa::inverse_factor(losa::view(indefinite.data(), 2, 2), {.damping = 0.02});
  CHECK(risen.raises == 2);
  CHECK(risen.damping == doctest::Approx(2.0));
  CHECK_THROWS_WITH_AS(losa::inverse_factor(losa::view(indefinite.data(), 2, 2), {.damping = 0.02, .max_raises = 1}),
                       "inverse_factor: the Hessian is not positive definite even with damping 0.2",
                       losa::NumericError);
}

TEST_CASE("inverse factor: dead columns are told, and do not disturb the others") {
  const std::size_t n = 5;
  const std::vector<double> live = test::random_hessian(4, 20, 3);
  std::vector<double> h(n * n);  // column 2 is dead
  const std::size_t place[] = {0, 1, 3, 4};
  for (std::size_t i = 0; i < 4; ++i)
    for (std::size_t j = 0; j < 4; ++j) h[place[i] * n + place[j]] = live[i * 4 + j];
  const auto with = losa::inverse_factor(losa::view(h.data(), n, n));
  const auto without = losa::inverse_factor(losa::view(live.data(), 4, 4));
  CHECK(with.dead == std::vector<bool>{false, false, true, false, false});
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(with(std::min<std::size_t>(2, place[i]), std::max<std::size_t>(2, place[i])) == 0);
    for (std::size_t j = i; j < 4; ++j)
      CHECK(with(place[i], place[j]) == doctest::Approx(without(i, j)).epsilon(1e-12));
  }
  const std::vector<double> nothing(9);
  CHECK(losa::inverse_factor(losa::view(nothing.data(), 3, 3)).dead == std::vector<bool>(3, true));
}

TEST_CASE("inverse factor: mistakes in one sentence each") {
  std::vector<double> h{2, 1, 1, 2};
  CHECK_THROWS_WITH_AS(losa::inverse_factor(losa::view(h.data(), 1, 2)),
                       "inverse_factor: hessian must be 1 × 1, got 1 × 2", losa::ShapeError);
  CHECK_THROWS_WITH_AS(losa::inverse_factor(losa::view(h.data(), 2, 2), {.damping = -1}),
                       "inverse_factor: damping must be finite and not negative, got -1", losa::RangeError);
  h[1] = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_WITH_AS(losa::inverse_factor(losa::view(h.data(), 2, 2)),
                       "inverse_factor: element (0, 1) of the Hessian is not finite", losa::NumericError);
  h[1] = 1;
  h[3] = -2;
  CHECK_THROWS_WITH_AS(losa::inverse_factor(losa::view(h.data(), 2, 2)),
                       "inverse_factor: diagonal element 1 of the Hessian is negative: -2", losa::NumericError);
}
