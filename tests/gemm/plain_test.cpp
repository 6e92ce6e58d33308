#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>
#include <thread>
#include <vector>

#include "backends.hpp"
#include "problem.hpp"

#include <losa/core/thread_pool.hpp>
#include <losa/gemm.hpp>

namespace plain = losa::plain;
using test::Matrix;

namespace {
std::size_t allocations = 0;  // of the one thread that multiplies at a time
}

[[gnu::noinline]] void* operator new(std::size_t n) {
  ++allocations;
  if (void* p = std::malloc(n == 0 ? 1 : n)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t n, std::align_val_t alignment) {
  ++allocations;
  const auto a = static_cast<std::size_t>(alignment);
  if (void* p = std::aligned_alloc(a, (n + a - 1) / a * a)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

TEST_CASE("plain: the same bits as losa::spmm for every type, with strides, bias and the caller's threads") {
  const Matrix weight(70, 130, 1, 5);
  std::vector<unsigned char> keep(70 * 130);
  losa::Mask mask(70, 130);
  for (std::size_t i = 0; i < keep.size(); ++i) {
    keep[i] = static_cast<unsigned char>(i % 3 == 0 ? 0 : i % 7 + 1);
    mask.set(i / 130, i % 130, keep[i] != 0);
  }
  const Matrix x(9, 130, 2, 3);
  const Matrix bias(1, 70, 3);
  losa::ThreadPool pool(3);
  const plain::Threads threads{[](void* p, std::size_t n, void (*task)(void*, std::size_t), void* context) {
                                 static_cast<losa::ThreadPool*>(p)->parallel_for(
                                     n, [&](std::size_t i) { task(context, i); });
                               },
                               &pool};
  const auto check = [&](plain::Type type, const auto& matrix) {
    Matrix expected(9, 70, 0);
    losa::spmm(matrix, x.view(), expected.view(), {}, {.bias = bias.view().row(0)});
    const plain::Weights w = plain::pack(weight.view().data, 70, 130, 135, keep.data(), type, threads);
    CHECK(w.rows() == 70);
    CHECK(w.cols() == 130);
    CHECK(w.kept() == mask.kept());
    CHECK(w.type() == type);
    CHECK(w.bytes() == matrix.bytes());
    for (const plain::Threads& with : {plain::Threads{}, threads}) {
      Matrix y(9, 70, 4, 6);
      plain::multiply(w, x.view().data, 9, 133, y.view().data, 76, bias.view().data, with);
      CHECK(test::bits_of(y) == test::bits_of(expected));
      CHECK(y.gaps_intact());
    }
  };
  const auto packed = losa::pack(weight.view(), mask);
  check(plain::Type::f32, packed);
  check(plain::Type::bf16, losa::pack_as<losa::bf16>(weight.view(), mask));
  check(plain::Type::f16, losa::pack_as<losa::f16>(weight.view(), mask));
  check(plain::Type::int8, losa::quantize<losa::Int8>(packed));
  check(plain::Type::int4, losa::quantize<losa::Int4>(packed));
}

TEST_CASE("plain: without a mask, zeros are what is pruned") {
  const std::vector<float> weight{0, 1, -0.0f, 2, 3, 0};
  CHECK(plain::pack(weight.data(), 2, 3, 3).kept() == 3);
}

TEST_CASE("plain: strides shorter than rows and weights that are not finite are refused in one sentence") {
  std::vector<float> weight(12, 1.0f);
  const plain::Weights w = plain::pack(weight.data(), 3, 4, 4);
  CHECK_THROWS_WITH_AS(plain::pack(weight.data(), 3, 4, 3), "pack: stride must be at least 4, got 3", losa::ShapeError);
  CHECK_THROWS_WITH_AS(plain::multiply(w, weight.data(), 1, 3, weight.data(), 3),
                       "multiply: x_stride must be at least 4, got 3", losa::ShapeError);
  CHECK_THROWS_WITH_AS(plain::multiply(w, weight.data(), 1, 4, weight.data(), 2),
                       "multiply: y_stride must be at least 3, got 2", losa::ShapeError);
  weight[5] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_AS(plain::pack(weight.data(), 3, 4, 4, nullptr, plain::Type::int8), losa::NumericError);
}

TEST_CASE("plain: after reserve no product on the thread allocates") {
  const Matrix weight(150, 300, 1);
  std::vector<unsigned char> keep(150 * 300);
  for (std::size_t i = 0; i < keep.size(); ++i) keep[i] = i % 5 < 2;
  for (plain::Type type : {plain::Type::f32, plain::Type::bf16, plain::Type::int8, plain::Type::int4}) {
    const plain::Weights w = plain::pack(weight.view().data, 150, 300, weight.view().stride, keep.data(), type);
    for (std::size_t most : test::Sizes{1, 7, 64, 200}) {
      CAPTURE(most);
      const Matrix x(most, 300, 2);
      Matrix y(most, 150, 3);
      std::size_t taken = 0;
      // A thread that has multiplied nothing yet.
      std::thread([&] {
        plain::reserve(w, most);
        const std::size_t before = allocations;
        for (std::size_t tokens = most; tokens > 0; --tokens)
          plain::multiply(w, x.view().data, tokens, x.view().stride, y.view().data, y.view().stride);
        taken = allocations - before;
      }).join();
      CHECK(taken == 0);
    }
  }
}

TEST_CASE("products allocate nothing once a product of their size was there") {
  const auto packed = test::random_packed<float>(150, 300, 0.6, 1);
  auto gradient = packed.like();
  for (const losa::Backend* backend : losa::backends()) {
    if (std::string_view(backend->name) == "reference") continue;  // the oracle may
    CAPTURE(backend->name);
    for (std::size_t tokens : test::Sizes{1, 4, 9, 64, 150}) {
      const Matrix x(tokens, 300, 2);
      Matrix y(tokens, 150, 3);
      Matrix dx(tokens, 300, 4);
      std::size_t before = 0;
      for (int round = 0; round < 2; ++round) {
        before = allocations;
        losa::spmm(packed, x.view(), y.view(), {}, {.backend = backend});
        losa::spmm_transposed(packed, y.view(), dx.view(), {}, {.backend = backend});
        losa::sddmm(y.view(), x.view(), gradient, {}, {.backend = backend});
      }
      CHECK(allocations == before);
    }
  }
}

TEST_CASE("products of any number of tokens allocate nothing once 1, 2, 4 … and the most were there") {
  const Matrix weight(150, 300, 1);
  const losa::Mask mask = test::random_mask(150, 300, 0.6, 1);
  const auto halves = losa::pack_as<losa::bf16>(weight.view(), mask);
  const auto bytes = losa::quantize<losa::Int8>(losa::pack(weight.view(), mask));
  for (const losa::Backend* backend : test::backends()) {
    if (std::string_view(backend->name) == "reference") continue;
    const auto check = [&](const auto& matrix) {
      for (std::size_t most : test::Sizes{7, 16, 64, 200}) {
        CAPTURE(backend->name);
        CAPTURE(most);
        Matrix x(most, 300, 2);
        Matrix y(most, 150, 3);
        const auto multiply = [&](std::size_t tokens) {
          losa::spmm(matrix, {x.view().data, tokens, 300, x.view().stride},
                     {y.view().data, tokens, 150, y.view().stride}, {}, {.backend = backend});
        };
        std::size_t taken = 0;
        std::thread([&] {
          for (std::size_t tokens = 1; tokens < most; tokens *= 2) multiply(tokens);
          multiply(most);
          const std::size_t before = allocations;
          for (std::size_t tokens = most; tokens > 0; --tokens) multiply(tokens);
          x.view()(0, 5) = std::numeric_limits<float>::quiet_NaN();  // integers have to stay in float
          for (std::size_t tokens = most; tokens > 0; --tokens) multiply(tokens);
          taken = allocations - before;
        }).join();
        CHECK(taken == 0);
      }
    };
    check(halves);
    check(bytes);
  }
}
