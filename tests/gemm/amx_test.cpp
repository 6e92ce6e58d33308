#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "backends.hpp"
#include "problem.hpp"

#include <losa/core/thread_pool.hpp>
#include <losa/gemm.hpp>
#include <losa/gemm/shares.hpp>

#if defined(LOSA_AVX512)

namespace amx = losa::detail::amx;
using test::AmxModel;
using test::Matrix;

namespace {

bool skipped() {
  if (test::amx_model().supported()) return false;
  MESSAGE("skipped: this machine lacks AVX-512 with VBMI2 and BF16, which surround the tiles");
  return true;
}

struct Floats {
  alignas(64) float of[16][16];
};
struct Pairs {  // A: (row, column of 32); B: (pair of rows, column, which)
  alignas(64) std::uint16_t of[16][32];
};
struct Fours {
  alignas(64) std::int8_t of[16][64];
};

float flushed(float v) {  // by its bits: neither flags nor -ffast-math matter
  const auto bits = std::bit_cast<std::uint32_t>(v);
  return (bits & 0x7f800000u) == 0 ? std::bit_cast<float>(bits & 0x80000000u) : v;
}
float widened(std::uint16_t bits) { return flushed(std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16)); }

/// The definition, one number at a time.
void multiply_bf16(Floats& c, const Pairs& a, const Pairs& b) {
  for (std::size_t m = 0; m < 16; ++m)
    for (std::size_t n = 0; n < 16; ++n) {
      float sums[2] = {0, 0};
      for (std::size_t k = 0; k < 16; ++k)
        for (std::size_t i = 0; i < 2; ++i)
          sums[i] = flushed(std::fma(widened(a.of[m][2 * k + i]), widened(b.of[k][2 * n + i]), sums[i]));
      c.of[m][n] = flushed(flushed(c.of[m][n]) + flushed(sums[0] + sums[1]));
    }
}

/// The product on tiles of type T: `rounds` of C += A · B.
template <class T, class C, class Operand>
C on_tiles(const C& from, const Operand& a, const Operand& b, int rounds) {
  C c = from;
  T tiles;
  tiles.template load<2>(&c);
  tiles.template load<5>(&a);
  tiles.template load<7>(&b);
  for (int i = 0; i < rounds; ++i) {
    if constexpr (std::is_same_v<Operand, Pairs>)
      tiles.template multiply_bf16<2, 5, 7>();
    else
      tiles.template multiply_int8<2, 5, 7>();
  }
  tiles.template store<2>(&c);
  return c;
}

template <class T>
void check_bf16(std::uint64_t seed, unsigned exponents) {
  const losa::Random random{.seed = seed};
  Pairs a, b;
  Floats c;
  for (std::size_t i = 0; i < 512; ++i) {
    // Exponents around 1, or around the least.
    const auto bits = [&](std::uint64_t at) {
      const std::uint64_t r = random.below(1u << 16, at);
      const std::uint64_t exponent = (r >> 8) % 8 + exponents;
      return static_cast<std::uint16_t>((r & 0x807f) | exponent << 7);
    };
    a.of[i / 32][i % 32] = bits(i);
    b.of[i / 32][i % 32] = bits(i + 1000);
  }
  for (std::size_t i = 0; i < 256; ++i)
    c.of[i / 16][i % 16] = std::ldexp(test::number(seed, i), exponents < 100 ? -126 : 0);
  Floats expected = c;
  for (int i = 0; i < 3; ++i) multiply_bf16(expected, a, b);
  const Floats got = on_tiles<T>(c, a, b, 3);
  CHECK(std::memcmp(&got, &expected, sizeof got) == 0);
}

template <class T>
void check_int8(std::uint64_t seed) {
  const losa::Random random{.seed = seed};
  Fours a, b;
  struct Integers {
    alignas(64) std::int32_t of[16][16];
  } c;
  for (std::size_t i = 0; i < 1024; ++i) {
    a.of[i / 64][i % 64] = static_cast<std::int8_t>(static_cast<int>(random.below(256, i)) - 128);
    b.of[i / 64][i % 64] = static_cast<std::int8_t>(static_cast<int>(random.below(256, i + 1024)) - 128);
  }
  for (std::size_t i = 0; i < 256; ++i)
    c.of[i / 16][i % 16] = static_cast<std::int32_t>(random.below(1u << 31, i + 3000));
  Integers expected = c;
  for (std::size_t m = 0; m < 16; ++m)
    for (std::size_t n = 0; n < 16; ++n) {
      std::int64_t sum = c.of[m][n];
      for (std::size_t k = 0; k < 64; ++k) sum += 2 * a.of[m][k] * b.of[k / 4][4 * n + k % 4];
      expected.of[m][n] = static_cast<std::int32_t>(static_cast<std::uint32_t>(sum));
    }
  const Integers got = on_tiles<T>(c, a, b, 2);
  CHECK(std::memcmp(&got, &expected, sizeof got) == 0);
}

template <class T>
void check_zero() {
  Floats c;
  std::memset(&c, 0x55, sizeof c);
  T tiles;
  tiles.template load<3>(&c);
  tiles.template zero<3>();
  tiles.template store<3>(&c);
  for (const auto& row : c.of)
    for (float v : row) CHECK(std::bit_cast<std::uint32_t>(v) == 0);
}

template <class T>
void check_instructions() {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    check_bf16<T>(seed, 124);
    check_bf16<T>(seed, 0);   // denormal operands
    check_bf16<T>(seed, 60);  // denormal products and sums
    check_int8<T>(seed);
  }
  check_zero<T>();
}

}  // namespace

TEST_CASE("amx: the model's products are those of the definition, number by number; so are the processor's") {
  if (skipped()) return;
  check_instructions<AmxModel>();
  if (amx::Target::supported()) check_instructions<amx::Tiles>();
  CHECK(AmxModel::faults == 0);
}

TEST_CASE("amx: the model does not do what an instruction would refuse") {
  if (skipped()) return;
  const auto faults = [](auto&& f) {
    const int before = AmxModel::faults;
    f();
    return AmxModel::faults.exchange(before) - before;
  };
  using Config = amx::TileConfig;
  Config config = amx::whole_tiles;
  CHECK(faults([&] { AmxModel tiles(config); }) == 0);
  const auto refused = [&](auto&& change) {
    config = amx::whole_tiles;
    change();
    return faults([&] { AmxModel tiles(config); }) == 1;
  };
  CHECK(refused([&] { config.palette = 2; }));
  CHECK(refused([&] { config.reserved[3] = 1; }));
  CHECK(refused([&] { config.rows[7] = 17; }));
  CHECK(refused([&] { config.row_bytes[0] = 65; }));
  CHECK(refused([&] { config.rows[0] = 0; }));
  CHECK(refused([&] { config.rows[8] = 16; }));
  CHECK(faults([&] { AmxModel tiles, more; }) == 1);
  config = amx::whole_tiles;
  config.rows[4] = 0;
  config.row_bytes[4] = 0;
  CHECK(faults([&] { AmxModel(config).zero<4>(); }) == 1);
  config = amx::whole_tiles;
  config.rows[1] = 8;
  CHECK(faults([&] { AmxModel(config).multiply_int8<0, 1, 2>(); }) == 1);
  CHECK(faults([&] { AmxModel(config).multiply_int8<3, 4, 1>(); }) == 1);
}

TEST_CASE("amx: the same bits for every number of threads and in whatever group of tokens and matrix a sum is") {
  if (skipped()) return;
  const losa::Backend& model = test::amx_model();
  const auto check = [&](const auto& matrix, const auto& below) {
    const Matrix x(530, 1100, 2, 3, 1);
    Matrix all(530, 300, 3);
    losa::ThreadPool pool(3);
    losa::spmm(matrix, x.view(), all.view(), pool, {.backend = &model});
    for (std::size_t tokens : test::Sizes{9, 33, 270}) {
      CAPTURE(tokens);
      Matrix y(tokens, 300, 4, 5);
      const losa::MatrixView<const float> last{x.view().data + (530 - tokens) * x.view().stride, tokens, 1100,
                                               x.view().stride};
      losa::spmm(matrix, last, y.view(), {}, {.backend = &model});
      std::size_t wrong = 0;
      for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t r = 0; r < 300; ++r) wrong += y(t, r) != all(530 - tokens + t, r);
      CHECK(wrong == 0);
      Matrix few(tokens, 1, 5);
      losa::spmm(below, last, few.view(), {}, {.backend = &model});
      for (std::size_t t = 0; t < tokens; ++t) CHECK(few(t, 0) == y(t, 0));
    }
  };
  const Matrix weight(300, 1100, 1);
  const losa::Mask mask = test::random_mask(300, 1100, 0.7, 1);
  losa::Mask first(1, 1100);
  for (std::size_t c = 0; c < 1100; ++c) first.set(0, c, mask(0, c));
  const losa::MatrixView<const float> row{weight.view().data, 1, 1100, weight.view().stride};
  check(losa::pack_as<losa::bf16>(weight.view(), mask), losa::pack_as<losa::bf16>(row, first));
  check(losa::quantize<losa::Int8>(losa::pack(weight.view(), mask)),
        losa::quantize<losa::Int8>(losa::pack(row, first)));
  CHECK(AmxModel::faults == 0);
}

TEST_CASE("amx: exact on integers, for a share of many row blocks, several ranges of columns and groups of tokens") {
  if (skipped()) return;
  constexpr std::size_t rows = 1100, cols = 700, tokens = 300;
  const losa::Random random{.seed = 5};
  const auto integer = [&](std::uint64_t i) { return static_cast<float>(random.below(255, i)) - 127; };
  losa::Mask mask(rows, cols);
  std::vector<float> weight(rows * cols), x(tokens * cols);
  for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = integer(i);
  for (std::size_t r = 0; r < rows; ++r) {  // nearly all weights in the first block; a scale of 1 in each row
    for (std::size_t c = 0; c < cols; ++c) mask.set(r, c, r < 32 || c == r % cols);
    weight[r * cols + r % cols] = r % 2 == 0 ? 127.0f : -127.0f;
  }
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = i % cols % 128 == 0 ? 127.0f : integer(i + weight.size());
  std::vector<float> expected(tokens * rows);  // sums below 2²⁴
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < cols; ++c)
        if (mask(r, c)) expected[t * rows + r] += weight[r * cols + c] * x[t * cols + c];
  const auto packed = losa::pack(losa::view(weight.data(), rows, cols), mask);
  const losa::PackedLayout layout = packed.layout();
  const std::size_t shares = losa::detail::many_shares(layout.row_blocks, 1);
  std::size_t most = 0;
  for (std::size_t i = 0; i < shares; ++i)
    most = std::max(most, losa::detail::share_of(layout.offsets, layout.tiles, layout.row_blocks, i, shares).size());
  CHECK(most > 2 * amx::most_blocks);
  const auto check = [&](const auto& matrix) {
    std::vector<float> y(tokens * rows);
    losa::spmm(matrix, losa::view(std::as_const(x).data(), tokens, cols), losa::view(y.data(), tokens, rows), {},
               {.backend = &test::amx_model()});
    CHECK(y == expected);
  };
  check(losa::pack_as<losa::bf16>(losa::view(weight.data(), rows, cols), mask));
  check(losa::quantize<losa::Int8>(packed));
  CHECK(AmxModel::faults == 0);
}

TEST_CASE("amx: up to 8 tokens and activations that do not fit integers take the products of avx512_bf16") {
  if (skipped()) return;
  const auto halves = test::random_packed<losa::bf16>(70, 200, 0.6, 1);
  const auto bytes = losa::quantize<losa::Int8>(test::random_packed<float>(70, 200, 0.6, 1));
  const losa::Backend& other = losa::find_backend("avx512_bf16");
  const auto same = [&](const auto& matrix, const Matrix& x) {
    Matrix y(x.view().rows, 70, 2);
    Matrix expected = y;
    losa::spmm(matrix, x.view(), y.view(), {}, {.accumulate = true, .backend = &test::amx_model()});
    losa::spmm(matrix, x.view(), expected.view(), {}, {.accumulate = true, .backend = &other});
    return test::bits_of(y) == test::bits_of(expected);
  };
  for (std::size_t tokens = 1; tokens <= 8; ++tokens) {
    CHECK(same(halves, Matrix(tokens, 200, 3)));
    CHECK(same(bytes, Matrix(tokens, 200, 3)));
  }
  Matrix x(40, 200, 3);
  CHECK_FALSE(same(halves, x));
  CHECK_FALSE(same(bytes, x));
  x.view()(33, 199) = std::numeric_limits<float>::infinity();
  CHECK(same(bytes, x));
}

TEST_CASE("amx: denormal activations, weights and sums of bf16 count as 0") {
  if (skipped()) return;
  const losa::Mask mask = losa::Mask::full(3, 2);
  const std::vector<float> weight{1, 0, 1e-39f, 1, 1e-20f, 0};
  const auto packed = losa::pack_as<losa::bf16>(losa::view(weight.data(), 3, 2), mask);
  std::vector<float> x(9 * 2, 1.0f);
  x[0] = 1e-39f;
  x[2] = 1e-20f;
  std::vector<float> y(9 * 3);
  losa::spmm(packed, losa::view(x.data(), 9, 2), losa::view(y.data(), 9, 3), {}, {.backend = &test::amx_model()});
  CHECK(y[0] == 0.0f);          // 1e-39 · 1
  CHECK(y[2 * 3 + 1] == 1.0f);  // 1 · 1e-39 + 1 · 1
  CHECK(y[1 * 3 + 2] == 0.0f);  // 1e-20 · 1e-20
  CHECK(y[2 * 3 + 2] == doctest::Approx(1e-20f).epsilon(0.01));
}

#endif
