#include <losa/adapter/masked_lora.hpp>

#include "product_laws.hpp"

using namespace oracle;
using losa::MaskedLora;

TEST_CASE("masked LoRA: forward and gradients are the formulas in double") {
  forward_is_the_formula<MaskedLora>();
  gradients_are_the_differences<MaskedLora>();
  without_grad_x_the_rest_is_the_same<MaskedLora>();
}

TEST_CASE("masked LoRA: threads and workspaces change no bit") {
  any_number_of_threads_gives_the_same_bits<MaskedLora>();
  one_workspace_serves_layers_of_any_shape<MaskedLora>();
}

TEST_CASE("masked LoRA: B = 0 and rank 0 are the sparse layer alone") {
  starts_as_the_base_bit_for_bit<MaskedLora>();
  rank_zero_is_the_base<MaskedLora>();
}

TEST_CASE("masked LoRA: state put back is the same adapter, dropout included") {
  state_put_back_gives_the_same_bits<MaskedLora>();
}

TEST_CASE("masked LoRA: errors name the argument") { wrong_shapes_are_named<MaskedLora>("MaskedLora"); }

TEST_CASE("masked LoRA: nothing pruned is plain LoRA, everything pruned is 0") {
  for (double p : {0.0, 0.3}) {
    const Layer<MaskedLora> full({9, 40, 5, 3, 1.0, p});
    const std::vector<double> plain = forward(full.adapter, false, full.weight, full.mask, full.x, full.d());
    const Dense y = full.run();
    for (std::size_t i = 0; i < plain.size(); ++i)
      CHECK(static_cast<double>(y.data[i]) == doctest::Approx(plain[i]).epsilon(1e-5).scale(10));

    const Layer<MaskedLora> none({9, 40, 5, 3, 0.0, p});
    for (float value : none.run().data) CHECK(value == 0.0f);
    losa::LoraGradients gradients;
    Dense grad_x(5, 40, 1);
    none.adapter.backward(none.packed, none.x.view(), none.g.view(), gradients, grad_x.view(), none.key);
    for (const auto* part : {&gradients.a, &gradients.bt, &grad_x.data})
      for (float value : *part) CHECK(value == 0.0f);
  }
}

TEST_CASE("masked LoRA: rank 1 is diag(b)·M·diag(a)") {
  Layer<MaskedLora> layer({6, 8, 3, 1, 0.6, 0});
  layer.base.assign(layer.base.size(), 0.0f);
  layer.adapter.refresh(layer.packed, layer.base);
  Dense dense(6, 8);
  layer.packed.to_dense(dense.view());
  for (std::size_t r = 0; r < 6; ++r)
    for (std::size_t c = 0; c < 8; ++c) {
      const float b = layer.adapter.bt()(0, r), a = layer.adapter.a()(0, c);
      CHECK(dense(r, c) == (layer.mask(r, c) ? doctest::Approx(1.5f * b * a).epsilon(1e-6) : doctest::Approx(0.0f)));
    }
}

TEST_CASE("masked LoRA: pruned positions neither give nor take") {
  for (double p : {0.0, 0.3}) {
    Layer<MaskedLora> layer({8, 12, 5, 2, 0.7, p});
    for (std::size_t r = 0; r < 8; ++r) layer.mask.set(r, 4, false);   // an input that nothing reads
    for (std::size_t c = 0; c < 12; ++c) layer.mask.set(3, c, false);  // an output that reads nothing
    // What lies at pruned positions of the master is never seen.
    for (std::size_t r = 0; r < 8; ++r)
      for (std::size_t c = 0; c < 12; ++c)
        if (!layer.mask(r, c)) layer.weight(r, c) = std::nanf("");
    layer.packed = losa::pack(layer.weight.view(), layer.mask);
    layer.base = kept_values(layer.weight, layer.mask);
    layer.adapter.refresh(layer.packed, layer.base);
    const Dense y = layer.run();
    losa::LoraGradients gradients;
    Dense grad_x(5, 12);
    layer.adapter.backward(layer.packed, layer.x.view(), layer.g.view(), gradients, grad_x.view(), layer.key);
    for (std::size_t t = 0; t < 5; ++t) {
      CHECK(y(t, 3) == 0.0f);
      CHECK(grad_x(t, 4) == 0.0f);
    }
    bool learns = false;
    for (std::size_t k = 0; k < 2; ++k) {
      CHECK(gradients.a[k * 12 + 4] == 0.0f);
      CHECK(gradients.bt[k * 8 + 3] == 0.0f);
      learns = learns || gradients.bt[k * 8 + 2] != 0.0f;
    }
    CHECK(learns);
    // The gradient of B is the masked weight gradient times Aᵀ: an entry of GᵀX under a zero of M plays no part.
    Dense masked(8, 12);
    const Dense d = layer.d();
    for (std::size_t r = 0; r < 8; ++r)
      layer.mask.for_each_kept(r, [&](std::size_t c) {
        double sum = 0;
        for (std::size_t t = 0; t < 5; ++t)
          sum += static_cast<double>(layer.g(t, r)) * static_cast<double>(d(t, c) * layer.x(t, c));
        masked(r, c) = static_cast<float>(sum);
      });
    for (std::size_t k = 0; k < 2; ++k)
      for (std::size_t r = 0; r < 8; ++r) {
        double sum = 0;
        for (std::size_t c = 0; c < 12; ++c)
          sum += static_cast<double>(masked(r, c)) * static_cast<double>(layer.adapter.a()(k, c));
        CHECK(static_cast<double>(gradients.bt[k * 8 + r]) == doctest::Approx(1.5 * sum).epsilon(1e-4).scale(1));
      }
  }
}

TEST_CASE("masked LoRA: outside training dropout does nothing, in training the step chooses it") {
  Layer<MaskedLora> layer({9, 40, 5, 3, 0.5, 0.3});
  const Dense first = layer.run();
  CHECK(same_bits(layer.run().data, first.data));
  layer.key.step = 4;
  CHECK_FALSE(same_bits(layer.run().data, first.data));
  layer.key.training = false;
  Dense merged(5, 9);
  losa::spmm(layer.packed, layer.x.view(), merged.view());
  CHECK(same_bits(layer.run().data, merged.data));
}

TEST_CASE("masked LoRA: dropout needs weights that refresh has seen") {
  const Layer<MaskedLora> layer({5, 7, 3, 2, 0.5, 0.5});
  MaskedLora fresh(5, 7, {.rank = 2, .dropout = 0.5});
  Dense y(3, 5);
  CHECK(sentence<losa::ShapeError>([&] {
          fresh.forward(layer.packed, layer.x.view(), y.view(), {.step = 1, .training = true});
        }) == "MaskedLora::forward: with dropout, refresh must have seen the packed weights first");
  CHECK_NOTHROW(fresh.forward(layer.packed, layer.x.view(), y.view()));
}

TEST_CASE("masked LoRA: refresh follows the factors, also onto another mask") {
  Layer<MaskedLora> layer({9, 40, 5, 3, 0.5, 0.3});
  fill(layer.adapter, 77);
  layer.adapter.refresh(layer.packed, layer.base);
  const auto check = [&] {
    const std::vector<double> expected = layer.expected();
    const Dense y = layer.run();
    for (std::size_t i = 0; i < expected.size(); ++i)
      CHECK(static_cast<double>(y.data[i]) == doctest::Approx(expected[i]).epsilon(1e-5).scale(10));
  };
  check();
  layer.mask = random_mask(9, 40, 0.3, 99);
  layer.packed = losa::pack(layer.weight.view(), layer.mask);
  layer.base = kept_values(layer.weight, layer.mask);
  layer.adapter.refresh(layer.packed, layer.base);
  check();
}
