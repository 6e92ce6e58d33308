#include <losa/core/mask.hpp>
#include <losa/core/random.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

namespace {

// A mask beside the plain table of truth values that it should equal.
struct Pair {
  losa::Mask mask;
  std::vector<std::vector<bool>> table;
};

Pair random_pair(std::size_t rows, std::size_t cols, double density, std::uint64_t seed) {
  Pair pair{losa::Mask(rows, cols), std::vector<std::vector<bool>>(rows, std::vector<bool>(cols))};
  const losa::Random random{.seed = seed};
  // Every position is written several times, in a scattered order, the last value counts.
  for (std::uint64_t i = 0; i < 3 * rows * cols; ++i) {
    const std::size_t r = random.below(rows, 3 * i);
    const std::size_t c = random.below(cols, 3 * i + 1);
    const bool keep = random.uniform(3 * i + 2) < density;
    pair.mask.set(r, c, keep);
    pair.table[r][c] = keep;
  }
  return pair;
}

}  // namespace

TEST_CASE("mask: equals a table of truth values") {
  for (std::size_t rows : {1u, 3u})
    for (std::size_t cols : {1u, 2u, 63u, 64u, 65u, 127u, 128u, 129u, 200u})
      for (double density : {0.0, 0.3, 1.0}) {
        const auto [mask, table] = random_pair(rows, cols, density, cols);
        std::size_t kept = 0;
        for (std::size_t r = 0; r < rows; ++r) {
          std::vector<std::size_t> expected;
          for (std::size_t c = 0; c < cols; ++c) {
            CHECK(mask(r, c) == table[r][c]);
            if (table[r][c]) expected.push_back(c);
          }
          std::vector<std::size_t> got;
          mask.for_each_kept(r, [&](std::size_t c) { got.push_back(c); });
          CHECK(got == expected);
          CHECK(mask.kept_in_row(r) == expected.size());
          kept += expected.size();
          // Bits past the last column stay 0.
          for (std::size_t w = 0; w < mask.words_per_row(); ++w)
            CHECK((mask.row_words(r)[w] & ~mask.valid_bits(w)) == 0);
        }
        CHECK(mask.kept() == kept);
        CHECK(mask.zeros() == rows * cols - kept);
        CHECK(mask.sparsity() == static_cast<double>(rows * cols - kept) / static_cast<double>(rows * cols));
        CHECK(mask.bytes() == rows * ((cols + 63) / 64) * 8);
        CHECK(mask.words().size() == rows * mask.words_per_row());
      }
}

TEST_CASE("mask: bit c % 64 of word c / 64") {
  losa::Mask mask(2, 130);
  mask.set(1, 129, true);
  mask.set(1, 63, true);
  CHECK(mask.row_words(0)[0] == 0);
  CHECK(mask.row_words(1)[0] == std::uint64_t{1} << 63);
  CHECK(mask.row_words(1)[2] == 2);
  CHECK(&mask.words()[3] == &mask.row_words(1)[0]);
}

TEST_CASE("mask: full keeps every column and no bit more") {
  for (std::size_t cols : {1u, 63u, 64u, 65u, 128u, 190u}) {
    losa::Mask built(3, cols);
    for (std::size_t r = 0; r < 3; ++r)
      for (std::size_t c = 0; c < cols; ++c) built.set(r, c, true);
    CHECK(losa::Mask::full(3, cols) == built);
    CHECK(losa::Mask::full(3, cols).kept() == 3 * cols);
  }
  CHECK(losa::Mask::full(0, 5).kept() == 0);
  CHECK(losa::Mask().sparsity() == 0);
  CHECK(losa::Mask(4, 0).size() == 0);
}

TEST_CASE("mask: subset_of and equality against brute force") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const auto a = random_pair(2, 70, 0.02, seed);
    auto b = random_pair(2, 70, 0.9, seed + 100);
    for (int attempt = 0; attempt < 2; ++attempt) {
      bool subset = true;
      bool equal = true;
      for (std::size_t r = 0; r < 2; ++r)
        for (std::size_t c = 0; c < 70; ++c) {
          subset = subset && (!a.mask(r, c) || b.mask(r, c));
          equal = equal && a.mask(r, c) == b.mask(r, c);
        }
      CHECK(a.mask.subset_of(b.mask) == subset);
      CHECK((a.mask == b.mask) == equal);
      for (std::size_t r = 0; r < 2; ++r)  // second time: certainly a superset
        for (std::size_t c = 0; c < 70; ++c) b.mask.set(r, c, b.mask(r, c) || a.mask(r, c));
    }
    CHECK(a.mask.subset_of(a.mask));
  }
  CHECK_FALSE(losa::Mask(2, 3).subset_of(losa::Mask(3, 2)));
  CHECK_FALSE(losa::Mask(2, 3) == losa::Mask(3, 2));
}

TEST_CASE("apply_mask: pruned weights become +0, kept ones stay, what lies between rows is not touched") {
  std::vector<float> data(3 * 8, -7.0f);
  const auto weight = losa::view(data.data(), 3, 5, 8);
  losa::Mask mask = losa::Mask::full(3, 5);
  mask.set(0, 0, false);
  mask.set(2, 4, false);
  losa::apply_mask(weight, mask);
  for (std::size_t r = 0; r < 3; ++r)
    for (std::size_t c = 0; c < 8; ++c) {
      const float value = data[r * 8 + c];
      if (c < 5 && !mask(r, c)) {
        CHECK(value == 0.0f);
        CHECK_FALSE(std::signbit(value));
      } else {
        CHECK(value == -7.0f);
      }
    }
  CHECK_THROWS_WITH_AS(losa::apply_mask(weight, losa::Mask(3, 6)), "apply_mask: weight must be 3 × 6, got 3 × 5",
                       losa::ShapeError);
}
