#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "by_plan.hpp"
#include "problem.hpp"

#include <losa/core/thread_pool.hpp>
#include <losa/gemm.hpp>

using test::Matrix;

TEST_CASE("sddmm: (Gt X) at the mask, against double sums over awkward shapes") {
  test::sweep([](std::size_t rows, std::size_t cols, std::size_t tokens, double sparsity, std::uint64_t i) {
    const auto start = test::random_packed<float>(rows, cols, sparsity, i);
    const Matrix g(tokens, rows, i + 1, i % 3, i % 5);
    const Matrix x(tokens, cols, i + 2, i % 4, i % 7);
    const bool accumulate = i % 2 == 1;
    for (const losa::Backend* backend : losa::backends()) {
      CAPTURE(backend->name);
      CAPTURE(rows);
      CAPTURE(cols);
      CAPTURE(tokens);
      CAPTURE(sparsity);
      auto result = start;
      losa::sddmm(g.view(), x.view(), result, {}, {.accumulate = accumulate, .backend = backend});
      std::size_t wrong = 0;
      for (std::size_t r = 0; r < rows; ++r)
        start.for_each_kept(r, [&](std::size_t c, std::size_t k) {
          double sum = accumulate ? static_cast<double>(start.values()[k]) : 0.0;
          double magnitude = std::abs(sum);
          for (std::size_t t = 0; t < tokens; ++t) {
            const double term = static_cast<double>(g(t, r)) * static_cast<double>(x(t, c));
            sum += term;
            magnitude += std::abs(term);
          }
          wrong += !(std::abs(static_cast<double>(result.values()[k]) - sum) <= test::bound(tokens, magnitude));
        });
      CHECK(wrong == 0);
      test::Guarded<float> values(start.kept());
      std::ranges::copy(start.values(), values.data());
      losa::Sample arguments{.g = g.view(), .x = x.view(), .values = values.span()};
      if (accumulate) arguments.base = values.span();
      test::by_plan(losa::plan<losa::Sample>(start, tokens, {.threads = test::plan_threads, .backend = backend}),
                    arguments, i);
      CHECK(test::bits(std::span<const float>(values.span())) ==
            test::bits(std::span<const float>(std::as_const(result).values())));
    }
  });
}

TEST_CASE("sddmm: no tokens") {
  auto packed = test::random_packed<float>(5, 6, 0.5, 1);
  const auto before = packed;
  for (const losa::Backend* backend : losa::backends()) {
    losa::sddmm({nullptr, 0, 5, 5}, {nullptr, 0, 6, 6}, packed, {}, {.accumulate = true, .backend = backend});
    CHECK(test::bits(std::span<const float>(packed.values())) == test::bits(before.values()));
    auto zeroed = packed;
    losa::sddmm({nullptr, 0, 5, 5}, {nullptr, 0, 6, 6}, zeroed, {}, {.backend = backend});
    for (float v : zeroed.values()) CHECK(v == 0.0f);
    auto refreshed = packed.like();
    losa::refresh_values(refreshed, before.values(), {nullptr, 0, 5, 5}, {nullptr, 0, 6, 6}, 2.0f, {}, backend);
    CHECK(test::bits(std::span<const float>(refreshed.values())) == test::bits(before.values()));
  }
}

TEST_CASE("sddmm and spmm: the directional derivative of the product along D is sddmm against D") {
  const auto direction = test::random_packed<float>(90, 140, 0.7, 3);
  const Matrix x(50, 140, 4);
  const Matrix g(50, 90, 5);
  for (const losa::Backend* backend : losa::backends()) {
    auto gradient = direction.like();
    losa::sddmm(g.view(), x.view(), gradient, {}, {.backend = backend});
    Matrix y(50, 90, 0);
    losa::spmm(direction, x.view(), y.view(), {}, {.backend = backend});
    double left = 0;
    double right = 0;
    double scale = 0;
    for (std::size_t t = 0; t < 50; ++t)
      for (std::size_t r = 0; r < 90; ++r) {
        left += static_cast<double>(y(t, r)) * static_cast<double>(g(t, r));
        scale += std::abs(static_cast<double>(y(t, r)) * static_cast<double>(g(t, r)));
      }
    for (std::size_t k = 0; k < direction.kept(); ++k)
      right += static_cast<double>(gradient.values()[k]) * static_cast<double>(direction.values()[k]);
    CHECK(std::abs(left - right) <= 1e-5 * scale);
  }
}

TEST_CASE("refresh_values: W + scale B A at the kept positions, for any rank, both forms give the same bits") {
  std::uint64_t i = 0;
  for (std::size_t rank : test::Sizes{1, 2, 4, 6, 8, 9, 12, 16, 32, 70})
    for (double sparsity : test::sparsities())
      for (const losa::Backend* backend : losa::backends()) {
        CAPTURE(backend->name);
        CAPTURE(rank);
        CAPTURE(sparsity);
        ++i;
        const std::size_t rows = 37;
        const std::size_t cols = 150;
        Matrix weight(rows, cols, i, 2);
        const losa::Mask mask = test::random_mask(rows, cols, sparsity, i);
        for (std::size_t r = 0; r < rows; ++r)
          for (std::size_t c = 0; c < cols; ++c)
            if (!mask(r, c)) weight.view()(r, c) = std::numeric_limits<float>::quiet_NaN();
        const auto base = losa::pack(weight.view(), mask);
        const Matrix bt(rank, rows, i + 1, 1);
        const Matrix a(rank, cols, i + 2, 3);
        auto packed = base.like();
        losa::refresh_values(packed, base.values(), bt.view(), a.view(), 1.5f, {}, backend);
        std::size_t wrong = 0;
        for (std::size_t r = 0; r < rows; ++r)
          base.for_each_kept(r, [&](std::size_t c, std::size_t k) {
            double sum = static_cast<double>(weight(r, c));
            double magnitude = std::abs(sum);
            for (std::size_t j = 0; j < rank; ++j) {
              const double term = 1.5 * static_cast<double>(bt(j, r)) * static_cast<double>(a(j, c));
              sum += term;
              magnitude += std::abs(term);
            }
            wrong += !(std::abs(static_cast<double>(packed.values()[k]) - sum) <= test::bound(rank, magnitude));
          });
        CHECK(wrong == 0);
        auto from_dense = base.like();
        losa::refresh_values(from_dense, weight.view(), bt.view(), a.view(), 1.5f, {}, backend);
        CHECK(test::bits(std::span<const float>(from_dense.values())) ==
              test::bits(std::span<const float>(packed.values())));
        auto in_place = base;
        losa::refresh_values(in_place, in_place.values(), bt.view(), a.view(), 1.5f, {}, backend);
        CHECK(test::bits(std::span<const float>(in_place.values())) ==
              test::bits(std::span<const float>(packed.values())));
      }
}

TEST_CASE("sddmm and refresh_values: the same bits for any number of threads") {
  const auto packed = test::random_packed<float>(333, 700, 0.7, 1);
  for (const losa::Backend* backend : losa::backends())
    for (std::size_t tokens : test::Sizes{3, 8, 200}) {
      if (std::string_view(backend->name) == "reference" && tokens > 8) continue;
      const Matrix g(tokens, 333, 2);
      const Matrix x(tokens, 700, 3);
      std::string first;
      for (std::size_t threads : test::Sizes{1, 2, 3, 7}) {
        losa::ThreadPool pool(threads);
        auto result = packed;
        losa::sddmm(g.view(), x.view(), result, pool, {.accumulate = true, .backend = backend});
        losa::refresh_values(result, result.values(), g.view(), x.view(), 0.5f, pool, backend);
        const std::string now = test::bits(std::span<const float>(result.values()));
        if (first.empty()) first = now;
        CHECK(now == first);
      }
    }
}

TEST_CASE("sddmm and refresh_values read nothing past either end of any buffer") {
  using Guarded = test::Guarded<float>;
  for (const losa::Backend* backend : losa::backends())
    for (Guarded::Side side : {Guarded::Side::after, Guarded::Side::before})
      for (std::size_t cols : test::Sizes{1, 5, 8, 67, 200})
        for (std::size_t tokens : test::Sizes{1, 4, 8, 13, 70}) {
          const std::size_t rows = cols % 7 + 9;
          auto packed = test::random_packed<float>(rows, cols, cols % 2 == 0 ? 0.5 : 0.0, cols);
          Guarded x(tokens * cols, side), g(tokens * rows, side), base(packed.kept(), side);
          x.fill(1);
          g.fill(2);
          base.fill(3);
          const auto gv = losa::view(static_cast<const float*>(g.data()), tokens, rows);
          const auto xv = losa::view(static_cast<const float*>(x.data()), tokens, cols);
          losa::sddmm(gv, xv, packed, {}, {.backend = backend});
          losa::refresh_values(packed, base.span(), gv, xv, 1.0f, {}, backend);
        }
}

TEST_CASE("sddmm and refresh_values: shape errors name function, argument, expected and got") {
  auto packed = test::random_packed<float>(4, 5, 0.0, 1);
  const Matrix g(3, 4, 1);
  const Matrix x(3, 5, 1);
  const std::vector<float> base(20);
  CHECK_THROWS_WITH_AS(losa::sddmm(x.view(), x.view(), packed), "sddmm: g must have 4 columns, got 3 × 5",
                       losa::ShapeError);
  CHECK_THROWS_WITH_AS(losa::sddmm(g.view(), g.view(), packed), "sddmm: x must have 5 columns, got 3 × 4",
                       losa::ShapeError);
  CHECK_THROWS_WITH_AS(losa::sddmm(g.view(), Matrix(2, 5, 1).view(), packed), "sddmm: g has 3 tokens, x has 2",
                       losa::ShapeError);
  CHECK_THROWS_WITH_AS(losa::refresh_values(packed, std::span(base).first(19), g.view(), x.view(), 1.0f),
                       "refresh_values: base_values must have 20 elements, got 19", losa::ShapeError);
  CHECK_THROWS_WITH_AS(losa::refresh_values(packed, base, x.view(), x.view(), 1.0f),
                       "refresh_values: bt must have 4 columns, got 3 × 5", losa::ShapeError);
  CHECK_THROWS_WITH_AS(losa::refresh_values(packed, base, g.view(), g.view(), 1.0f),
                       "refresh_values: a must have 5 columns, got 3 × 4", losa::ShapeError);
  CHECK_THROWS_WITH_AS(losa::refresh_values(packed, base, g.view(), Matrix(2, 5, 1).view(), 1.0f),
                       "refresh_values: bt has rank 3, a has rank 2", losa::ShapeError);
  CHECK_THROWS_WITH_AS(losa::refresh_values(packed, x.view(), g.view(), x.view(), 1.0f),
                       "refresh_values: weight must be 4 × 5, got 3 × 5", losa::ShapeError);
}
