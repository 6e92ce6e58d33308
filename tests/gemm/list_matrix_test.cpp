#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
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
  Matrix x(tokens, cols, i + 1, i % 3, i % 5);
  if (i % 4 == 2) x.view()(i % tokens, i % cols) = 1e4f;  // an outlier, which must not cost the others their precision
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
        double weighted = 0;  // Σ |w| · the largest activation of the range
        for (std::size_t first = 0; first < cols; first += 256) {
          double weights = 0;
          double largest = 0;
          for (std::size_t c = first; c < std::min(first + 256, cols); ++c) {
            const double term = static_cast<double>(dense[r * cols + c]) * static_cast<double>(x(t, c));
            sum += term;
            magnitude += std::abs(term);
            weights += std::abs(static_cast<double>(dense[r * cols + c]));
            largest = std::max(largest, std::abs(static_cast<double>(x(t, c))));
          }
          weighted += weights * largest;
        }
        double limit = test::bound(cols, magnitude);
        if (std::same_as<T, Int8> && tokens <= 4) limit += test::activation_rounding<Int8>(*backend, tokens, weighted);
        wrong += !(std::abs(static_cast<double>(y(t, r)) - sum) <= limit);
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

TEST_CASE("lists: int8 at every number of tokens and sparsity, rows of one range and of several") {
  std::uint64_t i = 5000;
  for (std::size_t tokens : test::awkward_tokens())
    for (double sparsity : test::sparsities())
      for (std::size_t cols : test::Sizes{150, 530}) {
        CAPTURE(tokens);
        CAPTURE(sparsity);
        CAPTURE(cols);
        check_list<Int8>(45, cols, tokens, sparsity, i++);
      }
}

TEST_CASE("lists: sums of the largest integers do not overflow") {
  const std::size_t cols = 4 * 256 + 69;
  losa::Mask mask = losa::Mask::full(2, cols);
  for (std::size_t c = 0; c < cols; c += 5) mask.set(1, c, false);
  const std::vector<float> weight(2 * cols, 127);
  const ListMatrix<Int8> list(losa::pack(losa::view(weight.data(), 2, cols), mask));
  for (const losa::Backend* backend : losa::backends())
    for (std::size_t tokens : test::Sizes{1, 2, 4, 5})
      for (float activation : {-2.0f, 2.0f}) {
        const std::vector<float> x(tokens * cols, activation);
        std::vector<float> y(tokens * 2);
        losa::spmm(list, losa::view(x.data(), tokens, cols), losa::view(y.data(), tokens, 2), {}, {.backend = backend});
        for (std::size_t t = 0; t < tokens; ++t)
          for (std::size_t r = 0; r < 2; ++r)
            CHECK(y[t * 2 + r] ==
                  doctest::Approx(activation * 127 * static_cast<float>(mask.kept_in_row(r))).epsilon(1e-5));
      }
}

TEST_CASE("lists: int8 with activations too large, too small or not finite for integers") {
  const auto packed = test::random_packed<float>(70, 300, 0.6, 9);
  const ListMatrix<Int8> list(packed);
  const std::vector<float> dense = test::dense_of(list);
  for (const losa::Backend* backend : losa::backends())
    for (const float odd :
         {1e36f, 1e-36f, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
      CAPTURE(backend->name);
      CAPTURE(odd);
      Matrix x(2, 300, 1);
      for (std::size_t c = 0; c < 300; ++c) x.view()(1, c) = c % 256 == 7 ? odd : 0;
      Matrix y(2, 70, 2);
      losa::spmm(list, x.view(), y.view(), {}, {.backend = backend});
      for (std::size_t r = 0; r < 70; ++r) {
        double ordinary = 0;
        double magnitude = 0;
        for (std::size_t c = 0; c < 300; ++c) {
          const double term = static_cast<double>(dense[r * 300 + c]) * static_cast<double>(x(0, c));
          ordinary += term;
          magnitude += std::abs(term);
        }
        CHECK(std::abs(static_cast<double>(y(0, r)) - ordinary) <= test::bound(300, magnitude));
        const bool touched = dense[r * 300 + 7] != 0 || dense[r * 300 + 263] != 0;
        if (!std::isfinite(odd)) {
          if (touched) CHECK_FALSE(std::isfinite(y(1, r)));
        } else {
          const float sum = dense[r * 300 + 7] * odd + dense[r * 300 + 263] * odd;
          CHECK(y(1, r) == doctest::Approx(sum).epsilon(1e-5));
        }
      }
    }
}

TEST_CASE("lists: a full row of a range has 256 columns, and empty ones cost two counts") {
  check_list<float>(33, 600, 9, 0.0, 1);
  losa::Mask mask(40, 520);
  for (std::size_t c = 0; c < 520; ++c) mask.set(17, c, true);
  const Matrix weight(40, 520, 1);
  const ListMatrix<float> list(losa::pack(weight.view(), mask));
  CHECK(list.kept() == 520);
  // 520 values and columns; 2 blocks × 3 ranges × 32 × 2 counts; 6 offsets; shares of 8 bytes.
  const std::size_t shares = losa::PackedMatrix<float>(mask).structure().shares.size();
  CHECK(list.bytes() == 5 * 520 + 2 * 3 * 32 * 2 + 8 * 6 + 8 * shares);
}

TEST_CASE("lists: the same bits for any number of threads, copies and moves") {
  const ListMatrix<losa::bf16> list(test::random_packed<float>(333, 900, 0.6, 3));
  const ListMatrix<losa::bf16> copy = list;
  for (const losa::Backend* backend : losa::backends())
    for (std::size_t tokens : test::Sizes{1, 8, 20, 70, 200}) {
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

TEST_CASE("lists: wide panels over many row blocks in turn, the last of them fewer") {
  for (const std::pair<std::size_t, std::size_t>& shape :
       {std::pair<std::size_t, std::size_t>{1203, 300}, {771, 513}}) {
    const std::size_t rows = shape.first;
    const std::size_t cols = shape.second;
    losa::Mask mask = test::random_mask(rows, cols, 0.5, 4);
    for (std::size_t r = 0; r < rows / 2; ++r)  // so that a share of equal work has many of these
      for (std::size_t c = 0; c < cols; ++c) mask.set(r, c, (r + c) % 97 == 0);
    const auto packed = losa::pack(Matrix(rows, cols, 5).view(), mask);
    const auto& shares = packed.structure().shares;
    std::size_t most = 0;
    for (std::size_t i = 1; i < shares.size(); ++i) most = std::max(most, shares[i] - shares[i - 1]);
    CHECK(most > 8);
    CHECK(most % 8 != 0);
    losa::ThreadPool pool(2);
    const auto check = [&](const auto& list) {
      for (std::size_t tokens : test::Sizes{17, 70, 140}) {
        const Matrix x(tokens, cols, 6, 3);
        const Matrix bias(1, rows, 7);
        const Matrix before(tokens, rows, 8, 5);
        const auto product = [&](const losa::Backend* backend, losa::ExecutorRef executor) {
          Matrix y = before;
          losa::spmm(list, x.view(), y.view(), executor,
                     {.bias = bias.view().row(0), .accumulate = true, .backend = backend});
          CHECK(y.gaps_intact());
          return y;
        };
        const Matrix expected = product(&losa::find_backend("reference"), {});
        for (const losa::Backend* backend : losa::backends()) {
          CAPTURE(backend->name);
          CAPTURE(tokens);
          const Matrix y = product(backend, {});
          float worst = 0;
          for (std::size_t t = 0; t < tokens; ++t)
            for (std::size_t r = 0; r < rows; ++r) worst = std::max(worst, std::abs(y(t, r) - expected(t, r)));
          CHECK(worst < 1e-3f);  // sums of 150 to 260 terms of size 1
          CHECK(test::bits_of(product(backend, pool)) == test::bits_of(y));
        }
      }
    };
    check(ListMatrix<float>(packed));
    check(ListMatrix<losa::bf16>(packed));
    check(ListMatrix<Int8>(packed));
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
          for (std::size_t i = 0; i < 2 * layout.ranges * 32 * 2; ++i) total += 4 * std::size_t{layout.counts[i]};
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
