#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "problem.hpp"

#include <losa/core/thread_pool.hpp>
#include <losa/gemm.hpp>

using losa::Int8;
using losa::ListMatrix;
using test::Matrix;

namespace {

/// What the format should hold: the packed weights rounded to T.
template <class T>
std::vector<float> rounded(const losa::PackedMatrix<float>& packed) {
  std::vector<float> dense = test::dense_of(packed);
  if constexpr (std::same_as<T, Int8>) {
    dense = test::dense_of(losa::quantize<Int8>(packed));
  } else {
    for (float& weight : dense) weight = losa::widen(losa::narrow<T>(weight));
  }
  return dense;
}

template <class T>
void check_list(std::size_t rows, std::size_t cols, std::size_t tokens, double sparsity, std::uint64_t i) {
  const auto packed = test::random_packed<float>(rows, cols, sparsity, i);
  const ListMatrix<T> list(packed);
  const std::vector<float> dense = test::dense_of(list);
  CHECK(dense == rounded<T>(packed));
  const Matrix x(tokens, cols, i + 1, i % 3, i % 5);
  const Matrix before(tokens, rows, i + 2, i % 4, i % 7);
  const Matrix bias(1, rows, i + 3, 0, i % 2);
  const bool accumulate = i % 2 == 1;
  const bool biased = i % 3 == 1;
  for (const losa::Backend* backend : losa::backends()) {
    CAPTURE(backend->name);
    Matrix y = before;
    losa::SpmmOptions options{.accumulate = accumulate, .backend = backend};
    if (biased) options.bias = bias.view().row(0);
    losa::spmm(list, x.view(), y.view(), {}, options);
    std::size_t wrong = 0;
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t r = 0; r < rows; ++r) {
        double sum =
            (biased ? static_cast<double>(bias(0, r)) : 0) + (accumulate ? static_cast<double>(before(t, r)) : 0);
        double magnitude = std::abs(sum) + (biased ? std::abs(static_cast<double>(bias(0, r))) : 0);
        for (std::size_t c = 0; c < cols; ++c) {
          const double term = static_cast<double>(dense[r * cols + c]) * static_cast<double>(x(t, c));
          sum += term;
          magnitude += std::abs(term);
        }
        wrong += !(std::abs(static_cast<double>(y(t, r)) - sum) <= test::bound(cols, magnitude));
      }
    CHECK(wrong == 0);
    CHECK(y.gaps_intact());
  }
}

}  // namespace

TEST_CASE("lists: every backend and type agrees with double sums over awkward shapes") {
  test::sweep([](std::size_t rows, std::size_t cols, std::size_t tokens, double sparsity, std::uint64_t i) {
    CAPTURE(rows);
    CAPTURE(cols);
    CAPTURE(tokens);
    CAPTURE(sparsity);
    check_list<float>(rows, cols, tokens, sparsity, i);
    if (i % 3 == 0) check_list<losa::bf16>(rows, cols, tokens, sparsity, i + 1000);
    if (i % 3 == 1) check_list<losa::f16>(rows, cols, tokens, sparsity, i + 2000);
    if (i % 3 == 2) check_list<Int8>(rows, cols, tokens, sparsity, i + 3000);
  });
}

TEST_CASE("lists: a full row of a range has 256 columns, and empty ones cost a count") {
  check_list<float>(33, 600, 9, 0.0, 1);
  losa::Mask mask(40, 520);
  for (std::size_t c = 0; c < 520; ++c) mask.set(17, c, true);
  const Matrix weight(40, 520, 1);
  const ListMatrix<float> list(losa::pack(weight.view(), mask));
  CHECK(list.kept() == 520);
  // 520 values and columns; 2 blocks × 3 ranges × 32 counts; 6 offsets; shares of 8 bytes.
  const std::size_t shares = losa::PackedMatrix<float>(mask).structure().shares.size();
  CHECK(list.bytes() == 5 * 520 + 2 * 3 * 32 + 8 * 6 + 8 * shares);
}

TEST_CASE("lists: the same bits for any number of threads, copies and moves") {
  const ListMatrix<losa::bf16> list(test::random_packed<float>(333, 900, 0.6, 3));
  const ListMatrix<losa::bf16> copy = list;
  for (const losa::Backend* backend : losa::backends())
    for (std::size_t tokens : test::Sizes{1, 8, 20}) {
      const Matrix x(tokens, 900, 1);
      Matrix expected(tokens, 333, 2);
      losa::spmm(list, x.view(), expected.view(), {}, {.backend = backend});
      for (std::size_t threads : test::Sizes{2, 3}) {
        losa::ThreadPool pool(threads);
        Matrix y(tokens, 333, 2);
        losa::spmm(copy, x.view(), y.view(), pool, {.backend = backend});
        CHECK(test::bits_of(y) == test::bits_of(expected));
      }
    }
}

TEST_CASE("lists: kernels read at most 64 bytes past the last value and column") {
  for (const losa::Backend* backend : losa::backends())
    for (std::size_t cols : test::Sizes{1, 8, 255, 300})
      for (std::size_t tokens : test::Sizes{1, 8, 16, 70}) {
        const auto packed = test::random_packed<float>(37, cols, 0.3, cols);
        const auto check = [&](const auto& list, auto function) {
          using Value = std::remove_cvref_t<decltype(*list.weights().values)>;
          losa::ListLayout layout = list.layout();
          std::size_t total = 0;
          for (std::size_t i = 0; i < 2 * layout.ranges * 32; ++i) total += 4 * std::size_t{layout.counts[i]};
          test::Guarded<Value> values(total + 64 / sizeof(Value));
          test::Guarded<std::uint8_t> columns(total + 64);
          std::copy_n(list.weights().values, total, values.data());
          std::copy_n(layout.columns, total, columns.data());
          layout.columns = columns.data();
          const Matrix x(tokens, cols, 1);
          Matrix y(tokens, 37, 2);
          Matrix expected(tokens, 37, 2);
          losa::spmm(list, x.view(), expected.view(), {}, {.backend = backend});
          function(layout, {values.data(), list.weights().scales}, x.view(), y.view(), nullptr, false, {});
          CHECK(test::bits_of(y) == test::bits_of(expected));
        };
        check(ListMatrix<float>(packed), backend->list_f32);
        check(ListMatrix<losa::bf16>(packed), backend->list_bf16);
        check(ListMatrix<losa::f16>(packed), backend->list_f16);
        check(ListMatrix<Int8>(packed), backend->list_int8);
      }
}

TEST_CASE("lists: NaN and Inf reach the outputs whose kept weights touch them, and nothing else") {
  const auto packed = test::random_packed<float>(33, 130, 0.6, 9);
  const losa::Mask mask = packed.mask();
  const ListMatrix<float> list(packed);
  for (const losa::Backend* backend : losa::backends())
    for (std::size_t tokens : test::Sizes{1, 8, 70}) {
      Matrix x(tokens, 130, 10);
      x.view()(tokens - 1, 77) = std::numeric_limits<float>::quiet_NaN();
      Matrix y(tokens, 33, 11);
      losa::spmm(list, x.view(), y.view(), {}, {.backend = backend});
      for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t r = 0; r < 33; ++r) CHECK(std::isfinite(y(t, r)) != (t + 1 == tokens && mask(r, 77)));
    }
}

TEST_CASE("lists: errors name function, argument, expected and got") {
  auto packed = test::random_packed<float>(3, 5, 0.2, 1);
  const ListMatrix<float> list(packed);
  Matrix dense(3, 4, 1);
  CHECK_THROWS_WITH_AS(list.to_dense(dense.view()), "to_dense: dense must be 3 × 5, got 3 × 4", losa::ShapeError);
  Matrix y(2, 3, 1);
  CHECK_THROWS_WITH_AS(losa::spmm(list, Matrix(2, 6, 1).view(), y.view()), "spmm: x must have 5 columns, got 2 × 6",
                       losa::ShapeError);
  packed.values()[0] = std::numeric_limits<float>::infinity();
  CHECK_THROWS_AS(ListMatrix<Int8>{packed}, losa::NumericError);
  CHECK(ListMatrix<float>(losa::PackedMatrix<float>()).kept() == 0);
}
