#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <limits>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "backends.hpp"
#include "by_plan.hpp"
#include "problem.hpp"

#include <losa/core/thread_pool.hpp>
#include <losa/gemm.hpp>

using test::Matrix;

namespace {

template <class Function>
void for_each_format(const losa::PackedMatrix<float>& packed, Function&& f) {
  const Matrix dense(packed.rows(), packed.cols(), 1);
  f(packed);
  f(losa::pack_as<losa::bf16>(dense.view(), packed.mask()));
  f(losa::pack_as<losa::f16>(dense.view(), packed.mask()));
  f(losa::quantize<losa::Int8>(packed));
  f(losa::quantize<losa::Int4>(packed));
  f(losa::ListMatrix<float>(packed));
  f(losa::ListMatrix<losa::bf16>(packed));
  f(losa::ListMatrix<losa::f16>(packed));
  f(losa::ListMatrix<losa::Int8>(packed));
}

/// Every thread enters run_thread, as in an engine that calls an operation with all of its threads.
template <class Product>
void enter(const losa::Plan<Product>& plan, const Product& arguments, std::byte* memory) {
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < plan.threads(); ++i)
    threads.emplace_back([&, i] { plan.run_thread(i, arguments, memory); });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

TEST_CASE("plan: one to eight tokens take one phase, of every backend and format") {
  const auto packed = test::random_packed<float>(70, 200, 0.6, 1);
  for (const losa::Backend* backend : test::backends())
    for_each_format(packed, [&](const auto& matrix) {
      for (std::size_t tokens = 1; tokens <= 8; ++tokens)
        for (std::size_t threads : test::Sizes{1, 2, 5}) {
          const losa::Plan plan = losa::plan(matrix, tokens, {.threads = threads, .backend = backend});
          CHECK(plan.phases() == 1);
          CHECK(plan.tasks(0) >= 1);
          CHECK(plan.tokens() == tokens);
          CHECK(plan.threads() == threads);
        }
    });
}

TEST_CASE("plan: run, run_thread and what they need promise to throw nothing") {
  using Plan = losa::Plan<losa::Multiply>;
  static_assert(noexcept(std::declval<const Plan&>().run(0, 0, losa::Multiply{}, {})));
  static_assert(noexcept(std::declval<const Plan&>().run_thread(0, losa::Multiply{}, nullptr)));
  static_assert(noexcept(std::declval<const Plan&>().workspace(nullptr, 0)));
  static_assert(noexcept(std::declval<const Plan&>().prepare(nullptr)));
  static_assert(std::is_trivially_copyable_v<Plan>);
}

TEST_CASE("plan: threads that all enter, with the plan's own barrier, again and again in one memory at any alignment") {
  const auto packed = test::random_packed<float>(333, 500, 0.6, 3);
  for (const losa::Backend* backend : losa::backends())
    for (std::size_t threads : test::Sizes{1, 2, 3})
      for (std::size_t tokens : test::Sizes{1, 8, 20, 140}) {
        if (std::string(backend->name) == "reference" && tokens > 20) continue;
        CAPTURE(backend->name);
        CAPTURE(threads);
        CAPTURE(tokens);
        const Matrix x(tokens, 500, 1);
        const Matrix g(tokens, 333, 2);
        const losa::PlanOptions options{.threads = threads, .backend = backend};
        const losa::Plan forward = losa::plan(packed, tokens, options);
        const auto backward = losa::plan<losa::MultiplyTransposed>(packed, tokens, options);
        const auto gradient = losa::plan<losa::Sample>(packed, tokens, options);
        std::vector<std::byte> memory(std::max({forward.bytes(), backward.bytes(), gradient.bytes()}) + 5);
        std::byte* const odd = memory.data() + 5;
        Matrix expected_y(tokens, 333, 3), expected_dx(tokens, 500, 4);
        auto expected = packed.like();
        losa::spmm(packed, x.view(), expected_y.view(), {}, {.backend = backend});
        losa::spmm_transposed(packed, g.view(), expected_dx.view(), {}, {.backend = backend});
        losa::sddmm(g.view(), x.view(), expected, {}, {.backend = backend});
        forward.prepare(odd);  // of the others too: the barrier lies in the same place
        for (int round = 0; round < 3; ++round) {
          Matrix y(tokens, 333, 5), dx(tokens, 500, 6);
          auto values = packed.like();
          enter(forward, {.x = x.view(), .y = y.view()}, odd);
          enter(backward, {.g = g.view(), .dx = dx.view()}, odd);
          enter(gradient, {.g = g.view(), .x = x.view(), .values = values.values()}, odd);
          CHECK(test::bits_of(y) == test::bits_of(expected_y));
          CHECK(test::bits_of(dx) == test::bits_of(expected_dx));
          CHECK(test::bits(std::span<const float>(values.values())) ==
                test::bits(std::span<const float>(expected.values())));
        }
      }
}

TEST_CASE("plan: no result depends on the number of threads it is made for") {
  const bool share = test::parse_share(std::getenv("LOSA_TEST_SHARE")) > 1;
  const auto packed = test::random_packed<float>(share ? 203 : 1203, 300, 0.7, 3);
  for (const losa::Backend* backend : test::backends())
    for_each_format(packed, [&](const auto& matrix) {
      for (std::size_t tokens : share ? test::Sizes{1, 9} : test::Sizes{1, 5, 8, 9, 40}) {
        if (std::string(backend->name) == "reference" && tokens > 1) continue;
        const Matrix x(tokens, 300, 1);
        std::string first;
        for (std::size_t threads : share ? test::Sizes{1, 2, 7} : test::Sizes{1, 2, 7, 100}) {
          Matrix y(tokens, packed.rows(), 2);
          test::by_plan(losa::plan(matrix, tokens, {.threads = threads, .backend = backend}),
                        losa::Multiply{.x = x.view(), .y = y.view()}, threads);
          if (first.empty()) first = test::bits_of(y);
          CHECK(test::bits_of(y) == first);
        }
      }
    });
}

TEST_CASE("plan: errors name what was expected and what came") {
  const auto packed = test::random_packed<float>(4, 5, 0.5, 1);
  const Matrix x(3, 5, 1);
  Matrix y(3, 4, 2);
  std::vector<float> values(packed.kept());
  CHECK_THROWS_WITH_AS(losa::plan(packed, 3, {.threads = 0}), "plan: threads must be at least 1, got 0",
                       losa::RangeError);
  const losa::Plan plan = losa::plan(packed, 3);
  CHECK_NOTHROW(plan.expect({.x = x.view(), .y = y.view()}));
  CHECK_THROWS_WITH_AS(plan.expect({.x = Matrix(2, 5, 1).view(), .y = y.view()}), "run: x must be 3 × 5, got 2 × 5",
                       losa::ShapeError);
  CHECK_THROWS_WITH_AS(plan.expect({.x = x.view(), .y = Matrix(3, 5, 1).view()}), "run: y must be 3 × 4, got 3 × 5",
                       losa::ShapeError);
  CHECK_THROWS_WITH_AS(plan.expect({.x = x.view(), .y = y.view(), .bias = values}),
                       ("run: bias must have 4 elements, got " + std::to_string(values.size())).c_str(),
                       losa::ShapeError);
  CHECK_THROWS_WITH_AS(plan.expect({.x = {x.view().data, 3, 5, 4}, .y = y.view()}),
                       "run: x has a stride of 4, shorter than a row of 5", losa::ShapeError);
  const auto sample = losa::plan<losa::Sample>(packed, 3);
  CHECK_THROWS_AS(sample.expect({.g = y.view(), .x = x.view(), .values = {values.data(), values.size() - 1}}),
                  losa::ShapeError);
  CHECK_THROWS_AS(sample.expect({.g = y.view(), .x = x.view(), .values = values, .base = {values.data(), 1}}),
                  losa::ShapeError);
  CHECK_NOTHROW(sample.expect({.g = y.view(), .x = x.view(), .values = values}));
  const auto back = losa::plan<losa::MultiplyTransposed>(packed, 3);
  CHECK_THROWS_WITH_AS(back.expect({.g = x.view(), .dx = Matrix(3, 5, 1).view()}), "run: g must be 3 × 4, got 3 × 5",
                       losa::ShapeError);
}

TEST_CASE("plan: rounding is what the products do, and how far their sums go") {
  const auto packed = test::random_packed<float>(40, 300, 0.6, 1);
  const auto bytes = losa::quantize<losa::Int8>(packed);
  for (const losa::Backend* backend : losa::backends()) {
    const losa::Rounding f32 = test::rounding_of(packed, 1, backend);
    CHECK(f32.step == 0);
    CHECK(f32.most == std::numeric_limits<float>::max());
    const losa::Rounding int8 = test::rounding_of(bytes, 1, backend);
    CHECK(int8.step < 0.005);
    CHECK(int8.most > 1e25f);
  }
}
