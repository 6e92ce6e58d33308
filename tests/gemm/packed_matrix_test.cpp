#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "problem.hpp"

#include <losa/core/thread_pool.hpp>
#include <losa/gemm.hpp>
#include <losa/gemm/shares.hpp>

using losa::PackedMatrix;
using test::Matrix;

TEST_CASE("pack and to_dense: kept weights bit for bit, +0 where pruned, whatever was there") {
  test::sweep([](std::size_t rows, std::size_t cols, std::size_t, double sparsity, std::uint64_t i) {
    Matrix weight(rows, cols, i, i % 3);
    const losa::Mask mask = test::random_mask(rows, cols, sparsity, i);
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < cols; ++c)
        if (!mask(r, c)) weight.view()(r, c) = std::numeric_limits<float>::quiet_NaN();
    const auto packed = losa::pack(weight.view(), mask);
    Matrix dense(rows, cols, 0, i % 2);
    packed.to_dense(dense.view());
    std::size_t wrong = 0;
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < cols; ++c)
        wrong +=
            std::bit_cast<std::uint32_t>(dense(r, c)) != std::bit_cast<std::uint32_t>(mask(r, c) ? weight(r, c) : 0.0f);
    CHECK(wrong == 0);
    CHECK(dense.gaps_intact());
    CHECK(packed.kept() == mask.kept());
    CHECK(packed.mask() == mask);
  });
}

TEST_CASE("pack: values lie in tile order of the kept positions: row blocks, column tiles, rows, columns") {
  const losa::Mask mask = test::random_mask(70, 150, 0.6, 3);
  const Matrix weight(70, 150, 4);
  const auto packed = losa::pack(weight.view(), mask);
  std::size_t k = 0;
  for (std::size_t block = 0; block < 70; block += 32)
    for (std::size_t tile = 0; tile < 150; tile += 64)
      for (std::size_t r = block; r < std::min<std::size_t>(block + 32, 70); ++r)
        for (std::size_t c = tile; c < std::min<std::size_t>(tile + 64, 150); ++c)
          if (mask(r, c)) CHECK(packed.values()[k++] == weight(r, c));
  CHECK(k == packed.kept());
  for (std::size_t r = 0; r < 70; ++r) {
    std::vector<std::size_t> columns;
    packed.for_each_kept(r, [&](std::size_t c, std::size_t at) {
      CHECK(packed.values()[at] == weight(r, c));
      columns.push_back(c);
    });
    CHECK(std::ranges::is_sorted(columns));
    CHECK(columns.size() == mask.kept_in_row(r));
  }
}

TEST_CASE("pack: a kept zero stays kept") {
  const std::vector<float> weight{0.0f, 1.0f, -0.0f, 2.0f};
  losa::Mask mask = losa::Mask::full(1, 4);
  mask.set(0, 3, false);
  auto packed = losa::pack(losa::view(weight.data(), 1, 4), mask);
  CHECK(packed.kept() == 3);
  packed.values()[0] = 5;
  CHECK(test::dense_of(packed) == std::vector<float>{5, 1, 0, 0});
}

TEST_CASE("pack: the same for any number of threads") {
  const Matrix weight(400, 70, 1);
  const losa::Mask mask = test::random_mask(400, 70, 0.5, 1);
  const auto serial = losa::pack(weight.view(), mask);
  for (std::size_t threads : test::Sizes{2, 3}) {
    losa::ThreadPool pool(threads);
    const auto parallel = losa::pack(weight.view(), mask, pool);
    CHECK(test::bits(parallel.values()) == test::bits(serial.values()));
  }
}

TEST_CASE("pack_as: 16-bit values are the nearest ones, and cost half") {
  const Matrix weight(64, 640, 5);
  const losa::Mask mask = test::random_mask(64, 640, 0.7, 5);
  const auto full = losa::pack(weight.view(), mask);
  const auto half = losa::pack_as<losa::bf16>(weight.view(), mask);
  const auto small = losa::pack_as<losa::f16>(weight.view(), mask);
  for (std::size_t k = 0; k < full.kept(); ++k) {
    CHECK(half.values()[k] == losa::narrow<losa::bf16>(full.values()[k]));
    CHECK(small.values()[k] == losa::narrow<losa::f16>(full.values()[k]));
  }
  CHECK(full.bytes() - half.bytes() == 2 * full.kept());
  CHECK(half.same_structure(full));
  // 64 rows × 640 columns are 2 × 10 whole tiles, of 8 bytes and one more.
  CHECK(full.bytes() == 4 * full.kept() + full.size() / 8 + 8 * (20 + 1));
  const auto wide = losa::pack_as<double>(weight.view(), mask);
  CHECK(test::dense_of(wide) == test::dense_of(full));
}

TEST_CASE("like and copies: values are their own, the structure is shared") {
  auto packed = test::random_packed<float>(10, 20, 0.5, 1);
  PackedMatrix<float> same = packed.like();
  CHECK(&same.structure() == &packed.structure());
  CHECK(std::ranges::all_of(same.values(), [](float v) { return v == 0.0f; }));
  PackedMatrix<float> copy = packed;
  copy.values()[0] += 1;
  CHECK(copy.values()[0] != packed.values()[0]);
  const PackedMatrix<float> moved = std::move(copy);
  CHECK(moved.kept() == packed.kept());
  packed = moved;
  CHECK(test::bits(std::span<const float>(packed.values())) == test::bits(moved.values()));
  const PackedMatrix<float> empty;
  CHECK(empty.rows() == 0);
  CHECK(empty.kept() == 0);
  CHECK_FALSE(empty.same_structure(packed));
}

TEST_CASE("shares: whole row blocks, in order, all of them, of about equal kept count") {
  losa::Mask mask(1000, 64);
  for (std::size_t r = 0; r < 1000; ++r)
    for (std::size_t c = 0; c < 64; ++c) mask.set(r, c, r < 200 ? c < 60 : c == 3);
  const PackedMatrix<float> packed(mask);
  const auto& structure = packed.structure();
  CHECK(structure.row_blocks == 32);
  for (std::size_t n : test::Sizes{1, 2, 3, 5, 16, 32, 40}) {
    CAPTURE(n);
    std::size_t next = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const losa::detail::BlockRange share =
          losa::detail::share_of(structure.offsets.data(), structure.tiles, structure.row_blocks, i, n);
      CHECK(share.first == next);
      CHECK(share.last >= share.first);
      next = share.last;
      CHECK(structure.offsets[share.last] - structure.offsets[share.first] <= packed.kept() / n + 32 * 64);  // a block
    }
    CHECK(next == 32);
  }
  std::size_t last = 0;
  for (std::size_t i = 0; i < 4; ++i) last = losa::detail::share_of(structure.offsets.data(), 0, 32, i, 4).last;
  CHECK(last == 32);  // nothing kept
}

TEST_CASE("shares: as many as threads, and more where tasks cost nothing of their own") {
  using losa::detail::few_shares;
  using losa::detail::many_shares;
  CHECK(many_shares(0, 2) == 1);
  CHECK(many_shares(5, 2) == 5);
  CHECK(many_shares(128, 1) == 16);
  CHECK(many_shares(128, 3) == 18);
  CHECK(many_shares(1000, 2) == 126);
  CHECK(few_shares(0, 2, 32, 16) == 1);
  CHECK(few_shares(1, 2, 32, 16) == 1);
  CHECK(few_shares(128, 1, 32, 1000) == 1);
  CHECK(few_shares(128, 2, 32, 1000) == 2);
  CHECK(few_shares(128, 2, 32, 16) == 6);
  CHECK(few_shares(100000, 2, 32, 16) == 16);
}

TEST_CASE("from_parts and from_bytes give back what was packed") {
  for (std::size_t cols : test::Sizes{1, 7, 8, 9, 64, 65, 100, 130}) {
    const std::size_t rows = 37;
    const auto packed = test::random_packed<losa::bf16>(rows, cols, 0.4, cols);
    std::vector<losa::bf16> row_major;
    std::vector<std::byte> mask_bytes(rows * ((cols + 7) / 8));
    for (std::size_t r = 0; r < rows; ++r)
      packed.for_each_kept(r, [&](std::size_t c, std::size_t k) {
        row_major.push_back(packed.values()[k]);
        mask_bytes[r * ((cols + 7) / 8) + c / 8] |= std::byte{static_cast<unsigned char>(1u << c % 8)};
      });
    const losa::Mask mask = packed.mask();
    const auto again = PackedMatrix<losa::bf16>::from_parts(rows, cols, mask.words(), row_major);
    CHECK(again.mask() == mask);
    CHECK(test::bits(again.values()) == test::bits(packed.values()));
    // Values at an odd address, as files may have them.
    std::vector<std::byte> shifted(1 + packed.kept() * 2);
    std::memcpy(shifted.data() + 1, row_major.data(), packed.kept() * 2);
    const auto read = PackedMatrix<losa::bf16>::from_bytes(rows, cols, mask_bytes, std::span(shifted).subspan(1));
    CHECK(read.mask() == packed.mask());
    CHECK(test::bits(read.values()) == test::bits(packed.values()));
  }
}

TEST_CASE("from_parts and from_bytes refuse parts that do not fit together") {
  using P = PackedMatrix<float>;
  const std::vector<std::uint64_t> words{0b1011, 0b0001};
  const std::vector<float> values{1, 2, 3, 4};
  CHECK(P::from_parts(2, 4, words, values).kept() == 4);
  CHECK_THROWS_WITH_AS(P::from_parts(2, 4, words, std::span(values).first(3)),
                       "PackedMatrix: the mask keeps 4 weights, got 3 values", losa::ShapeError);
  CHECK_THROWS_WITH_AS(P::from_parts(2, 3, words, values),
                       "PackedMatrix: mask row 0 keeps a weight past the last column, 3", losa::RangeError);
  CHECK_THROWS_WITH_AS(P::from_parts(3, 4, words, values), "PackedMatrix: 3 × 4 needs 3 mask words, got 2",
                       losa::ShapeError);
  CHECK_THROWS_AS(P::from_parts(2, 65, words, values), losa::ShapeError);
  CHECK_THROWS_AS(P::from_parts(0, 4, words, values), losa::ShapeError);
  // Sizes whose products wrap around 2⁶⁴ to what was given.
  const std::size_t huge = std::size_t{1} << 63;
  CHECK_THROWS_AS(P::from_parts(huge, 2, words, values), losa::RangeError);
  CHECK_THROWS_AS(P::from_parts(2, std::numeric_limits<std::size_t>::max(), words, values), losa::RangeError);
  CHECK_THROWS_AS(P::from_parts(std::numeric_limits<std::size_t>::max(), 64, words, values), losa::RangeError);
  CHECK_THROWS_AS(P::from_parts(huge + 2, 4, words, values), losa::RangeError);
  CHECK_THROWS_WITH_AS(P::from_parts(huge, 0, {}, {}), "PackedMatrix: 9223372036854775808 rows have no columns",
                       losa::RangeError);
  CHECK(P::from_parts(0, 0, {}, {}).kept() == 0);
  CHECK(P::from_parts(0, std::size_t{1} << 50, {}, {}).kept() == 0);  // and no memory for columns without rows
  const std::vector<std::byte> bytes(8);
  CHECK_THROWS_WITH_AS(P::from_bytes(2, 9, bytes, {}), "PackedMatrix: 2 × 9 needs 4 mask bytes, got 8",
                       losa::ShapeError);
  CHECK_THROWS_WITH_AS(P::from_bytes(2, 32, bytes, std::span(bytes).first(3)),
                       "PackedMatrix: 3 bytes of values are no multiple of 4", losa::ShapeError);
  const std::vector<std::byte> high{std::byte{0x80}};
  CHECK_THROWS_AS(P::from_bytes(1, 7, high, std::span(bytes).first(4)), losa::RangeError);
}

TEST_CASE("pack and to_dense: shape errors") {
  const Matrix weight(3, 4, 1);
  CHECK_THROWS_WITH_AS(losa::pack(weight.view(), losa::Mask(3, 5)), "pack: weight must be 3 × 5, got 3 × 4",
                       losa::ShapeError);
  const PackedMatrix<float> packed(losa::Mask(3, 5));
  Matrix dense(3, 4, 1);
  CHECK_THROWS_WITH_AS(packed.to_dense(dense.view()), "to_dense: dense must be 3 × 5, got 3 × 4", losa::ShapeError);
}
