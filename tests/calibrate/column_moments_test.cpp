#include <losa/calibrate/column_moments.hpp>

#include <doctest/doctest.h>

#include <vector>

#include "batches.hpp"

using losa::ColumnMoments;
using test::Batch;

namespace {

// Two passes over everything at once.
void check_against_definition(const ColumnMoments& moments, const std::vector<Batch>& batches, double tolerance) {
  for (std::size_t c = 0; c < moments.in(); ++c) {
    double sum = 0;
    double n = 0;
    for (const Batch& x : batches)
      for (std::size_t t = 0; t < x.rows; ++t, ++n) sum += x(t, c);
    const double mean = sum / n;
    double squares = 0;
    for (const Batch& x : batches)
      for (std::size_t t = 0; t < x.rows; ++t) squares += (x(t, c) - mean) * (x(t, c) - mean);
    CHECK(moments.mean()[c] == doctest::Approx(mean).epsilon(tolerance));
    CHECK(moments.variance()[c] == doctest::Approx(squares / n).epsilon(tolerance));
  }
}

}  // namespace

TEST_CASE("column moments: against the definition, also where the mean is large against the spread") {
  for (double mean : {0.0, 3.0, 1e5})
    for (std::size_t in : {1u, 64u, 65u}) {
      std::vector<Batch> batches;
      ColumnMoments moments(in);
      for (std::size_t rows : {1u, 9u, 30u, 2u}) {
        batches.emplace_back(rows, in, rows, mean, 2);
        moments.add(batches.back().view());
      }
      moments.add(Batch(0, in, 1).view());
      CHECK(moments.tokens() == 42);
      check_against_definition(moments, batches, mean == 0.0 ? 1e-11 : 1e-9);
    }
}

TEST_CASE("column moments: shards merge to one stream, in any order") {
  std::vector<Batch> batches;
  for (std::uint64_t seed : {1u, 2u, 3u, 4u}) batches.emplace_back(10 + 7 * seed, 66, seed, static_cast<double>(seed));
  for (bool reversed : {false, true}) {
    ColumnMoments a(66);
    ColumnMoments b(66);
    a.add(batches[0].view());
    a.add(batches[2].view());
    b.add(batches[3].view());
    b.add(batches[1].view());
    ColumnMoments& into = reversed ? b : a;
    into.merge(reversed ? a : b);
    into.merge(ColumnMoments(66));
    CHECK(into.tokens() == 110);
    check_against_definition(into, batches, 1e-11);
  }
  ColumnMoments empty(66);
  ColumnMoments full(66);
  full.add(batches[0].view());
  empty.merge(full);
  for (std::size_t c = 0; c < 66; ++c) {
    CHECK(empty.mean()[c] == full.mean()[c]);
    CHECK(empty.variance()[c] == full.variance()[c]);
  }
}

TEST_CASE("column moments: nothing seen, one token, a constant column") {
  ColumnMoments moments(2);
  CHECK(moments.mean()[0] == 0);
  CHECK(moments.variance()[1] == 0);
  const std::vector<float> token{5, -1};
  for (int i = 0; i < 3; ++i) moments.add(losa::view(token.data(), 1, 2));
  CHECK(moments.mean()[0] == 5);
  CHECK(moments.variance()[0] == 0);
  CHECK(moments.mean()[1] == -1);
}

TEST_CASE("column moments: same bits for every executor") {
  const Batch x(50, 300, 5);
  ColumnMoments expected(300);
  expected.add(x.view());
  expected.add(x.view());
  test::with_executors([&](losa::ExecutorRef executor) {
    ColumnMoments moments(300);
    moments.add(x.view(), executor);
    moments.add(x.view(), executor);
    for (std::size_t c = 0; c < 300; ++c) {
      CHECK(moments.mean()[c] == expected.mean()[c]);
      CHECK(moments.variance()[c] == expected.variance()[c]);
    }
  });
}

TEST_CASE("column moments: other shapes are refused") {
  ColumnMoments moments(4);
  CHECK_THROWS_WITH_AS(moments.add(Batch(2, 5, 1).view()), "ColumnMoments: a batch must have 4 columns, got 5",
                       losa::ShapeError);
  CHECK_THROWS_AS(moments.merge(ColumnMoments(5)), losa::ShapeError);
}
