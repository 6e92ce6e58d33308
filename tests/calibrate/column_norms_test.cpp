#include <losa/calibrate/column_norms.hpp>

#include <doctest/doctest.h>

#include <vector>

#include "batches.hpp"

using losa::ColumnNorms;
using test::Batch;

TEST_CASE("column norms: against the definition, over several batches with gaps between rows") {
  for (std::size_t in : {1u, 2u, 63u, 64u, 65u, 130u}) {
    ColumnNorms norms(in);
    std::vector<double> expected(in);
    std::size_t tokens = 0;
    for (std::size_t rows : {1u, 7u, 0u, 20u}) {
      const Batch x(rows, in, rows + 1, 0.5, rows % 3);
      norms.add(x.view());
      tokens += rows;
      for (std::size_t t = 0; t < rows; ++t)
        for (std::size_t c = 0; c < in; ++c) expected[c] += static_cast<double>(x(t, c)) * x(t, c);
    }
    CHECK(norms.in() == in);
    CHECK(norms.tokens() == tokens);
    for (std::size_t c = 0; c < in; ++c) CHECK(norms.sum_squares()[c] == doctest::Approx(expected[c]).epsilon(1e-14));
  }
}

TEST_CASE("column norms: sums are in double") {
  // In float, 1 + 2⁻²⁴ would stay 1.
  ColumnNorms norms(1);
  const float large = 1.0f;
  const float small = 0x1p-12f;
  norms.add(losa::view(&large, 1, 1));
  norms.add(losa::view(&small, 1, 1));
  CHECK(norms.sum_squares()[0] == 1.0 + 0x1p-24);
}

TEST_CASE("column norms: shards merge to one stream, in any order") {
  const Batch a(40, 70, 1);
  const Batch b(25, 70, 2);
  const Batch c(60, 70, 3);
  ColumnNorms stream(70);
  for (const Batch* x : {&a, &b, &c}) stream.add(x->view());
  ColumnNorms first(70);
  ColumnNorms second(70);
  first.add(c.view());
  second.add(b.view());
  second.add(a.view());
  first.merge(second);
  first.merge(ColumnNorms(70));
  CHECK(first.tokens() == 125);
  for (std::size_t j = 0; j < 70; ++j)
    CHECK(first.sum_squares()[j] == doctest::Approx(stream.sum_squares()[j]).epsilon(125 * 0x1p-53));
}

TEST_CASE("column norms: same bits for every executor") {
  const Batch x(50, 300, 5);
  ColumnNorms expected(300);
  expected.add(x.view());
  test::with_executors([&](losa::ExecutorRef executor) {
    ColumnNorms norms(300);
    norms.add(x.view(), executor);
    for (std::size_t c = 0; c < 300; ++c) CHECK(norms.sum_squares()[c] == expected.sum_squares()[c]);
  });
}

TEST_CASE("column norms: other shapes are refused") {
  ColumnNorms norms(4);
  const Batch x(2, 5, 1);
  CHECK_THROWS_WITH_AS(norms.add(x.view()), "ColumnNorms: a batch must have 4 columns, got 5", losa::ShapeError);
  CHECK_THROWS_WITH_AS(norms.merge(ColumnNorms(5)), "ColumnNorms: cannot merge statistics over 5 into those over 4",
                       losa::ShapeError);
  CHECK(norms.tokens() == 0);
}
