#include <losa/calibrate/reconstruction_error.hpp>

#include <doctest/doctest.h>

#include <vector>

#include "batches.hpp"

using losa::ReconstructionError;
using test::Batch;

namespace {

double by_definition(const std::vector<Batch>& dense, const std::vector<Batch>& sparse) {
  double mean = 0;
  const std::size_t channels = dense[0].cols;
  for (std::size_t c = 0; c < channels; ++c) {
    double error = 0;
    double signal = 0;
    for (std::size_t b = 0; b < dense.size(); ++b)
      for (std::size_t t = 0; t < dense[b].rows; ++t) {
        const double d = dense[b](t, c);
        const double z = sparse[b](t, c);
        error += (d - z) * (d - z);
        signal += d * d;
      }
    mean += error / signal / static_cast<double>(channels);
  }
  return mean;
}

}  // namespace

TEST_CASE("reconstruction error: Eq. 6 by its definition, one stream and merged shards") {
  std::vector<Batch> dense;
  std::vector<Batch> sparse;
  for (std::uint64_t b = 0; b < 4; ++b) {
    dense.emplace_back(5 + 6 * b, 71, b, 0.0, b);
    sparse.emplace_back(5 + 6 * b, 71, b + 50, 0.0, 3);
  }
  ReconstructionError stream(71);
  ReconstructionError left(71);
  ReconstructionError right(71);
  for (std::size_t b = 0; b < 4; ++b) {
    stream.add(dense[b].view(), sparse[b].view());
    (b % 2 == 0 ? left : right).add(dense[b].view(), sparse[b].view());
  }
  const double expected = by_definition(dense, sparse);
  CHECK(stream.value() == doctest::Approx(expected).epsilon(1e-13));
  right.merge(left);
  CHECK(right.value() == doctest::Approx(expected).epsilon(1e-13));
  CHECK(right.tokens() == stream.tokens());
  CHECK(stream.tokens() == 56);
  CHECK(stream.channels() == 71);
}

TEST_CASE("reconstruction error: laws") {
  const Batch dense(30, 8, 1);
  SUBCASE("equal outputs: 0") {
    ReconstructionError error(8);
    error.add(dense.view(), dense.view());
    CHECK(error.value() == 0);
  }
  SUBCASE("no output at all: 1") {
    const std::vector<float> nothing(30 * 8);
    ReconstructionError error(8);
    error.add(dense.view(), losa::view(nothing.data(), 30, 8));
    CHECK(error.value() == 1);
  }
  SUBCASE("scaling a channel of both leaves it") {
    Batch sparse(30, 8, 2);
    ReconstructionError before(8);
    before.add(dense.view(), sparse.view());
    Batch scaled = dense;
    for (std::size_t t = 0; t < 30; ++t) {
      scaled.data[t * 8 + 3] *= 1024;
      sparse.data[t * 8 + 3] *= 1024;
    }
    ReconstructionError after(8);
    after.add(scaled.view(), sparse.view());
    CHECK(after.value() == before.value());
  }
}

TEST_CASE("reconstruction error: channels without signal") {
  // Channel 0: relative error 1/4. Channel 1: silent in both. Channel 2: silent only in the dense model.
  const std::vector<float> dense{2, 0, 0};
  const std::vector<float> sparse{1, 0, 5};
  ReconstructionError error(3);
  CHECK(error.value() == 0);
  error.add(losa::view(dense.data(), 1, 3), losa::view(sparse.data(), 1, 3));
  CHECK(error.undefined_channels() == 1);
  CHECK(error.value() == 0.125);  // over channels 0 and 1
  CHECK(error.error()[2] == 25);
  CHECK(error.signal()[0] == 4);
  ReconstructionError undefined(1);
  undefined.add(losa::view(dense.data() + 2, 1, 1), losa::view(sparse.data() + 2, 1, 1));
  CHECK(undefined.undefined_channels() == 1);
  CHECK(undefined.value() == 0);
}

TEST_CASE("reconstruction error: same bits for every executor") {
  const Batch dense(50, 300, 5);
  const Batch sparse(50, 300, 6);
  ReconstructionError expected(300);
  expected.add(dense.view(), sparse.view());
  test::with_executors([&](losa::ExecutorRef executor) {
    ReconstructionError error(300);
    error.add(dense.view(), sparse.view(), executor);
    CHECK(error.value() == expected.value());
  });
}

TEST_CASE("reconstruction error: other shapes are refused") {
  ReconstructionError error(4);
  CHECK_THROWS_WITH_AS(error.add(Batch(2, 5, 1).view(), Batch(2, 5, 1).view()),
                       "ReconstructionError: a batch must have 4 columns, got 5", losa::ShapeError);
  CHECK_THROWS_WITH_AS(error.add(Batch(2, 4, 1).view(), Batch(3, 4, 1).view()),
                       "ReconstructionError: sparse output must be 2 × 4, got 3 × 4", losa::ShapeError);
  CHECK_THROWS_AS(error.merge(ReconstructionError(3)), losa::ShapeError);
}
