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
#include <losa/gemm/plain.hpp>

namespace plain = losa::plain;
using test::Matrix;

namespace {
std::size_t allocations = 0;  // of the one thread that multiplies at a time
}

// ThreadSanitizer brings operators of its own; under it nothing is counted.
#if !defined(__has_feature)
#define __has_feature(x) 0
#endif
#if !__has_feature(thread_sanitizer) && !defined(__SANITIZE_THREAD__)
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
#endif

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
    Matrix sum(9, 70, 5, 6);
    Matrix expected_sum(9, 70, 5);
    losa::spmm(matrix, x.view(), expected_sum.view(), {}, {.accumulate = true});
    plain::multiply(w, x.view().data, 9, 133, sum.view().data, 76, nullptr, threads, plain::Into::add);
    CHECK(test::bits_of(sum) == test::bits_of(expected_sum));
    Matrix dense(70, 130, 6, 2);
    Matrix expected_dense(70, 130, 0);
    matrix.to_dense(expected_dense.view());
    w.to_dense(dense.view().data, 132);
    CHECK(test::bits_of(dense) == test::bits_of(expected_dense));
  };
  const auto packed = losa::pack(weight.view(), mask);
  check(plain::Type::f32, packed);
  check(plain::Type::bf16, losa::pack_as<losa::bf16>(weight.view(), mask));
  check(plain::Type::f16, losa::pack_as<losa::f16>(weight.view(), mask));
  check(plain::Type::int8, losa::quantize<losa::Int8>(packed));
  check(plain::Type::int4, losa::quantize<losa::Int4>(packed));
  check(plain::Type::f32_list, losa::ListMatrix<float>(packed));
  check(plain::Type::bf16_list, losa::ListMatrix<losa::bf16>(packed));
  check(plain::Type::f16_list, losa::ListMatrix<losa::f16>(packed));
  check(plain::Type::int8_list, losa::ListMatrix<losa::Int8>(packed));
}

TEST_CASE("plain: dx and the gradient at the mask have the bits of losa's own, written or added, with strides") {
  const Matrix weight(70, 130, 1);
  const losa::Mask mask = test::random_mask(70, 130, 0.6, 1);
  std::vector<unsigned char> keep(70 * 130);
  for (std::size_t i = 0; i < keep.size(); ++i) keep[i] = mask(i / 130, i % 130);
  const Matrix x(9, 130, 2, 3);
  const Matrix g(9, 70, 3, 1);
  const plain::Weights w = plain::pack(weight.view().data, 70, 130, 130, keep.data());
  auto packed = losa::pack(weight.view(), mask);
  for (plain::Into into : {plain::Into::overwrite, plain::Into::add}) {
    const losa::ProductOptions options{.accumulate = into == plain::Into::add};
    Matrix dx(9, 130, 4, 2);
    Matrix expected(9, 130, 4);
    losa::spmm_transposed(packed, g.view(), expected.view(), {}, options);
    plain::multiply_transposed(w, g.view().data, 9, 71, dx.view().data, 132, {}, into);
    CHECK(test::bits_of(dx) == test::bits_of(expected));
    CHECK(dx.gaps_intact());

    plain::Weights gradient = w;
    auto expected_gradient = packed;
    losa::sddmm(g.view(), x.view(), expected_gradient, {}, options);
    plain::sample(g.view().data, 71, x.view().data, 133, 9, gradient, {}, into);
    Matrix dense(70, 130, 5);
    Matrix expected_dense(70, 130, 6);
    gradient.to_dense(dense.view().data, 130);
    expected_gradient.to_dense(expected_dense.view());
    CHECK(test::bits_of(dense) == test::bits_of(expected_dense));
    w.to_dense(dense.view().data, 130);  // the copy's values are its own
    packed.to_dense(expected_dense.view());
    CHECK(test::bits_of(dense) == test::bits_of(expected_dense));
  }
}

TEST_CASE("plain: weights from a packed matrix, and on the backend that is named") {
  const Matrix weight(40, 130, 1);
  const auto packed = losa::pack(weight.view(), test::random_mask(40, 130, 0.6, 1));
  const Matrix x(5, 130, 2);
  const Matrix g(5, 40, 3);
  plain::Weights w(packed);
  CHECK(w.type() == plain::Type::f32);
  CHECK(w.kept() == packed.kept());
  CHECK(plain::Weights(losa::quantize<losa::Int4>(packed)).type() == plain::Type::int4);
  for (const losa::Backend* backend : losa::backends()) {
    w.use(backend->name);
    const plain::Weights copy = w;
    Matrix y(5, 40, 4);
    Matrix expected(5, 40, 5);
    plain::multiply(copy, x.view().data, 5, 130, y.view().data, 40);
    losa::spmm(packed, x.view(), expected.view(), {}, {.backend = backend});
    CHECK(test::bits_of(y) == test::bits_of(expected));

    Matrix dx(5, 130, 6);
    Matrix expected_dx(5, 130, 7);
    plain::multiply_transposed(copy, g.view().data, 5, 40, dx.view().data, 130);
    losa::spmm_transposed(packed, g.view(), expected_dx.view(), {}, {.backend = backend});
    CHECK(test::bits_of(dx) == test::bits_of(expected_dx));

    plain::Weights gradient = w;
    auto expected_gradient = packed;
    plain::sample(g.view().data, 40, x.view().data, 130, 5, gradient);
    losa::sddmm(g.view(), x.view(), expected_gradient, {}, {.backend = backend});
    Matrix dense(40, 130, 8);
    Matrix expected_dense(40, 130, 9);
    gradient.to_dense(dense.view().data, 130);
    expected_gradient.to_dense(expected_dense.view());
    CHECK(test::bits_of(dense) == test::bits_of(expected_dense));
  }
  CHECK_THROWS_AS(w.use("abacus"), losa::UnsupportedError);
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
  CHECK_THROWS_WITH_AS(w.to_dense(weight.data(), 3), "to_dense: stride must be at least 4, got 3", losa::ShapeError);
  CHECK_THROWS_WITH_AS(plain::multiply_transposed(w, weight.data(), 1, 3, weight.data(), 3),
                       "multiply_transposed: dx_stride must be at least 4, got 3", losa::ShapeError);
  plain::Weights halves = plain::pack(weight.data(), 3, 4, 4, nullptr, plain::Type::bf16);
  CHECK_THROWS_WITH_AS(plain::multiply_transposed(halves, weight.data(), 1, 3, weight.data(), 4),
                       "multiply_transposed: weights must be of type f32", losa::UnsupportedError);
  CHECK_THROWS_WITH_AS(plain::sample(weight.data(), 3, weight.data(), 4, 1, halves),
                       "sample: weights must be of type f32", losa::UnsupportedError);
  weight[5] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_AS(plain::pack(weight.data(), 3, 4, 4, nullptr, plain::Type::int8), losa::NumericError);
  CHECK_THROWS_WITH_AS(plain::pack(weight.data(), 3, 4, 4, nullptr, static_cast<plain::Type>(9)),
                       "pack: no such type: 9", losa::RangeError);
  weight[5] = 1e7f;
  CHECK_THROWS_AS(plain::pack(weight.data(), 3, 4, 4, nullptr, plain::Type::int4), losa::NumericError);
}

TEST_CASE("plain: after reserve no product on the thread allocates") {
  const Matrix weight(150, 300, 1);
  std::vector<unsigned char> keep(150 * 300);
  for (std::size_t i = 0; i < keep.size(); ++i) keep[i] = i % 5 < 2;
  for (int which = 0; which <= static_cast<int>(plain::Type::int8_list); ++which) {
    const auto type = static_cast<plain::Type>(which);
    CAPTURE(which);
    const plain::Weights w = plain::pack(weight.view().data, 150, 300, weight.view().stride, keep.data(), type);
    for (std::size_t most : test::Sizes{1, 7, 64, 200}) {
      CAPTURE(most);
      Matrix x(most, 300, 2);
      Matrix y(most, 150, 3);
      std::size_t taken = 0;
      // A thread that has multiplied nothing yet.
      std::thread([&] {
        CHECK(plain::reserve(w, most) > 0);
        const std::size_t before = allocations;
        for (int round = 0; round < 2; ++round) {
          for (std::size_t tokens = most; tokens > 0; --tokens)
            plain::multiply(w, x.view().data, tokens, x.view().stride, y.view().data, y.view().stride);
          x.view()(0, 7) = std::numeric_limits<float>::quiet_NaN();
        }
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
