#include <losa/adapter/resize.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

#include <losa/adapter/lora_factors.hpp>
#include <losa/adapter/masked_lora.hpp>

#include "product_laws.hpp"

using namespace oracle;
using losa::LoraFactors;
using losa::MaskedLora;
using losa::Moments;

namespace {

/// M⊙(W + σBA) in double.
std::vector<double> effective(const LoraFactors& factors, const Dense& weight, const losa::Mask& mask) {
  std::vector<double> result(weight.data.size());
  for (std::size_t r = 0; r < weight.rows; ++r)
    mask.for_each_kept(r, [&](std::size_t c) {
      result[r * weight.cols + c] = static_cast<double>(weight(r, c)) + delta(factors, r, c);
    });
  return result;
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
  return most;
}

double norm_of_difference(const LoraFactors& a, const LoraFactors& b) {
  double sum = 0;
  for (std::size_t r = 0; r < a.out(); ++r)
    for (std::size_t c = 0; c < a.in(); ++c) {
      const double d = delta(a, r, c) - delta(b, r, c);
      sum += d * d;
    }
  return std::sqrt(sum);
}

}  // namespace

TEST_CASE("grow: every product stays the same bit for bit, weights and old components too") {
  for (double p : {0.0, 0.3})
    for (std::size_t rank : {4u, 5u, 8u, 9u}) {
      CAPTURE(rank);
      Layer<MaskedLora> layer({20, 70, 5, 3, 0.5, p});
      const Dense weight = layer.weight;
      const Dense y = layer.run();
      const std::vector<float> values(layer.packed.values().begin(), layer.packed.values().end());
      const LoraFactors before = layer.adapter;
      const losa::RankChange change = layer.adapter.resize(rank, layer.weight.view(), layer.mask, 40);
      CHECK(change.from == 3);
      CHECK(change.to == rank);
      CHECK(layer.adapter.rank() == rank);
      layer.adapter.refresh(layer.packed, layer.base);
      CHECK(same_bits(layer.weight.data, weight.data));
      CHECK(same_bits(layer.packed.values(), values));
      CHECK(same_bits(layer.run().data, y.data));
      for (std::size_t k = 0; k < rank; ++k) {
        if (k < 3) {
          CHECK(same_bits(layer.adapter.a().row(k), before.a().row(k)));
          CHECK(same_bits(layer.adapter.bt().row(k), before.bt().row(k)));
        } else {
          for (float b : layer.adapter.bt().row(k)) CHECK(same_bits(b, 0.0f));
          CHECK(std::ranges::any_of(layer.adapter.a().row(k), [](float a) { return a != 0.0f; }));
        }
      }
      // The new components learn at once.
      losa::LoraGradients gradients;
      layer.adapter.backward(layer.packed, layer.x.view(), layer.g.view(), gradients, {}, layer.key);
      for (std::size_t k = 3; k < rank; ++k) CHECK(gradients.bt[k * 20] != 0.0f);
    }
}

TEST_CASE("grow: from rank 0, and by given rows") {
  Layer<MaskedLora> layer({6, 9, 3, 0, 0.5, 0});
  layer.adapter.resize(2, layer.weight.view(), layer.mask, 1);
  const Dense rows = normal(3, 9, 50);
  const losa::RankChange change = layer.adapter.grow(rows.view());
  CHECK(change.from == 2);
  CHECK(change.to == 5);
  CHECK(layer.adapter.rank() == 5);
  for (std::size_t k = 0; k < 3; ++k) {
    CHECK(same_bits(layer.adapter.a().row(2 + k), rows.view().row(k)));
    for (float b : layer.adapter.bt().row(2 + k)) CHECK(b == 0.0f);
  }
  CHECK(sentence<losa::RangeError>([&] { layer.adapter.grow(normal(2, 9, 1).view()); }) ==
        "grow: rank of a 6 × 9 layer must be at most 6, got 7");
  CHECK(sentence<losa::ShapeError>([&] { layer.adapter.grow(normal(1, 8, 1).view()); }) ==
        "grow: fresh_a must be 1 × 9, got 1 × 8");
}

TEST_CASE("shrink: with the remainder folded the function stays, truncation alone moves it") {
  for (std::size_t rank : {0u, 1u, 3u, 5u}) {
    CAPTURE(rank);
    Layer<MaskedLora> layer({20, 70, 5, 6, 0.5, 0});
    const Dense weight = layer.weight;
    const std::vector<double> before = effective(layer.adapter, layer.weight, layer.mask);
    layer.adapter.resize(rank, layer.weight.view(), layer.mask, 40);
    CHECK(layer.adapter.rank() == rank);
    const std::vector<double> after = effective(layer.adapter, layer.weight, layer.mask);
    // Half a unit in the last place of the folded weight, and no more: the rounding of the factors is folded too.
    for (std::size_t i = 0; i < before.size(); ++i)
      CHECK(std::abs(after[i] - before[i]) <= 0.5000001 * static_cast<double>(std::numeric_limits<float>::epsilon()) *
                                                  std::abs(static_cast<double>(layer.weight.data[i])));
    // What the published implementation does: the same factors without the fold, and positional truncation.
    CHECK(largest_difference(before, effective(layer.adapter, weight, layer.mask)) > 0.01);
    Layer<MaskedLora> cut({20, 70, 5, 6, 0.5, 0});
    LoraFactors sliced(20, 70, {.rank = rank, .scale = 1.5});
    for (std::size_t k = 0; k < rank; ++k) {
      std::ranges::copy(cut.adapter.a().row(k), sliced.a().row(k).begin());
      std::ranges::copy(cut.adapter.bt().row(k), sliced.bt().row(k).begin());
    }
    CHECK(largest_difference(before, effective(sliced, weight, layer.mask)) > 0.1);
    if (rank != 0) CHECK(norm_of_difference(cut.adapter, layer.adapter) < norm_of_difference(cut.adapter, sliced));
    // Pruned positions of the master are left alone.
    for (std::size_t r = 0; r < 20; ++r)
      for (std::size_t c = 0; c < 70; ++c)
        if (!layer.mask(r, c)) CHECK(same_bits(layer.weight(r, c), weight(r, c)));
  }
}

TEST_CASE("shrink: the products of the whole layer agree to rounding") {
  Layer<MaskedLora> layer({20, 70, 5, 6, 0.5, 0.3});
  layer.key.training = false;
  const Dense y = layer.run();
  layer.adapter.resize(2, layer.weight.view(), layer.mask, 40);
  layer.adapter.refresh(layer.packed, kept_values(layer.weight, layer.mask));
  const Dense after = layer.run();
  for (std::size_t i = 0; i < y.data.size(); ++i)
    CHECK(static_cast<double>(after.data[i]) ==
          doctest::Approx(static_cast<double>(y.data[i])).epsilon(1e-5).scale(10));
}

TEST_CASE("shrink: what is cut off is the smallest singular values (Eckart-Young)") {
  // B and A with orthogonal columns and rows: BA = 4·u₁v₁ᵀ + 2·u₂v₂ᵀ + 1·u₃v₃ᵀ.
  LoraFactors factors(4, 5, {.rank = 3, .scale = 1});
  std::ranges::fill(factors.parameters()[0], 0.0f);
  const float length[3] = {2, 1, 4};
  for (std::size_t k = 0; k < 3; ++k) {
    factors.a()(k, k + 1) = 0.5f;
    factors.bt()(k, k) = 2 * length[k];
  }
  const LoraFactors before = factors;
  Dense weight(4, 5);
  const losa::Mask none(4, 5);
  factors.resize(2, weight.view(), none, 0);
  CHECK(norm_of_difference(before, factors) == doctest::Approx(1.0));
  CHECK(delta(factors, 0, 1) == doctest::Approx(2.0));
  CHECK(delta(factors, 1, 2) == doctest::Approx(0.0));
  CHECK(delta(factors, 2, 3) == doctest::Approx(4.0));
  // Rows of A keep the root mean square of the old lengths.
  for (std::size_t k = 0; k < 2; ++k) CHECK(losa::squared_norm(factors.a().row(k)) == doctest::Approx(0.25));
  factors.resize(1, weight.view(), none, 0);
  CHECK(norm_of_difference(before, factors) == doctest::Approx(std::sqrt(5.0)));
}

TEST_CASE("shrink: components without weight stay trainable") {
  for (bool zero_a : {false, true}) {
    Layer<MaskedLora> layer({20, 70, 5, 4, 0.5, 0});
    std::ranges::fill(layer.adapter.parameters()[1], 0.0f);
    if (zero_a) std::ranges::fill(layer.adapter.parameters()[0], 0.0f);
    const Dense weight = layer.weight;
    layer.adapter.resize(2, layer.weight.view(), layer.mask, 40);
    CHECK(same_bits(layer.weight.data, weight.data));
    for (std::size_t k = 0; k < 2; ++k)
      for (float b : layer.adapter.bt().row(k)) CHECK(b == 0.0f);
    for (std::size_t k = 0; k < 2; ++k) CHECK(losa::squared_norm(layer.adapter.a().row(k)) > 0.1);
  }
}

TEST_CASE("shrink: threads change no bit") {
  Layer<MaskedLora> serial({20, 70, 5, 6, 0.5, 0});
  Layer<MaskedLora> parallel({20, 70, 5, 6, 0.5, 0});
  losa::ThreadPool pool(3);
  serial.adapter.resize(2, serial.weight.view(), serial.mask, 40);
  parallel.adapter.resize(2, parallel.weight.view(), parallel.mask, 40, pool);
  CHECK(same_bits(serial.weight.data, parallel.weight.data));
}

TEST_CASE("resize: gradients and first moments turn with the components") {
  // ∂L/∂A and ∂L/∂B of the truncated factors, by backward and by the maps, must agree (the masked weight gradient does
  // not change, as it depends on x and g alone).
  Layer<MaskedLora> layer({20, 70, 5, 6, 0.5, 0});
  losa::LoraGradients old, now;
  layer.adapter.backward(layer.packed, layer.x.view(), layer.g.view(), old);
  Moments a{old.a, std::vector<float>(old.a.size(), 1.0f)};
  Moments bt{old.bt, std::vector<float>(old.bt.size(), 1.0f)};
  const losa::RankChange change = layer.adapter.resize(3, layer.weight.view(), layer.mask, 40);
  change.apply(a, bt);
  layer.adapter.backward(layer.packed, layer.x.view(), layer.g.view(), now);
  REQUIRE(a.m.size() == now.a.size());
  REQUIRE(bt.m.size() == now.bt.size());
  for (std::size_t i = 0; i < now.a.size(); ++i)
    CHECK(static_cast<double>(a.m[i]) == doctest::Approx(static_cast<double>(now.a[i])).epsilon(1e-4).scale(1));
  for (std::size_t i = 0; i < now.bt.size(); ++i)
    CHECK(static_cast<double>(bt.m[i]) == doctest::Approx(static_cast<double>(now.bt[i])).epsilon(1e-4).scale(1));
  for (const Moments* moments : {&a, &bt})
    for (float v : moments->v) CHECK(v > 0.0f);
}

TEST_CASE("resize: growing keeps moments and starts new ones at 0, the same rank changes nothing") {
  Layer<MaskedLora> layer({4, 5, 3, 2, 0.5, 0});
  Moments a{std::vector<float>(10, 0.5f), std::vector<float>(10, 0.25f)};
  Moments bt{std::vector<float>(8, 0.75f), std::vector<float>(8, 0.125f)};
  layer.adapter.resize(3, layer.weight.view(), layer.mask, 1).apply(a, bt);
  REQUIRE(a.m.size() == 15);
  REQUIRE(bt.v.size() == 12);
  for (std::size_t i = 0; i < 15; ++i) CHECK(a.m[i] == (i < 10 ? 0.5f : 0.0f));
  for (std::size_t i = 0; i < 12; ++i) CHECK(bt.v[i] == (i < 8 ? 0.125f : 0.0f));
  const LoraFactors before = layer.adapter;
  const Moments same = a;
  layer.adapter.resize(3, layer.weight.view(), layer.mask, 2).apply(a, bt);
  CHECK(a.m == same.m);
  CHECK(same_bits(before.a().row(2), layer.adapter.a().row(2)));
  layer.adapter.resize(0, layer.weight.view(), layer.mask, 2).apply(a, bt);
  CHECK(a.m.empty());
  CHECK(bt.v.empty());
  Moments none_a, none_bt;
  layer.adapter.resize(2, layer.weight.view(), layer.mask, 3).apply(none_a, none_bt);
  CHECK(none_a.m.empty());
}

TEST_CASE("resize: errors name the argument") {
  Layer<MaskedLora> layer({4, 5, 3, 2, 0.5, 0});
  Dense wrong(4, 4);
  CHECK(sentence<losa::RangeError>([&] { layer.adapter.resize(5, layer.weight.view(), layer.mask, 1); }) ==
        "resize: rank of a 4 × 5 layer must be at most 4, got 5");
  CHECK(sentence<losa::ShapeError>([&] { layer.adapter.resize(1, wrong.view(), layer.mask, 1); }) ==
        "resize: weight must be 4 × 5, got 4 × 4");
  CHECK(sentence<losa::ShapeError>([&] { layer.adapter.resize(1, layer.weight.view(), losa::Mask(4, 6), 1); }) ==
        "resize: mask must be 4 × 5, got 4 × 6");
  layer.adapter.bt()(0, 0) = std::numeric_limits<float>::infinity();
  CHECK(sentence<losa::NumericError>([&] { layer.adapter.resize(1, layer.weight.view(), layer.mask, 1); }) ==
        "resize: a factor of the adapter is not finite");
  CHECK(layer.adapter.rank() == 2);
  Moments a{std::vector<float>(7), std::vector<float>(7)}, bt;
  CHECK(sentence<losa::ShapeError>([&] { layer.adapter.resize(3, layer.weight.view(), layer.mask, 1).apply(a, bt); }) ==
        "RankChange::apply: moments of a must have the same multiple of 2 elements, got 7 and 7");
}
