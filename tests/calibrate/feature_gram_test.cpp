#include <losa/calibrate/feature_gram.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "batches.hpp"

using losa::FeatureGram;
using test::Batch;

namespace {

void check_against_definition(const FeatureGram& gram, const std::vector<Batch>& chunks) {
  const std::size_t n = gram.sequences();
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) {
      double sum = 0;
      double size = 0;
      double columns = 0;
      for (const Batch& f : chunks)
        for (std::size_t c = 0; c < f.cols; ++c, ++columns) {
          const double product = static_cast<double>(f(i, c)) * f(j, c);
          sum += product;
          size += std::abs(product);
        }
      wrong += !(std::abs(gram.matrix()(i, j) - sum) <= columns * 0x1p-52 * size);
      wrong += gram.matrix()(i, j) != gram.matrix()(j, i);
    }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("feature gram: F·Fᵀ by its definition, chunks around the sizes of a piece and of a round of pieces") {
  for (std::size_t n : {1u, 3u, 17u, 24u, 49u}) {
    std::vector<Batch> chunks;
    FeatureGram gram(n);
    std::size_t columns = 0;
    for (std::size_t width : {1u, 511u, 513u, 0u, 4097u}) {
      chunks.emplace_back(n, width, width, 0.2, width % 3);
      gram.add(chunks.back().view());
      columns += width;
    }
    CHECK(gram.cols() == columns);
    check_against_definition(gram, chunks);
  }
}

TEST_CASE("feature gram: shards over different columns merge to one stream, in any order") {
  std::vector<Batch> chunks;
  for (std::uint64_t seed = 0; seed < 3; ++seed) chunks.emplace_back(9, 700 + seed, seed);
  FeatureGram a(9);
  FeatureGram b(9);
  a.add(chunks[2].view());
  b.add(chunks[1].view());
  b.add(chunks[0].view());
  a.merge(b);
  a.merge(FeatureGram(9));
  CHECK(a.cols() == 2103);
  check_against_definition(a, chunks);
}

TEST_CASE("feature gram: same bits for every executor") {
  const Batch f(33, 9000, 5);
  FeatureGram expected(33);
  expected.add(f.view());
  test::with_executors([&](losa::ExecutorRef executor) {
    FeatureGram gram(33);
    gram.add(f.view(), executor);
    std::size_t different = 0;
    for (std::size_t i = 0; i < 33; ++i)
      for (std::size_t j = 0; j < 33; ++j) different += gram.matrix()(i, j) != expected.matrix()(i, j);
    CHECK(different == 0);
  });
}

TEST_CASE("feature gram: another number of sequences is refused") {
  FeatureGram gram(4);
  CHECK_THROWS_WITH_AS(gram.add(Batch(3, 5, 1).view()),
                       "FeatureGram: a chunk must have one row for each of 4 sequences, got 3", losa::ShapeError);
  CHECK_THROWS_WITH_AS(gram.merge(FeatureGram(5)), "FeatureGram: cannot merge statistics over 5 into those over 4",
                       losa::ShapeError);
}
