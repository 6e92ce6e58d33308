#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "by_plan.hpp"
#include "problem.hpp"

#include <losa/core/thread_pool.hpp>
#include <losa/gemm.hpp>
#include <losa/gemm/shares.hpp>

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

/// The lists hold the columns of the mask in the order that list_layout.hpp says, and fillers after them.
template <class T>
void check_layout(const ListMatrix<T>& list, const losa::Mask& mask) {
  const losa::ListLayout layout = list.layout();
  std::size_t k = 0;
  std::size_t wrong = 0;
  for (std::size_t b = 0; b < (mask.rows() + 31) / 32; ++b)
    for (std::size_t range = 0; range < layout.ranges; ++range)
      for (std::size_t i = 0; i < 32; ++i) {
        const std::size_t tile = b * layout.ranges + range;
        const std::size_t r = b * 32 + i;
        std::vector<std::size_t> kept;
        for (std::size_t c = range * 256; r < mask.rows() && c < std::min((range + 1) * 256, mask.cols()); ++c)
          if (mask(r, c)) kept.push_back(c % 256);
        const std::uint8_t* const counts = layout.counts + (tile * 32 + i) * 2;
        const std::size_t n = (kept.size() + 3) / 4 * 4;
        REQUIRE(4 * std::size_t{counts[0]} + 4 * std::size_t{counts[1]} == n);
        if (i == 0) wrong += layout.offsets[tile] != k;
        std::size_t first = 0;  // fours that end in the first half; one that is filled up counts with the others
        for (std::size_t j = 0; j < n; ++j, ++k) {
          const std::size_t column = j < kept.size() ? kept[j] : kept.back();
          first += j % 4 == 3 && j < kept.size() && column < 128;
          wrong += layout.col_indices[k] != column;
          if (j >= kept.size()) wrong += list.weights().values[k] != typename ListMatrix<T>::Value{};
        }
        wrong += counts[0] != first;
      }
  CHECK(wrong == 0);
}

template <class T>
void check_list(const losa::PackedMatrix<float>& packed, std::size_t tokens, std::uint64_t i) {
  const std::size_t rows = packed.rows();
  const std::size_t cols = packed.cols();
  const ListMatrix<T> list(packed);
  check_layout(list, packed.mask());
  const std::vector<float> dense = test::dense_of(list);
  CHECK(dense == rounded<T>(packed));
  Matrix x(tokens, cols, i + 1, i % 3, i % 5);
  if (i % 4 == 2) x.view()(i % tokens, i % cols) = 1e4f;  // an outlier, which must not cost the others their precision
  const Matrix before(tokens, rows, i + 2, i % 4, i % 7);
  const Matrix bias(1, rows, i + 3, 0, i % 2);
  const bool accumulate = i % 2 == 1;
  const bool biased = i % 3 == 1;
  std::vector<double> columns(cols * tokens);  // of x
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t c = 0; c < cols; ++c) columns[c * tokens + t] = static_cast<double>(x(t, c));
  std::vector<double> exact(rows * tokens);
  std::vector<double> allowed(rows * tokens);
  for (std::size_t first = 0; first < cols; first += 256) {
    const std::size_t last = std::min(first + 256, cols);
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = first; c < last; ++c) {
        const auto weight = static_cast<double>(dense[r * cols + c]);
        if (weight == 0) continue;
        for (std::size_t t = 0; t < tokens; ++t) {
          const double term = weight * columns[c * tokens + t];
          exact[r * tokens + t] += term;
          allowed[r * tokens + t] += std::abs(term);
        }
      }
  }
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t t = 0; t < tokens; ++t) {
      const auto add = [&](float term) {
        exact[r * tokens + t] += static_cast<double>(term);
        allowed[r * tokens + t] += std::abs(static_cast<double>(term));
      };
      if (biased) add(bias(0, r));
      if (accumulate) add(before(t, r));
      allowed[r * tokens + t] = test::bound(packed.mask().kept_in_row(r), allowed[r * tokens + t]);
    }
  for (const losa::Backend* backend : losa::backends()) {
    CAPTURE(backend->name);
    Matrix y = before;
    losa::SpmmOptions options{.accumulate = accumulate, .backend = backend};
    if (biased) options.bias = bias.view().row(0);
    losa::spmm(list, x.view(), y.view(), {}, options);
    const std::vector<double> rounding =
        test::activation_rounding(test::rounding_of(list, tokens, backend), list, dense, x.view());
    std::size_t wrong = 0;
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t r = 0; r < rows; ++r)
        wrong += !(std::abs(static_cast<double>(y(t, r)) - exact[r * tokens + t]) <=
                   allowed[r * tokens + t] + rounding[r * tokens + t]);
    Matrix planned = before;
    test::by_plan(losa::plan(list, tokens, {.threads = test::plan_threads, .backend = backend}),
                  losa::Multiply{.x = x.view(), .y = planned.view(), .bias = options.bias, .accumulate = accumulate},
                  i);
    CHECK(test::bits_of(planned) == test::bits_of(y));
    CHECK(planned.gaps_intact());
    CHECK(wrong == 0);
    CHECK(y.gaps_intact());
  }
}

void check_types(const losa::PackedMatrix<float>& packed, std::size_t tokens, std::uint64_t i) {
  check_list<float>(packed, tokens, i);
  check_list<losa::bf16>(packed, tokens, i + 1000);
  check_list<losa::f16>(packed, tokens, i + 2000);
  check_list<Int8>(packed, tokens, i + 3000);
}

struct Pattern {
  const char* name;
  bool (*keeps)(std::size_t r, std::size_t c, std::size_t cols);
};
/// What random masks do not meet.
constexpr Pattern patterns[] = {
    {"nothing", [](std::size_t, std::size_t, std::size_t) { return false; }},
    {"everything", [](std::size_t, std::size_t, std::size_t) { return true; }},
    {"full and empty rows", [](std::size_t r, std::size_t, std::size_t) { return r % 3 == 1; }},
    {"full and empty blocks of rows", [](std::size_t r, std::size_t, std::size_t) { return r / 32 % 2 == 1; }},
    {"the last row", [](std::size_t r, std::size_t, std::size_t) { return r % 32 == 31 || r == 69; }},
    {"2:4", [](std::size_t r, std::size_t c, std::size_t) { return (r + c) % 4 < 2; }},
    {"3:8", [](std::size_t r, std::size_t c, std::size_t) { return (r + 3 * c) % 8 < 3; }},
    {"1:16", [](std::size_t r, std::size_t c, std::size_t) { return (r + c) % 16 == 0; }},
    {"one column", [](std::size_t, std::size_t c, std::size_t cols) { return c == cols / 2; }},
    {"the last column", [](std::size_t, std::size_t c, std::size_t cols) { return c + 1 == cols; }},
    {"first halves", [](std::size_t r, std::size_t c, std::size_t) { return c % 256 < 128 && test::number(r, c) < 0; }},
    {"second halves",
     [](std::size_t r, std::size_t c, std::size_t) { return c % 256 >= 128 && test::number(r, c) < 0; }},
    {"around the middle",  // fours of every kind there: up to 10 columns before it, up to 6 after
     [](std::size_t r, std::size_t c, std::size_t) { return c % 256 + r % 11 >= 128 && c % 256 < 128 + r % 7; }},
    {"the first range", [](std::size_t r, std::size_t c, std::size_t) { return c < 256 && test::number(r, c) < 0; }},
    {"the last range", [](std::size_t r, std::size_t c,
                          std::size_t cols) { return c / 256 == (cols - 1) / 256 && test::number(r, c) < 0; }},
    {"every other range", [](std::size_t r, std::size_t c, std::size_t) { return (r + c / 256) % 2 == 0; }},
};

/// n elements beside an inaccessible page, and after them bytes that must not matter.
template <class T>
class GuardedCopy {
 public:
  GuardedCopy(const T* from, std::size_t n, test::Side side, std::size_t padding = 0)
      : copy_(n + padding / sizeof(T), side) {
    std::memset(static_cast<void*>(copy_.data()), 0x55, copy_.span().size_bytes());
    std::copy_n(from, n, copy_.data());
  }
  const T* data() { return copy_.data(); }

 private:
  test::Guarded<T> copy_;
};

}  // namespace

TEST_CASE("lists: every backend and type agrees with double sums over awkward shapes") {
  test::sweep([](std::size_t rows, std::size_t cols, std::size_t tokens, double sparsity, std::uint64_t i) {
    CAPTURE(rows);
    CAPTURE(cols);
    CAPTURE(tokens);
    CAPTURE(sparsity);
    check_types(test::random_packed<float>(rows, cols, sparsity, i), tokens, i);
  });
}

TEST_CASE("lists: masks that are not random, in every type") {
  const std::uint64_t share = test::parse_share(std::getenv("LOSA_TEST_SHARE"));
  std::uint64_t i = 7000;
  for (const Pattern& pattern : patterns)
    for (std::size_t cols : test::Sizes{1, 130, 256, 600})
      for (std::size_t tokens : test::Sizes{1, 3, 4, 5, 8, 16, 17, 64, 70}) {
        if (!test::in_share(++i, share)) continue;
        CAPTURE(pattern.name);
        CAPTURE(cols);
        CAPTURE(tokens);
        const std::size_t rows = i % 2 == 0 ? 70 : 64;
        losa::Mask mask(rows, cols);
        for (std::size_t r = 0; r < rows; ++r)
          for (std::size_t c = 0; c < cols; ++c) mask.set(r, c, pattern.keeps(r, c, cols));
        check_types(losa::pack(Matrix(rows, cols, i).view(), mask), tokens, i);
      }
}

TEST_CASE("lists: int8 at every number of tokens and sparsity, rows of one range and of several") {
  std::uint64_t i = 5000;
  for (std::size_t tokens : test::awkward_tokens())
    for (double sparsity : test::sparsities())
      for (std::size_t cols : test::Sizes{150, 530}) {
        CAPTURE(tokens);
        CAPTURE(sparsity);
        CAPTURE(cols);
        check_list<Int8>(test::random_packed<float>(45, cols, sparsity, i), tokens, i);
        ++i;
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
  check_list<float>(test::random_packed<float>(33, 600, 0.0, 1), 9, 1);
  losa::Mask mask(40, 520);
  for (std::size_t c = 0; c < 520; ++c) mask.set(17, c, true);
  const Matrix weight(40, 520, 1);
  const ListMatrix<float> list(losa::pack(weight.view(), mask));
  CHECK(list.kept() == 520);
  // 520 values and columns; 2 blocks × 3 ranges × 32 × 2 counts; 7 offsets of 8 bytes.
  CHECK(list.bytes() == 5 * 520 + 2 * 3 * 32 * 2 + 8 * 7);
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
    const losa::PackedLayout layout = packed.layout();
    const std::size_t shares = losa::detail::many_shares(layout.row_blocks, 1);
    std::size_t most = 0;
    for (std::size_t i = 0; i < shares; ++i)
      most = std::max(most, losa::detail::share_of(layout.offsets, layout.tiles, layout.row_blocks, i, shares).size());
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

TEST_CASE("lists: kernels touch nothing past either end of any array, but 64 bytes past the last value and column") {
  const std::size_t rows_of[] = {31, 37, 64, 300};
  std::uint64_t i = 0;
  for (test::Side side : {test::Side::after, test::Side::before})
    for (std::size_t cols : test::Sizes{1, 8, 127, 255, 256, 300, 600})
      for (double sparsity : {0.0, 0.3, 1.0}) {
        const std::size_t rows = rows_of[i++ % 4];
        const auto packed = test::random_packed<float>(rows, cols, sparsity, i);
        const auto check = [&](const auto& list) {
          using Value = typename std::remove_cvref_t<decltype(list)>::Value;
          losa::ListLayout layout = list.layout();
          losa::ListWeights<Value> weights = list.weights();
          const std::size_t blocks = (rows + 31) / 32;
          const std::size_t lists = blocks * layout.ranges * 32;
          std::size_t total = 0;
          for (std::size_t k = 0; k < 2 * lists; ++k) total += 4 * std::size_t{layout.counts[k]};
          GuardedCopy<Value> values(weights.values, total, side, 64);
          GuardedCopy<std::uint8_t> columns(layout.col_indices, total, side, 64);
          GuardedCopy<std::uint8_t> counts(layout.counts, 2 * lists, side);
          GuardedCopy<std::size_t> offsets(layout.offsets, blocks * layout.ranges + 1, side);
          GuardedCopy<float> scales(weights.scales, weights.scales == nullptr ? 0 : 32 * blocks, side);
          layout.counts = counts.data();
          layout.col_indices = columns.data();
          layout.offsets = offsets.data();
          weights.values = values.data();
          if (weights.scales != nullptr) weights.scales = scales.data();
          for (std::size_t tokens : test::Sizes{1, 2, 4, 5, 8, 13, 16, 64, 70, 131}) {
            test::Guarded<float> x(tokens * cols, side), y(tokens * rows, side), bias(rows, side);
            x.fill(1);
            y.fill(2);
            bias.fill(3);
            const std::vector<float> before(y.span().begin(), y.span().end());
            const bool accumulate = tokens % 2 == 0;
            for (const losa::Backend* backend : losa::backends()) {
              CAPTURE(backend->name);
              CAPTURE(rows);
              CAPTURE(cols);
              CAPTURE(tokens);
              std::vector<float> expected = before;
              losa::spmm(list, losa::view(x.data(), tokens, cols), losa::view(expected.data(), tokens, rows), {},
                         {.bias = bias.span(), .accumulate = accumulate, .backend = backend});
              std::ranges::copy(before, y.data());
              test::by_simple_plan(test::Seen{list.kept(), layout, weights}, tokens, backend,
                                   losa::Multiply{.x = losa::view(x.data(), tokens, cols),
                                                  .y = losa::view(y.data(), tokens, rows),
                                                  .bias = bias.span(),
                                                  .accumulate = accumulate});
              CHECK(std::ranges::equal(y.span(), expected));
            }
          }
        };
        check(ListMatrix<float>(packed));
        check(ListMatrix<losa::bf16>(packed));
        check(ListMatrix<losa::f16>(packed));
        check(ListMatrix<Int8>(packed));
      }
}

TEST_CASE("lists: NaN and Inf reach the outputs whose kept weights touch them, and nothing else") {
  const float inf = std::numeric_limits<float>::infinity();
  const std::size_t rows = 70;
  const std::size_t cols = 600;
  losa::Mask mask = test::random_mask(rows, cols, 0.6, 9);
  for (std::size_t r = 0; r < rows; r += 5)  // few or none in a range
    for (std::size_t c = 0; c < cols; ++c) mask.set(r, c, (r + c) % 131 == 0);
  const auto packed = losa::pack(Matrix(rows, cols, 9).view(), mask);
  const auto check = [&](const auto& list) {
    const std::vector<float> dense = test::dense_of(list);
    for (std::size_t tokens : test::Sizes{1, 4, 5, 8, 16, 64, 65}) {
      Matrix x(tokens, cols, 10);
      Matrix clean(tokens, rows, 11);
      losa::spmm(list, x.view(), clean.view(), {}, {.backend = &losa::find_backend("reference")});
      for (std::size_t column : test::Sizes{0, 77, 127, 128, 255, 256, 400, 511, 512, 599})
        for (float bad : {std::nanf(""), inf, -inf}) {
          const std::size_t token = (column + tokens - 1) % tokens;
          const float good = std::exchange(x.view()(token, column), bad);
          for (const losa::Backend* backend : losa::backends()) {
            CAPTURE(backend->name);
            CAPTURE(tokens);
            CAPTURE(column);
            CAPTURE(bad);
            Matrix y(tokens, rows, 12);
            losa::spmm(list, x.view(), y.view(), {}, {.backend = backend});
            std::size_t wrong = 0;
            for (std::size_t t = 0; t < tokens; ++t)
              for (std::size_t r = 0; r < rows; ++r) {
                if (t != token || !mask(r, column)) {
                  wrong += !(std::abs(y(t, r) - clean(t, r)) < 1e-3f);  // sums of up to 300 terms of size 1
                  continue;
                }
                std::size_t after = 0;  // kept in the range
                for (std::size_t c = column + 1; c % 256 != 0 && c < cols; ++c) after += mask(r, c);
                const float product = dense[r * cols + column] * bad;  // NaN if the weight was rounded to 0
                // Fillers multiply an Inf at the last column by 0.
                wrong += !(std::isnan(y(t, r)) ? std::isnan(product) || after == 0 : y(t, r) == product);
              }
            CHECK(wrong == 0);
          }
          x.view()(token, column) = good;
        }
    }
  };
  check(ListMatrix<float>(packed));
  check(ListMatrix<losa::bf16>(packed));
  check(ListMatrix<losa::f16>(packed));
  check(ListMatrix<Int8>(packed));
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
