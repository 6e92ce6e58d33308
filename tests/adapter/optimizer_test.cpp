#include <losa/adapter/optimizer.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include "oracle.hpp"

using losa::adamw_step;
using losa::AdamWOptions;
using losa::LinearWarmupDecay;
using losa::Moments;
using oracle::sentence;

TEST_CASE("AdamW: three steps by hand") {
  // β₁ = ½, β₂ = ¾, ε = 0, λ = 0.1, lr = 0.1, p = 1, g = 2, −1, 0.
  //   m = 1, 0, 0              m̂ = 1/½ = 2, 0/¾ = 0, 0
  //   v = 1, 1, ¾              v̂ = 1/¼ = 4, …
  //   p = 1·0.99 − 0.1·2/2 = 0.89, then only the decay: 0.8811, 0.872289
  Moments moments;
  std::vector<float> p{1.0f};
  const AdamWOptions options{.beta1 = 0.5, .beta2 = 0.75, .eps = 0, .weight_decay = 0.1};
  const std::vector<float> g1{2.0f}, g2{-1.0f}, g3{0.0f};
  adamw_step(p, g1, moments, options, 0.1, 1);
  CHECK(moments.m[0] == 1.0f);
  CHECK(moments.v[0] == 1.0f);
  CHECK(p[0] == doctest::Approx(0.89f));
  adamw_step(p, g2, moments, options, 0.1, 2);
  CHECK(moments.m[0] == 0.0f);
  CHECK(moments.v[0] == 1.0f);
  CHECK(p[0] == doctest::Approx(0.8811f));
  adamw_step(p, g3, moments, options, 0.1, 3);
  CHECK(moments.v[0] == 0.75f);
  CHECK(p[0] == doctest::Approx(0.872289f));
}

TEST_CASE("AdamW: the third step with its bias correction") {
  // β₁ = ½, β₂ = ¾, g = 1, 1, 3: m = ½, ¾, 15/8, v = ¼, 7/16, 165/64;
  // m̂₃ = (15/8)/(7/8) = 15/7, v̂₃ = (165/64)/(37/64) = 165/37.
  Moments moments;
  std::vector<float> p{0.0f};
  const AdamWOptions options{.beta1 = 0.5, .beta2 = 0.75, .eps = 0.5};
  const std::vector<float> one{1.0f}, three{3.0f};
  adamw_step(p, one, moments, options, 1, 1);
  CHECK(p[0] == doctest::Approx(-1 / 1.5));
  adamw_step(p, one, moments, options, 1, 2);
  CHECK(p[0] == doctest::Approx(-2 / 1.5));
  adamw_step(p, three, moments, options, 1, 3);
  CHECK(moments.m[0] == 1.875f);
  CHECK(moments.v[0] == 2.578125f);
  CHECK(p[0] == doctest::Approx(-2 / 1.5 - (15.0 / 7) / (std::sqrt(165.0 / 37) + 0.5)));
}

TEST_CASE("AdamW: a first step is lr in the direction of the sign, and decay acts without a gradient") {
  Moments moments;
  std::vector<float> p{1.0f, 1.0f, 1.0f, 1.0f};
  const std::vector<float> g{1e-3f, -1e3f, 0.0f, 1.0f};
  adamw_step(p, g, moments, {}, 0.01, 1);
  CHECK(p[0] == doctest::Approx(0.99).epsilon(1e-4));
  CHECK(p[1] == doctest::Approx(1.01));
  CHECK(p[2] == 1.0f);
  adamw_step(p, std::vector<float>(4), moments, {.weight_decay = 0.5}, 0.0, 2);
  CHECK(p[2] == 1.0f);  // decay is scaled by the rate, which is 0
}

TEST_CASE("AdamW: a gradient scale is the gradient scaled") {
  Moments one, two;
  std::vector<float> p{1.0f, -2.0f}, q = p;
  const std::vector<float> g{0.5f, 3.0f}, half{0.25f, 1.5f};
  for (std::uint64_t step = 1; step <= 4; ++step) {
    adamw_step(p, g, one, {}, 0.1, step, 0.5f);
    adamw_step(q, half, two, {}, 0.1, step);
  }
  CHECK(oracle::same_bits(p, q));
  CHECK(oracle::same_bits(one.v, two.v));
}

TEST_CASE("AdamW: moments put back go on with the same bits") {
  Moments moments, restored;
  std::vector<float> p{1.0f, -2.0f};
  const std::vector<float> g{0.5f, 3.0f};
  adamw_step(p, g, moments, {}, 0.1, 1);
  oracle::Shelf shelf;
  moments.visit(shelf);
  shelf.rewind();
  restored.visit(shelf);
  std::vector<float> q = p;
  adamw_step(p, g, moments, {}, 0.1, 2);
  adamw_step(q, g, restored, {}, 0.1, 2);
  CHECK(oracle::same_bits(p, q));
  CHECK(oracle::same_bits(moments.m, restored.m));
}

TEST_CASE("AdamW: errors name the argument") {
  Moments moments;
  std::vector<float> p(3), g(3), other(2);
  CHECK(sentence<losa::ShapeError>([&] { adamw_step(p, other, moments, {}, 0.1, 1); }) ==
        "adamw_step: gradient must have 3 elements, got 2");
  moments.m.resize(2);
  CHECK(sentence<losa::ShapeError>([&] { adamw_step(p, g, moments, {}, 0.1, 1); }) ==
        "adamw_step: moments must have 3 elements, got 2 and 0");
  moments = {};
  CHECK(sentence<losa::RangeError>([&] { adamw_step(p, g, moments, {}, 0.1, 0); }) ==
        "adamw_step: step counts from 1, got 0");
  CHECK(sentence<losa::RangeError>([&] { adamw_step(p, g, moments, {.beta1 = 1}, 0.1, 1); }) ==
        "adamw_step: beta1 must be in [0, 1), got 1");
  CHECK(sentence<losa::RangeError>([&] { adamw_step(p, g, moments, {.beta2 = -1}, 0.1, 1); }) ==
        "adamw_step: beta2 must be in [0, 1), got -1");
}

TEST_CASE("clipping: the joint norm is at most the bound, smaller gradients are untouched") {
  const std::vector<float> a{3.0f}, b{4.0f, 12.0f};
  const double norm = std::sqrt(losa::squared_norm(a) + losa::squared_norm(b));
  CHECK(norm == 13.0);
  CHECK(losa::clip_scale(norm, 6.5) == 0.5);
  CHECK(losa::clip_scale(norm, 13) == 1.0);
  CHECK(losa::clip_scale(norm, 14) == 1.0);
  CHECK(losa::clip_scale(0, 1) == 1.0);
  CHECK(losa::clip_scale(norm, std::numeric_limits<double>::infinity()) == 1.0);
  CHECK(losa::squared_norm(std::vector<float>{1e30f, 1e-30f}) == doctest::Approx(1e60));  // past the range of float
  CHECK(sentence<losa::RangeError>([&] { losa::clip_scale(norm, 0); }) ==
        "clip_scale: max_norm must be positive, got 0");
  CHECK(sentence<losa::NumericError>([&] { losa::clip_scale(std::nan(""), 1); }) ==
        "clip_scale: the norm of the gradients is not finite, got nan");
}

TEST_CASE("schedule: linear up, linear down, nothing lost at the ends") {
  const LinearWarmupDecay rate{.peak = 8, .warmup = 4, .total = 11};
  const double expected[] = {0, 2, 4, 6, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0};
  for (std::uint64_t step = 0; step < 14; ++step) CHECK(rate(step) == doctest::Approx(expected[step]));
  const LinearWarmupDecay cold{.peak = 3, .warmup = 0, .total = 3};
  CHECK(cold(1) == 3);
  CHECK(cold(2) == 2);
  CHECK(cold(3) == 1);
  CHECK(cold(4) == 0);
  const LinearWarmupDecay only_up{.peak = 4, .warmup = 8, .total = 2};
  CHECK(only_up(2) == 1);
  CHECK(only_up(3) == 0);
}
