#include <losa/adapter/merge.hpp>

#include <cmath>
#include <limits>

#include <losa/adapter/lora.hpp>
#include <losa/adapter/masked_lora.hpp>

#include "product_laws.hpp"

using namespace oracle;
using losa::Lora;
using losa::MaskedLora;

namespace {
losa::Mask two_of_four(std::size_t rows, std::size_t cols) {
  losa::Mask mask(rows, cols);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; c += 4) {
      mask.set(r, c + r % 4, true);
      mask.set(r, c + (r + 1 + c / 4 % 3) % 4, true);
    }
  return mask;
}
}  // namespace

TEST_CASE("merge: kept weights get the bits of refresh, pruned ones +0, threads change nothing") {
  for (double density : {0.0, 0.3, 1.0}) {
    Layer<MaskedLora> layer({40, 130, 3, 4, density, 0});
    for (std::size_t threads : {1u, 3u}) {
      losa::ThreadPool pool(threads);
      Dense weight = layer.weight;
      losa::merge(layer.adapter, weight.view(), layer.mask, pool);
      CHECK(same_bits(kept_values(weight, layer.mask), layer.packed.values()));
      for (std::size_t r = 0; r < 40; ++r)
        for (std::size_t c = 0; c < 130; ++c)
          if (!layer.mask(r, c)) CHECK(same_bits(weight(r, c), 0.0f));
    }
  }
}

TEST_CASE("merge: the merged model is the model with the adapter") {
  Layer<MaskedLora> layer({40, 130, 6, 4, 0.4, 0});
  const Dense y = layer.run();
  losa::merge(layer.adapter, layer.weight.view(), layer.mask);
  Dense merged(6, 40);
  losa::spmm(losa::pack(layer.weight.view(), layer.mask), layer.x.view(), merged.view());
  CHECK(same_bits(merged.data, y.data));

  Layer<Lora> plain({40, 130, 6, 4, 0.4, 0});  // the control loses what it had learned at pruned positions
  const Dense with = plain.run();
  losa::merge(plain.adapter, plain.weight.view(), plain.mask);
  losa::spmm(losa::pack(plain.weight.view(), plain.mask), plain.x.view(), merged.view());
  double difference = 0;
  for (std::size_t i = 0; i < with.data.size(); ++i)
    difference =
        std::max(difference, std::abs(static_cast<double>(with.data[i]) - static_cast<double>(merged.data[i])));
  CHECK(difference > 0.1);
  // Under the mask both adapters merge to the same weights.
  CHECK(same_bits(plain.weight.data, layer.weight.data));
}

TEST_CASE("merge: an N:M pattern stays one") {
  const losa::Mask mask = two_of_four(12, 64);
  Dense weight = normal(12, 64, 1);
  MaskedLora adapter(12, 64, {.rank = 3});
  fill(adapter, 6);
  losa::merge(adapter, weight.view(), mask);
  for (std::size_t r = 0; r < 12; ++r)
    for (std::size_t c = 0; c < 64; c += 4) {
      int zeros = 0;
      for (std::size_t i = 0; i < 4; ++i) zeros += weight(r, c + i) == 0.0f;
      CHECK(zeros == 2);
    }
}

TEST_CASE("unmerge: weights come back bit for bit, what lies at pruned positions too") {
  Layer<MaskedLora> layer({9, 40, 3, 3, 0.5, 0});
  layer.weight(2, 3) = -0.0f;
  layer.weight(2, 4) = std::numeric_limits<float>::denorm_min();
  const Dense before = layer.weight;
  losa::Merge merged(layer.adapter, layer.weight.view(), layer.mask);
  CHECK_FALSE(same_bits(layer.weight.data, before.data));
  losa::Merge moved = std::move(merged);
  moved.undo();
  CHECK(same_bits(layer.weight.data, before.data));
  layer.weight(0, 0) = 42;
  moved.undo();  // a second time changes nothing
  merged.undo();
  CHECK(layer.weight(0, 0) == 42.0f);
}

TEST_CASE("unmerge: subtracting would lose small weights, saving them does not") {
  // W = 2⁻¹² and Δ = 1: in bf16 the sum is 1 and (W + Δ) − Δ = 0, in float the same happens at 2⁻³⁰. A mask inferred
  // from W ≠ 0 would then prune the weight.
  Dense weight(1, 3);
  weight(0, 0) = 0x1p-12f;
  weight(0, 1) = 0x1p-30f;
  weight(0, 2) = -1.0f;  // cancels to 0 when merged
  const Dense before = weight;
  MaskedLora adapter(1, 3, {.rank = 1, .scale = 1});
  for (std::span<float> factor : adapter.parameters()) std::fill(factor.begin(), factor.end(), 1.0f);
  const losa::Mask mask = losa::Mask::full(1, 3);

  const losa::bf16 sum = losa::narrow<losa::bf16>(weight(0, 0) + 1.0f);
  CHECK(losa::widen(losa::narrow<losa::bf16>(losa::widen(sum) - 1.0f)) == 0.0f);

  losa::Merge merged(adapter, weight.view(), mask);
  CHECK(weight(0, 1) == 1.0f);
  CHECK(weight(0, 1) - 1.0f == 0.0f);
  CHECK(weight(0, 2) == 0.0f);
  CHECK(mask.kept() == 3);
  merged.undo();
  CHECK(same_bits(weight.data, before.data));
}

TEST_CASE("merge: a weight of 0 that the mask keeps stays trainable") {
  Dense weight(2, 3);  // all zero, all kept
  const losa::Mask mask = losa::Mask::full(2, 3);
  losa::PackedMatrix<float> packed = losa::pack(weight.view(), mask);
  MaskedLora adapter(2, 3, {.rank = 1});
  fill(adapter, 8);
  adapter.refresh(packed, kept_values(weight, mask));
  const Dense x = normal(4, 3, 2), g = normal(4, 2, 3);
  losa::LoraGradients gradients;
  adapter.backward(packed, x.view(), g.view(), gradients);
  for (float value : gradients.bt) CHECK(value != 0.0f);
  losa::merge(adapter, weight.view(), mask);
  for (float value : weight.data) CHECK(value != 0.0f);
}

TEST_CASE("merge: twice adds twice, undone in reverse order") {
  Layer<MaskedLora> layer({9, 40, 3, 3, 0.5, 0});
  const Dense before = layer.weight;
  losa::Merge first(layer.adapter, layer.weight.view(), layer.mask);
  const Dense once = layer.weight;
  losa::Merge second(layer.adapter, layer.weight.view(), layer.mask);
  for (std::size_t r = 0; r < 9; ++r)
    layer.mask.for_each_kept(r, [&](std::size_t c) {
      CHECK(static_cast<double>(layer.weight(r, c)) ==
            doctest::Approx(static_cast<double>(before(r, c)) + 2 * delta(layer.adapter, r, c)).epsilon(1e-5).scale(1));
    });
  second.undo();
  CHECK(same_bits(layer.weight.data, once.data));
  first.undo();
  CHECK(same_bits(layer.weight.data, before.data));
}

TEST_CASE("merge: rows may lie apart") {
  Dense wide = normal(6, 20, 1);
  const Dense before = wide;
  const losa::Mask mask = random_mask(6, 9, 0.5);
  MaskedLora adapter(6, 9, {.rank = 2});
  fill(adapter, 1);
  losa::Merge merged(adapter, wide.view().block(0, 3, 6, 9), mask);
  for (std::size_t r = 0; r < 6; ++r)
    for (std::size_t c = 0; c < 20; ++c)
      if (c < 3 || c >= 12) CHECK(same_bits(wide(r, c), before(r, c)));
  CHECK_FALSE(same_bits(wide.data, before.data));
  merged.undo();
  CHECK(same_bits(wide.data, before.data));
}

TEST_CASE("merge: errors name the argument") {
  const MaskedLora adapter(5, 7, {.rank = 2});
  Dense weight(5, 7), wrong(5, 6);
  CHECK(sentence<losa::ShapeError>([&] { losa::merge(adapter, wrong.view(), losa::Mask(5, 7)); }) ==
        "merge: weight must be 5 × 7, got 5 × 6");
  CHECK(sentence<losa::ShapeError>([&] { losa::merge(adapter, weight.view(), losa::Mask(5, 8)); }) ==
        "merge: mask must be 5 × 7, got 5 × 8");
}
