#include <losa/adapter/lora_factors.hpp>

#include <cmath>
#include <limits>

#include <doctest/doctest.h>

#include "oracle.hpp"

using namespace oracle;
using losa::LoraFactors;

TEST_CASE("factors: B starts at 0, A uniform in ±1/√in, a pure function of seed and stream") {
  const LoraFactors factors(30, 400, {.rank = 10, .seed = 5, .stream = 6});
  CHECK(factors.rank() == 10);
  CHECK(factors.out() == 30);
  CHECK(factors.in() == 400);
  double sum = 0, squares = 0, most = 0;
  for (std::size_t k = 0; k < 10; ++k) {
    for (float b : factors.bt().row(k)) CHECK(same_bits(b, 0.0f));
    for (float a : factors.a().row(k)) {
      sum += static_cast<double>(a);
      squares += static_cast<double>(a) * static_cast<double>(a);
      most = std::max(most, std::abs(static_cast<double>(a)));
    }
  }
  CHECK(most <= 1.0 / 20);
  CHECK(most > 0.98 / 20);
  CHECK(std::abs(sum / 4000) < 5 * (1.0 / 20) / std::sqrt(3 * 4000.0));
  CHECK(squares / 4000 == doctest::Approx(1.0 / (3 * 400)).epsilon(0.06));
  const LoraFactors same(30, 400, {.rank = 10, .seed = 5, .stream = 6});
  CHECK(same_bits(same.a().row(9), factors.a().row(9)));
  const LoraFactors smaller(30, 400, {.rank = 4, .seed = 5, .stream = 6});
  CHECK(same_bits(smaller.a().row(3), factors.a().row(3)));
  const LoraFactors other(30, 400, {.rank = 10, .seed = 5, .stream = 7});
  CHECK_FALSE(same_bits(other.a().row(0), factors.a().row(0)));
}

TEST_CASE("factors: a row of the update at every column") {
  LoraFactors factors(6, 9, {.rank = 4, .scale = 0.75});
  fill(factors, 1);
  std::vector<float> row(9, 100.0f);
  for (std::size_t r = 0; r < 6; ++r) {
    factors.delta_row(r, row);
    for (std::size_t c = 0; c < 9; ++c)
      CHECK(static_cast<double>(row[c]) == doctest::Approx(delta(factors, r, c)).epsilon(1e-6).scale(1));
  }
  CHECK(sentence<losa::RangeError>([&] { factors.delta_row(6, row); }) == "delta_row: row must be below 6, got 6");
  CHECK(sentence<losa::ShapeError>([&] { factors.delta_row(0, std::span(row).first(8)); }) ==
        "delta_row: delta must have 9 elements, got 8");
}

TEST_CASE("factors: ranks from 0 to min(out, in)") {
  CHECK(LoraFactors(3, 5, {.rank = 0}).a().empty());
  CHECK(LoraFactors(3, 5, {.rank = 3}).bt().rows == 3);
  CHECK(sentence<losa::RangeError>([] { LoraFactors(3, 5, {.rank = 4}); }) ==
        "LoraFactors: rank of a 3 × 5 layer must be at most 3, got 4");
  CHECK(sentence<losa::RangeError>([] { LoraFactors(3, 5, {.rank = 1, .scale = std::nan("")}); }) ==
        "LoraFactors: scale must be finite, got nan");
}

TEST_CASE("factors: state that is shown and put back is the same adapter") {
  LoraFactors factors(6, 9, {.rank = 4, .scale = 0.75, .seed = 3, .stream = 8});
  fill(factors, 1);
  Shelf shelf;
  factors.visit(shelf);
  LoraFactors other(6, 9, {.rank = 1});
  shelf.rewind();
  other.visit(shelf);
  CHECK(other.rank() == 4);
  CHECK(other.scale() == 0.75);
  CHECK(other.seed() == 3);
  CHECK(other.stream() == 8);
  for (std::size_t part : {0u, 1u}) CHECK(same_bits(other.parameters()[part], factors.parameters()[part]));

  Shelf torn = shelf;
  torn.rewind();
  torn.arrays[1].pop_back();
  CHECK(sentence<losa::ShapeError>([&] { other.visit(torn); }) ==
        "LoraFactors::visit: rank 4 needs 36 and 24 elements of a and bt, got 36 and 23");
  Shelf alien = shelf;
  alien.rewind();
  LoraFactors small(3, 9, {.rank = 1});
  CHECK(sentence<losa::RangeError>([&] { small.visit(alien); }) ==
        "LoraFactors::visit: rank of a 3 × 9 layer must be at most 3, got 4");
}

TEST_CASE("gradients: zero keeps the sizes") {
  losa::LoraGradients gradients{{1, 2, 3}, {4}};
  gradients.zero();
  CHECK(gradients.a == std::vector<float>(3));
  CHECK(gradients.bt == std::vector<float>(1));
}
