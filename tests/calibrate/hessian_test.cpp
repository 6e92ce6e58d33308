#include <losa/calibrate/hessian.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "batches.hpp"

using losa::Hessian;
using test::Batch;

namespace {

// |H − XᵀX| within the stated rounding of Σ|x_i·x_j|, and symmetry to the bit.
void check_against_definition(const Hessian& hessian, const std::vector<Batch>& batches) {
  const std::size_t in = hessian.in();
  const auto h = hessian.matrix();
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < in; ++i)
    for (std::size_t j = 0; j <= i; ++j) {
      double sum = 0;
      double size = 0;
      double tokens = 0;
      for (const Batch& x : batches)
        for (std::size_t t = 0; t < x.rows; ++t, ++tokens) {
          const double product = static_cast<double>(x(t, i)) * x(t, j);
          sum += product;
          size += std::abs(product);
        }
      wrong += !(std::abs(h(i, j) - sum) <= tokens * 0x1p-52 * size);
      wrong += h(i, j) != h(j, i);
    }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("hessian: XᵀX by its definition over widths around the strip and batches around the chunk") {
  for (std::size_t in : {1u, 5u, 23u, 24u, 25u, 48u, 129u, 300u}) {
    std::vector<Batch> batches;
    Hessian hessian(in);
    for (std::size_t rows : {1u, 0u, 255u, 257u, 13u}) {
      if (in == 300 && rows > 100) continue;  // keeps the test quick
      batches.emplace_back(rows, in, rows + in, 0.3, rows % 4);
      hessian.add(batches.back().view());
    }
    check_against_definition(hessian, batches);
  }
}

TEST_CASE("hessian: shards merge to one stream, in any order") {
  std::vector<Batch> batches;
  for (std::uint64_t seed = 0; seed < 3; ++seed) batches.emplace_back(50 + seed, 140, seed);
  Hessian a(140);
  Hessian b(140);
  b.add(batches[2].view());
  a.add(batches[1].view());
  b.add(batches[0].view());
  b.merge(a);
  b.merge(Hessian(140));
  CHECK(b.tokens() == 153);
  check_against_definition(b, batches);
}

TEST_CASE("hessian: same bits for every executor") {
  const Batch x(300, 290, 5);
  Hessian expected(290);
  expected.add(x.view());
  test::with_executors([&](losa::ExecutorRef executor) {
    Hessian hessian(290);
    hessian.add(x.view(), executor);
    std::size_t different = 0;
    for (std::size_t i = 0; i < 290; ++i)
      for (std::size_t j = 0; j < 290; ++j) different += hessian.matrix()(i, j) != expected.matrix()(i, j);
    CHECK(different == 0);
  });
}

TEST_CASE("hessian: other shapes are refused") {
  Hessian hessian(4);
  CHECK_THROWS_WITH_AS(hessian.add(Batch(2, 5, 1).view()), "Hessian: a batch must have 4 columns, got 5",
                       losa::ShapeError);
  CHECK_THROWS_AS(hessian.merge(Hessian(5)), losa::ShapeError);
  CHECK(hessian.tokens() == 0);
  CHECK(hessian.matrix()(3, 3) == 0);
}
