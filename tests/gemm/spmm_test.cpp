#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "backends.hpp"
#include "by_plan.hpp"
#include "problem.hpp"

#include <losa/core/thread_pool.hpp>
#include <losa/gemm.hpp>

using test::Matrix;

namespace {

/// Weights of type T, random; integers are those of random floats.
template <class T>
auto random_weights(std::size_t rows, std::size_t cols, double sparsity, std::uint64_t i) {
  if constexpr (losa::Storage<T>) {
    return test::random_packed<T>(rows, cols, sparsity, i);
  } else {
    return losa::quantize<T>(test::random_packed<float>(rows, cols, sparsity, i));
  }
}

template <class T>
void check_spmm(std::size_t rows, std::size_t cols, std::size_t tokens, double sparsity, std::uint64_t i) {
  const auto packed = random_weights<T>(rows, cols, sparsity, i);
  const std::vector<float> dense = test::dense_of(packed);
  Matrix x(tokens, cols, i + 1, i % 3, i % 5);
  if (i % 4 == 2) x.view()(i % tokens, i % cols) = 1e4f;  // an outlier, which must not cost the others their precision
  const Matrix before(tokens, rows, i + 2, i % 4, i % 7);
  const Matrix bias(1, rows, i + 3, 0, i % 2);
  const bool accumulate = i % 2 == 1;
  const bool biased = i % 3 == 1;
  const losa::Mask mask = packed.mask();
  std::vector<double> exact(tokens * rows);
  std::vector<double> allowed(tokens * rows);
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t r = 0; r < rows; ++r) {
      double sum = 0;
      double magnitude = 0;
      const auto add = [&](double term) {
        sum += term;
        magnitude += std::abs(term);
      };
      for (std::size_t c = 0; c < cols; ++c)
        add(static_cast<double>(dense[r * cols + c]) * static_cast<double>(x(t, c)));
      if (biased) add(static_cast<double>(bias(0, r)));
      if (accumulate) add(static_cast<double>(before(t, r)));
      exact[t * rows + r] = sum;
      allowed[t * rows + r] = test::bound(mask.kept_in_row(r), magnitude);
    }
  for (const losa::Backend* backend : test::backends_for<T>()) {
    CAPTURE(backend->name);
    Matrix y = before;
    losa::SpmmOptions options{.accumulate = accumulate, .backend = backend};
    if (biased) options.bias = bias.view().row(0);
    losa::spmm(packed, x.view(), y.view(), {}, options);
    const losa::Rounding rounding = test::rounding_of(packed, tokens, backend);
    CHECK(rounding.double_sums == (std::string_view(backend->name) == "reference"));
    const std::vector<double> rounded = test::activation_rounding(rounding, packed, dense, x.view());
    std::size_t wrong = 0;
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t r = 0; r < rows; ++r)
        wrong += !(std::abs(static_cast<double>(y(t, r)) - exact[t * rows + r]) <=
                   allowed[t * rows + r] + rounded[r * tokens + t]);
    Matrix planned = before;
    test::by_plan(losa::plan(packed, tokens, {.threads = test::plan_threads, .backend = backend}),
                  losa::Multiply{.x = x.view(), .y = planned.view(), .bias = options.bias, .accumulate = accumulate},
                  i);
    CHECK(test::bits_of(planned) == test::bits_of(y));
    CHECK(planned.gaps_intact());
    CHECK(wrong == 0);
    CHECK(y.gaps_intact());
  }
}

}  // namespace

TEST_CASE("spmm: every backend and type agrees with double sums over awkward shapes") {
  test::sweep([](std::size_t rows, std::size_t cols, std::size_t tokens, double sparsity, std::uint64_t i) {
    CAPTURE(rows);
    CAPTURE(cols);
    CAPTURE(tokens);
    CAPTURE(sparsity);
    check_spmm<float>(rows, cols, tokens, sparsity, i);
    if (i % 2 == 0) check_spmm<losa::bf16>(rows, cols, tokens, sparsity, i + 1000);
    if (i % 2 == 1) check_spmm<losa::f16>(rows, cols, tokens, sparsity, i + 2000);
    if (i % 2 == 0) check_spmm<losa::Int8>(rows, cols, tokens, sparsity, i + 3000);
    if (i % 2 == 1) check_spmm<losa::Int4>(rows, cols, tokens, sparsity, i + 4000);
  });
}

TEST_CASE("spmm: every number of tokens at every sparsity, rows of one and of many kept weights") {
  std::uint64_t i = 5000;
  for (std::size_t tokens : test::awkward_tokens())
    for (double sparsity : test::sparsities()) {
      CAPTURE(tokens);
      CAPTURE(sparsity);
      check_spmm<float>(19, 150, tokens, sparsity, i++);
      check_spmm<losa::bf16>(19, 150, tokens, sparsity, i++);
      check_spmm<losa::f16>(19, 150, tokens, sparsity, i++);
      check_spmm<losa::Int8>(19, 150, tokens, sparsity, i++);
      check_spmm<losa::Int4>(45, 150, tokens, sparsity, i++);
    }
}

TEST_CASE("spmm: 2:4 and 4:8 masks, known for what they are, in every type") {
  std::uint64_t i = 7000;
  for (std::size_t cols : test::Sizes{8, 64, 72, 192, 200})
    for (std::size_t rows : test::Sizes{1, 32, 33, 64, 70}) {
      losa::Mask mask(rows, cols);
      for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t c = 0; c < cols; c += 8)
          for (std::size_t j = 0; j < 4; ++j) {
            // Pairs in each group of 4, or (in every third row) any 4 of 8.
            const std::size_t first = (r + c / 8) % 4;
            mask.set(r, c + (r % 3 == 0 ? (first + 2 * j + j / 3) % 8 : j / 2 * 4 + (first + j % 2 * (1 + r % 2)) % 4),
                     true);
          }
      const Matrix weight(rows, cols, i++);
      const auto packed = losa::pack(weight.view(), mask);
      CHECK(packed.kept() == rows * cols / 2);
      CHECK(packed.structure().half == (rows % 32 == 0 && cols % 64 == 0));
      const auto check = [&](const auto& matrix) {
        const std::vector<float> dense = test::dense_of(matrix);
        const Matrix x(1, cols, i);
        for (const losa::Backend* backend : losa::backends()) {
          Matrix y(1, rows, 0);
          losa::spmm(matrix, x.view(), y.view(), {}, {.backend = backend});
          const std::vector<double> rounded =
              test::activation_rounding(test::rounding_of(matrix, 1, backend), matrix, dense, x.view());
          for (std::size_t r = 0; r < rows; ++r) {
            double sum = 0;
            double magnitude = 0;
            for (std::size_t c = 0; c < cols; ++c) {
              sum += static_cast<double>(dense[r * cols + c]) * static_cast<double>(x(0, c));
              magnitude += std::abs(static_cast<double>(dense[r * cols + c]) * static_cast<double>(x(0, c)));
            }
            CHECK(std::abs(static_cast<double>(y(0, r)) - sum) <= test::bound(cols, magnitude) + rounded[r]);
          }
        }
      };
      check(packed);
      check(losa::pack_as<losa::bf16>(weight.view(), mask));
      check(losa::pack_as<losa::f16>(weight.view(), mask));
      check(losa::quantize<losa::Int8>(packed));
      check(losa::quantize<losa::Int4>(packed));
      mask.set(rows - 1, cols - 1, !mask(rows - 1, cols - 1));
      CHECK_FALSE(losa::pack(weight.view(), mask).structure().half);
    }
}

TEST_CASE("spmm: sums of the largest integers do not overflow") {
  const std::size_t cols = 2 * 128 * 64 + 69;
  losa::Mask mask = losa::Mask::full(2, cols);
  for (std::size_t c = 0; c < cols; c += 5) mask.set(1, c, false);
  const std::vector<float> weight(2 * cols, 112);  // 7 · 16: exact in int4 too
  const auto packed = losa::pack(losa::view(weight.data(), 2, cols), mask);
  const auto check = [&](const auto& matrix, float w) {
    for (const losa::Backend* backend : test::backends())
      for (std::size_t tokens : test::Sizes{1, 2, 4, 8, 16, 17}) {
        const std::vector<float> x(tokens * cols, -2);
        std::vector<float> y(tokens * 2);
        losa::spmm(matrix, losa::view(x.data(), tokens, cols), losa::view(y.data(), tokens, 2), {},
                   {.backend = backend});
        for (std::size_t t = 0; t < tokens; ++t)
          for (std::size_t r = 0; r < 2; ++r)
            CHECK(y[t * 2 + r] == doctest::Approx(-2 * w * static_cast<float>(mask.kept_in_row(r))).epsilon(1e-5));
      }
  };
  check(losa::quantize<losa::Int8>(packed), 112);
  check(losa::quantize<losa::Int4>(packed), 112);
}

TEST_CASE("spmm: integers times integers are exact where the scales are 1") {
  for (std::size_t cols : test::Sizes{1, 63, 64, 65, 128, 129, 200, 577}) {
    CAPTURE(cols);
    const losa::Mask mask = test::random_mask(37, cols, 0.6, cols);
    std::vector<float> weight(37 * cols);
    const losa::Random random{.seed = cols};
    const auto check = [&](auto quantized, int largest) {
      using Q = decltype(quantized);
      for (std::size_t i = 0; i < weight.size(); ++i)
        weight[i] =
            static_cast<float>(static_cast<int>(random.below(2 * static_cast<unsigned>(largest) + 1, i)) - largest);
      // Every row and every 64 columns of it have the largest integer, so that their scale is 1.
      losa::Mask kept = mask;
      for (std::size_t r = 0; r < 37; ++r)
        for (std::size_t c = 0; c < cols; c += 64) {
          kept.set(r, c, true);
          weight[r * cols + c] = static_cast<float>(r % 2 == 0 ? largest : -largest);
        }
      const auto packed = losa::quantize<Q>(losa::pack(losa::view(weight.data(), 37, cols), kept));
      for (std::size_t tokens : test::Sizes{1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 40}) {
        std::vector<float> x(tokens * cols);
        for (std::size_t i = 0; i < x.size(); ++i)
          x[i] = i % cols % 128 == 0 ? -127.0f : static_cast<float>(random.below(255, i + 100000)) - 127.0f;
        for (const losa::Backend* backend : test::backends()) {
          CAPTURE(backend->name);
          std::vector<float> y(tokens * 37);
          losa::spmm(packed, losa::view(x.data(), tokens, cols), losa::view(y.data(), tokens, 37), {},
                     {.backend = backend});
          std::size_t wrong = 0;
          for (std::size_t t = 0; t < tokens; ++t)
            for (std::size_t r = 0; r < 37; ++r) {
              float sum = 0;  // of integers below 2²⁴
              for (std::size_t c = 0; c < cols; ++c)
                if (kept(r, c)) sum += weight[r * cols + c] * x[t * cols + c];
              wrong += y[t * 37 + r] != sum;
            }
          CHECK(wrong == 0);
        }
      }
    };
    check(losa::Int8{}, 127);
    check(losa::Int4{}, 7);
  }
}

TEST_CASE("spmm: a NaN stays one where activations are rounded to bf16") {
  const auto packed = test::random_packed<losa::bf16>(40, 150, 0.6, 23);
  const losa::Mask mask = packed.mask();
  for (std::uint32_t payload : {0x7fffffffu, 0xffffffffu, 0x7f800001u, 0xffc00000u})
    for (std::size_t tokens : test::Sizes{9, 16, 17, 32, 64, 80})
      for (const losa::Backend* backend : test::backends()) {
        CAPTURE(backend->name);
        CAPTURE(payload);
        CAPTURE(tokens);
        Matrix x(tokens, 150, 24);
        x.view()(tokens - 1, 77) = std::bit_cast<float>(payload);
        Matrix y(tokens, 40, 1);
        losa::spmm(packed, x.view(), y.view(), {}, {.backend = backend});
        std::size_t wrong = 0;
        for (std::size_t t = 0; t < tokens; ++t)
          for (std::size_t r = 0; r < 40; ++r)
            wrong += t + 1 != tokens ? !std::isfinite(y(t, r)) : mask(r, 77) && !std::isnan(y(t, r));
        CHECK(wrong == 0);
      }
}

TEST_CASE("spmm: integer weights and activations too large, too small or not finite for integers") {
  const float inf = std::numeric_limits<float>::infinity();
  const auto packed = test::random_packed<float>(40, 150, 0.6, 21);
  const losa::Mask mask = packed.mask();
  const auto check = [&]<class Q>(Q) {
    const auto matrix = losa::quantize<Q>(packed);
    for (const losa::Backend* backend : test::backends())
      for (std::size_t tokens : test::Sizes{1, 2, 3, 5, 9, 16, 20}) {
        CAPTURE(backend->name);
        CAPTURE(tokens);
        Matrix y(tokens, 40, 1);
        Matrix expected(tokens, 40, 1);
        for (float factor : {1e-36f, 1e-32f, 1e27f, 1e33f}) {
          const losa::Rounding rounding = test::rounding_of(matrix, tokens, backend);
          if (factor > rounding.most) continue;  // sums may overflow, as the plan says
          CAPTURE(factor);
          Matrix x(tokens, 150, 22);
          for (std::size_t c = 0; c < 150; ++c) x.view()(tokens - 1, c) *= factor;
          losa::spmm(matrix, x.view(), y.view(), {}, {.backend = backend});
          losa::spmm(matrix, x.view(), expected.view(), {}, {.backend = &losa::find_backend("reference")});
          for (std::size_t t = 0; t < tokens; ++t) {
            const float unit = t + 1 == tokens ? factor : 1.0f;
            // 1e-2 as denormals have few bits; Σ |w| · max |x| is below 30.
            const double limit = 1e-2 + rounding.step * 30;
            for (std::size_t r = 0; r < 40; ++r)
              CHECK(std::abs(static_cast<double>(y(t, r) / unit - expected(t, r) / unit)) <= limit);
          }
        }
        for (float bad : {std::nanf(""), -inf}) {
          Matrix x(tokens, 150, 22);
          x.view()(tokens / 2, 77) = bad;
          losa::spmm(matrix, x.view(), y.view(), {}, {.backend = backend});
          for (std::size_t t = 0; t < tokens; ++t)
            for (std::size_t r = 0; r < 40; ++r) {
              if (t != tokens / 2) CHECK(std::isfinite(y(t, r)));
              if (t == tokens / 2 && mask(r, 77)) CHECK(!std::isfinite(y(t, r)));
            }
        }
      }
  };
  check(losa::Int8{});
  check(losa::Int4{});
}

TEST_CASE("spmm: rows without and rows full of kept weights side by side") {
  losa::Mask mask(40, 200);
  for (std::size_t r = 0; r < 40; ++r)
    for (std::size_t c = 0; c < 200; ++c) mask.set(r, c, r % 3 == 0 || (r % 3 == 1 && c == 199));
  const Matrix weight(40, 200, 1);
  const auto packed = losa::pack(weight.view(), mask);
  for (const losa::Backend* backend : losa::backends())
    for (std::size_t tokens : test::Sizes{1, 3, 6, 12, 24, 70}) {
      const Matrix x(tokens, 200, 2);
      Matrix y(tokens, 40, 3);
      losa::spmm(packed, x.view(), y.view(), {}, {.backend = backend});
      for (std::size_t t = 0; t < tokens; ++t) {
        CHECK(y(t, 2) == 0.0f);
        CHECK(y(t, 1) == weight(1, 199) * x(t, 199));
      }
    }
}

TEST_CASE("spmm: no rows, no columns, no tokens") {
  for (const losa::Backend* backend : test::backends()) {
    std::vector<float> y(6, 7.0f);
    const std::vector<float> bias{1, 2};
    const losa::PackedMatrix<float> no_columns(losa::Mask(2, 0));
    losa::spmm(no_columns, {nullptr, 3, 0, 0}, losa::view(y.data(), 3, 2), {}, {.bias = bias, .backend = backend});
    CHECK(y == std::vector<float>{1, 2, 1, 2, 1, 2});
    losa::spmm(no_columns, {nullptr, 1, 0, 0}, losa::view(y.data(), 1, 2), {},
               {.accumulate = true, .backend = backend});
    CHECK(y == std::vector<float>{1, 2, 1, 2, 1, 2});
    std::vector<float> many(40, 7.0f);
    const losa::PackedMatrix<losa::bf16> no_halves(losa::Mask(2, 0));
    losa::spmm(no_halves, {nullptr, 20, 0, 0}, losa::view(many.data(), 20, 2), {}, {.bias = bias, .backend = backend});
    for (std::size_t i = 0; i < many.size(); ++i) CHECK(many[i] == bias[i % 2]);
    losa::spmm(losa::quantize<losa::Int8>(no_columns), {nullptr, 20, 0, 0}, losa::view(many.data(), 20, 2), {},
               {.backend = backend});
    CHECK(many == std::vector<float>(40, 0.0f));
    const losa::PackedMatrix<float> no_rows(losa::Mask(0, 2));
    losa::spmm(no_rows, losa::view(bias.data(), 1, 2), {nullptr, 1, 0, 0}, {}, {.backend = backend});
    losa::spmm_transposed(no_rows, {nullptr, 3, 0, 0}, losa::view(y.data(), 3, 2), {}, {.backend = backend});
    CHECK(y == std::vector<float>(6, 0.0f));
    const auto packed = test::random_packed<float>(4, 5, 0.5, 1);
    losa::spmm(packed, {nullptr, 0, 5, 5}, {nullptr, 0, 4, 4}, {}, {.backend = backend});
    losa::spmm_transposed(packed, {nullptr, 0, 4, 4}, {nullptr, 0, 5, 5}, {}, {.backend = backend});
  }
}

TEST_CASE("spmm: NaN and Inf reach the outputs whose kept weights touch them, other rows without them are exact") {
  const float inf = std::numeric_limits<float>::infinity();
  const auto check = [&](const auto& packed) {
    for (const losa::Backend* backend : test::backends())
      for (std::size_t tokens : test::Sizes{1, 2, 4, 5, 8, 9, 70})
        for (float bad : {std::nanf(""), inf, -inf}) {
          Matrix x(tokens, 130, 10);
          const std::size_t token = tokens - 1;
          x.view()(token, 77) = bad;
          Matrix y(tokens, 33, 11);
          losa::spmm(packed, x.view(), y.view(), {}, {.backend = backend});
          std::size_t wrong = 0;
          for (std::size_t t = 0; t < tokens; ++t)
            for (std::size_t r = 0; r < 33; ++r) {
              if (t != token) wrong += !std::isfinite(y(t, r));
              if (t == token && packed.mask()(r, 77)) wrong += std::isfinite(y(t, r));
            }
          CAPTURE(backend->name);
          CAPTURE(tokens);
          CHECK(wrong == 0);
        }
  };
  check(test::random_packed<float>(33, 130, 0.6, 9));
  check(test::random_packed<losa::bf16>(33, 130, 0.6, 9));
  check(test::random_packed<losa::f16>(33, 130, 0.6, 9));
}

TEST_CASE("spmm_transposed: NaN and Inf reach the columns that are kept in their row, and nothing else") {
  const float inf = std::numeric_limits<float>::infinity();
  const auto packed = test::random_packed<float>(130, 97, 0.6, 9);
  for (const losa::Backend* backend : losa::backends())
    for (std::size_t tokens : test::Sizes{1, 4, 8, 70, 130})
      for (std::size_t row : test::Sizes{0, 77, 129})
        for (float bad : {std::nanf(""), inf}) {
          Matrix g(tokens, 130, 10);
          const std::size_t token = tokens - 1;
          g.view()(token, row) = bad;
          Matrix dx(tokens, 97, 11);
          losa::spmm_transposed(packed, g.view(), dx.view(), {}, {.backend = backend});
          std::size_t wrong = 0;
          for (std::size_t t = 0; t < tokens; ++t)
            for (std::size_t c = 0; c < 97; ++c)
              wrong += std::isfinite(dx(t, c)) == (t == token && packed.mask()(row, c));
          CAPTURE(backend->name);
          CAPTURE(tokens);
          CHECK(wrong == 0);
        }
}

TEST_CASE("spmm_transposed: agrees with double sums over awkward shapes") {
  test::sweep([](std::size_t rows, std::size_t cols, std::size_t tokens, double sparsity, std::uint64_t i) {
    const auto packed = test::random_packed<float>(rows, cols, sparsity, i);
    const std::vector<float> dense = test::dense_of(packed);
    const Matrix g(tokens, rows, i + 1, i % 3, i % 5);
    const Matrix before(tokens, cols, i + 2, i % 4, i % 7);
    const bool accumulate = i % 2 == 1;
    std::vector<double> exact(tokens * cols);
    std::vector<double> magnitude(tokens * cols);
    for (std::size_t t = 0; t < tokens; ++t) {
      for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t c = 0; c < cols; ++c) {
          const double term = static_cast<double>(dense[r * cols + c]) * static_cast<double>(g(t, r));
          exact[t * cols + c] += term;
          magnitude[t * cols + c] += std::abs(term);
        }
      for (std::size_t c = 0; c < cols && accumulate; ++c) {
        exact[t * cols + c] += static_cast<double>(before(t, c));
        magnitude[t * cols + c] += std::abs(static_cast<double>(before(t, c)));
      }
    }
    for (const losa::Backend* backend : losa::backends()) {
      CAPTURE(backend->name);
      CAPTURE(rows);
      CAPTURE(cols);
      CAPTURE(tokens);
      CAPTURE(sparsity);
      Matrix dx = before;
      losa::spmm_transposed(packed, g.view(), dx.view(), {}, {.accumulate = accumulate, .backend = backend});
      std::size_t wrong = 0;
      for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t c = 0; c < cols; ++c)
          wrong += !(std::abs(static_cast<double>(dx(t, c)) - exact[t * cols + c]) <=
                     test::bound(rows, magnitude[t * cols + c]));
      CHECK(wrong == 0);
      CHECK(dx.gaps_intact());
      Matrix planned = before;
      test::by_plan(
          losa::plan<losa::MultiplyTransposed>(packed, tokens, {.threads = test::plan_threads, .backend = backend}),
          losa::MultiplyTransposed{.g = g.view(), .dx = planned.view(), .accumulate = accumulate}, i);
      CHECK(test::bits_of(planned) == test::bits_of(dx));
      CHECK(planned.gaps_intact());
    }
  });
}

TEST_CASE("spmm and spmm_transposed are adjoint: the two inner products agree") {
  const auto packed = test::random_packed<float>(157, 211, 0.7, 4);
  for (const losa::Backend* backend : losa::backends())
    for (std::size_t tokens : test::Sizes{1, 8, 33, 200}) {
      const Matrix x(tokens, 211, 5);
      const Matrix g(tokens, 157, 6);
      Matrix y(tokens, 157, 0);
      Matrix dx(tokens, 211, 0);
      losa::spmm(packed, x.view(), y.view(), {}, {.backend = backend});
      losa::spmm_transposed(packed, g.view(), dx.view(), {}, {.backend = backend});
      double left = 0;
      double right = 0;
      double scale = 0;
      for (std::size_t t = 0; t < tokens; ++t) {
        for (std::size_t r = 0; r < 157; ++r) {
          left += static_cast<double>(g(t, r)) * static_cast<double>(y(t, r));
          scale += std::abs(static_cast<double>(g(t, r)) * static_cast<double>(y(t, r)));
        }
        for (std::size_t c = 0; c < 211; ++c) right += static_cast<double>(dx(t, c)) * static_cast<double>(x(t, c));
      }
      CHECK(std::abs(left - right) <= 1e-5 * scale);
    }
}

TEST_CASE("spmm and spmm_transposed give the same bits for any number of threads, and again") {
  const auto packed = test::random_packed<float>(333, 900, 0.6, 3);
  const auto halves = test::random_packed<losa::bf16>(333, 900, 0.6, 3);
  const auto bytes = losa::quantize<losa::Int8>(packed);
  const auto nibbles = losa::quantize<losa::Int4>(packed);
  const bool share = test::parse_share(std::getenv("LOSA_TEST_SHARE")) > 1;
  for (const losa::Backend* backend : test::backends())
    for (std::size_t tokens : share ? test::Sizes{1, 8, 70} : test::Sizes{1, 3, 8, 20, 64, 300}) {
      CAPTURE(backend->name);
      CAPTURE(tokens);
      const bool slow = std::string_view(backend->name) == "reference" && tokens > 20;
      if (slow) continue;
      const Matrix x(tokens, 900, 1);
      const Matrix g(tokens, 333, 2);
      std::string y_bits;
      std::string dx_bits;
      for (std::size_t threads : test::Sizes{1, 2, 3, 7, 2}) {
        losa::ThreadPool pool(threads);
        Matrix y(tokens, 333, 7);
        Matrix dx(tokens, 900, 8);
        losa::spmm(packed, x.view(), y.view(), pool, {.accumulate = true, .backend = backend});
        losa::spmm(halves, x.view(), y.view(), pool, {.accumulate = true, .backend = backend});
        losa::spmm(bytes, x.view(), y.view(), pool, {.accumulate = true, .backend = backend});
        losa::spmm(nibbles, x.view(), y.view(), pool, {.accumulate = true, .backend = backend});
        losa::spmm_transposed(packed, g.view(), dx.view(), pool, {.backend = backend});
        if (y_bits.empty()) {
          y_bits = test::bits_of(y);
          dx_bits = test::bits_of(dx);
        }
        CHECK(test::bits_of(y) == y_bits);
        CHECK(test::bits_of(dx) == dx_bits);
      }
    }
}

TEST_CASE("spmm and spmm_transposed read and write nothing past either end of any buffer") {
  using Side = test::Guarded<float>::Side;
  for (const losa::Backend* backend : test::backends())
    for (Side side : {Side::after, Side::before})
      for (std::size_t cols : test::Sizes{1, 5, 8, 63, 64, 67, 200})
        for (std::size_t tokens : test::Sizes{1, 2, 3, 4, 5, 8, 13, 64, 70, 131}) {
          const std::size_t rows = cols % 7 + 9;
          const auto packed = test::random_packed<float>(rows, cols, cols % 2 == 0 ? 0.5 : 0.0, cols);
          test::Guarded<float> x(tokens * cols, side), y(tokens * rows, side), bias(rows, side);
          test::Guarded<float> dx(tokens * cols, side);
          x.fill(1);
          bias.fill(2);
          const auto multiply = [&](const auto& matrix) {
            losa::spmm(matrix, losa::view(x.data(), tokens, cols), losa::view(y.data(), tokens, rows), {},
                       {.bias = bias.span(), .backend = backend});
          };
          multiply(packed);
          multiply(test::random_packed<losa::bf16>(rows, cols, 0.5, cols));
          multiply(test::random_packed<losa::f16>(rows, cols, 0.5, cols));
          multiply(losa::quantize<losa::Int8>(packed));
          multiply(losa::quantize<losa::Int4>(packed));
          losa::spmm_transposed(packed, losa::view(y.data(), tokens, rows), losa::view(dx.data(), tokens, cols), {},
                                {.accumulate = true, .backend = backend});
        }
}

TEST_CASE("kernels read at most 64 bytes past the last packed value") {
  std::vector<losa::Mask> masks;
  for (std::size_t cols : test::Sizes{1, 8, 63, 65, 130}) masks.push_back(test::random_mask(11, cols, 0.3, cols));
  masks.push_back(losa::Mask::full(31, 65));
  masks.push_back(losa::Mask::full(63, 129));
  masks.push_back(losa::Mask::full(64, 128));  // but for the last row and the last 64 columns
  for (std::size_t c = 0; c < 128; ++c) masks.back().set(63, c, false);
  for (std::size_t r = 0; r < 64; ++r)
    for (std::size_t c = 64; c < 128; ++c) masks.back().set(r, c, false);
  for (const auto& [rows, cols] : {std::pair<std::size_t, std::size_t>{32, 8}, {33, 64}, {32, 72}, {64, 128}}) {
    masks.emplace_back(rows, cols);  // 2:4
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < cols; ++c) masks.back().set(r, c, (c + r) % 4 < 2);
  }
  for (const losa::Backend* backend : test::backends())
    for (const losa::Mask& mask : masks)
      for (std::size_t tokens : test::Sizes{1, 4, 8, 40, 131}) {
        const std::size_t rows = mask.rows();
        const std::size_t cols = mask.cols();
        const Matrix weight(rows, cols, cols);
        const auto packed = losa::pack(weight.view(), mask);
        const losa::PackedLayout layout = packed.structure().layout();
        test::Guarded<float> values(packed.kept() + 16);
        std::fill_n(values.data(), values.span().size(), 12345.0f);  // must not matter
        std::ranges::copy(packed.values(), values.data());
        const auto& packed_words = packed.structure().words;
        test::Guarded<std::uint64_t> words(packed_words.size());
        std::copy_n(packed_words.data(), packed_words.size(), words.data());
        losa::PackedLayout guarded = layout;
        guarded.words = words.data();
        const Matrix x(tokens, cols, 1);
        Matrix y(tokens, rows, 2);
        Matrix expected(tokens, rows, 2);
        Matrix dx(tokens, cols, 3);
        const auto multiply = [&](const auto& weights) {
          test::by_simple_plan(test::Seen{packed.kept(), guarded, weights}, tokens, backend,
                               losa::Multiply{.x = x.view(), .y = y.view()});
        };
        losa::spmm(packed, x.view(), expected.view(), {}, {.backend = backend});
        multiply(losa::FloatWeights<float>{values.data()});
        CHECK(test::bits_of(y) == test::bits_of(expected));
        const std::size_t kept = packed.kept();
        const test::Seen seen{kept, guarded, losa::FloatWeights<float>{values.data()}};
        test::by_simple_plan(seen, tokens, backend, losa::MultiplyTransposed{.g = y.view(), .dx = dx.view()});
        test::Guarded<float> out(kept);
        test::Guarded<float> base(kept);
        base.fill(5);
        test::by_simple_plan(
            seen, tokens, backend,
            losa::Sample{.g = y.view(), .x = x.view(), .values = out.span(), .base = base.span(), .scale = 0.5f});

        const auto half = losa::pack_as<losa::bf16>(weight.view(), mask);
        test::Guarded<losa::bf16> halves(half.kept() + 32);
        std::fill_n(halves.data(), halves.span().size(), losa::narrow<losa::bf16>(12345.0f));
        std::ranges::copy(half.values(), halves.data());
        losa::spmm(half, x.view(), expected.view(), {}, {.backend = backend});
        multiply(losa::FloatWeights<losa::bf16>{halves.data()});
        CHECK(test::bits_of(y) == test::bits_of(expected));
        const auto small = losa::pack_as<losa::f16>(weight.view(), mask);
        test::Guarded<losa::f16> smalls(small.kept() + 32);
        std::fill_n(smalls.data(), smalls.span().size(), losa::narrow<losa::f16>(12345.0f));
        std::ranges::copy(small.values(), smalls.data());
        losa::spmm(small, x.view(), expected.view(), {}, {.backend = backend});
        multiply(losa::FloatWeights<losa::f16>{smalls.data()});
        CHECK(test::bits_of(y) == test::bits_of(expected));
        const auto bytes = losa::quantize<losa::Int8>(packed);
        test::Guarded<std::int8_t> byte_values(packed.kept() + 64);
        std::fill_n(byte_values.data(), byte_values.span().size(), std::int8_t{99});
        std::copy_n(bytes.weights().values, packed.kept(), byte_values.data());
        test::Guarded<float> row_scales(bytes.scales().size());
        std::ranges::copy(bytes.scales(), row_scales.data());
        losa::spmm(bytes, x.view(), expected.view(), {}, {.backend = backend});
        multiply(losa::Int8Weights{byte_values.data(), row_scales.data()});
        CHECK(test::bits_of(y) == test::bits_of(expected));
        const auto nibbles = losa::quantize<losa::Int4>(packed);
        const losa::Int4Weights fours = nibbles.weights();
        const std::size_t nibble_bytes = fours.offsets[layout.row_blocks * layout.tiles];
        test::Guarded<std::uint8_t> nibble_values(nibble_bytes + 64);
        std::fill_n(nibble_values.data(), nibble_values.span().size(), std::uint8_t{0x5b});
        std::copy_n(fours.values, nibble_bytes, nibble_values.data());
        test::Guarded<losa::f16> tile_scales(nibbles.scales().size());
        std::ranges::copy(nibbles.scales(), tile_scales.data());
        losa::spmm(nibbles, x.view(), expected.view(), {}, {.backend = backend});
        multiply(losa::Int4Weights{nibble_values.data(), fours.offsets, tile_scales.data()});
        CHECK(test::bits_of(y) == test::bits_of(expected));
      }
}

TEST_CASE("spmm: a product inside a task of another product's executor is safe") {
  const auto packed = test::random_packed<float>(64, 96, 0.5, 1);
  const Matrix x(40, 96, 2);
  Matrix expected(40, 64, 0);
  losa::spmm(packed, x.view(), expected.view());
  struct Nesting {
    const losa::PackedMatrix<float>& packed;
    const Matrix& x;
    int depth = 0;
    std::size_t concurrency() const { return 1; }
    void parallel_for(std::size_t n, losa::detail::TaskRef task) {
      for (std::size_t i = 0; i < n; ++i) {
        if (depth < 2) {
          ++depth;
          Matrix y(40, 64, 0);
          losa::spmm(packed, x.view(), y.view(), *this);
          --depth;
        }
        task(i);
      }
    }
  } nesting{packed, x};
  Matrix y(40, 64, 0);
  losa::spmm(packed, x.view(), y.view(), nesting);
  CHECK(test::bits_of(y) == test::bits_of(expected));
}

TEST_CASE("spmm: shape errors name function, argument, expected and got, and come before any write") {
  const auto packed = test::random_packed<float>(4, 5, 0.5, 1);
  const Matrix x(3, 5, 1);
  Matrix y(3, 4, 2);
  const Matrix y_before = y;
  const std::vector<float> bias(3);
  CHECK_THROWS_WITH_AS(losa::spmm(packed, Matrix(3, 6, 1).view(), y.view()), "spmm: x must have 5 columns, got 3 × 6",
                       losa::ShapeError);
  CHECK_THROWS_WITH_AS(losa::spmm(packed, x.view(), Matrix(3, 5, 1).view()), "spmm: y must have 4 columns, got 3 × 5",
                       losa::ShapeError);
  CHECK_THROWS_WITH_AS(losa::spmm(packed, Matrix(2, 5, 1).view(), y.view()), "spmm: x has 2 tokens, y has 3",
                       losa::ShapeError);
  CHECK_THROWS_WITH_AS(losa::spmm(packed, x.view(), y.view(), {}, {.bias = bias}),
                       "spmm: bias must have 4 elements, got 3", losa::ShapeError);
  CHECK_THROWS_WITH_AS(losa::spmm_transposed(packed, x.view(), y.view()),
                       "spmm_transposed: g must have 4 columns, got 3 × 5", losa::ShapeError);
  CHECK_THROWS_WITH_AS(losa::spmm_transposed(packed, y.view(), y.view()),
                       "spmm_transposed: dx must have 5 columns, got 3 × 4", losa::ShapeError);
  CHECK_THROWS_AS(losa::spmm_transposed(packed, y.view(), Matrix(2, 5, 1).view()), losa::ShapeError);
  CHECK_THROWS_WITH_AS(losa::spmm_transposed(packed, {y.view().data, 3, 4, 3}, Matrix(3, 5, 1).view()),
                       "spmm_transposed: g has a stride of 3, shorter than a row of 4", losa::ShapeError);
  CHECK(test::bits_of(y) == test::bits_of(y_before));
}
