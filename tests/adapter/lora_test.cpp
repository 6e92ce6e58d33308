#include <losa/adapter/lora.hpp>

#include "product_laws.hpp"

using namespace oracle;
using losa::Lora;

TEST_CASE("plain LoRA: forward and gradients are the formulas in double") {
  forward_is_the_formula<Lora>();
  gradients_are_the_differences<Lora>();
  without_grad_x_the_rest_is_the_same<Lora>();
}

TEST_CASE("plain LoRA: threads and workspaces change no bit") {
  any_number_of_threads_gives_the_same_bits<Lora>();
  one_workspace_serves_layers_of_any_shape<Lora>();
}

TEST_CASE("plain LoRA: B = 0 and rank 0 are the sparse layer alone") {
  starts_as_the_base_bit_for_bit<Lora>();
  rank_zero_is_the_base<Lora>();
}

TEST_CASE("plain LoRA: state put back is the same adapter, dropout included") {
  state_put_back_gives_the_same_bits<Lora>();
}

TEST_CASE("plain LoRA: errors name the argument") {
  wrong_shapes_are_named<Lora>("Lora");
  losa::PackedMatrix<float> packed(losa::Mask::full(5, 7));
  const Lora adapter(5, 7, {.rank = 2});
  const std::vector<float> short_base(34);
  CHECK(sentence<losa::ShapeError>([&] { adapter.refresh(packed, short_base); }) ==
        "Lora::refresh: base must have 35 values, got 34");
}

TEST_CASE("plain LoRA: pruned positions do get an update, until the merge") {
  Layer<Lora> layer({6, 9, 4, 2, 0.0, 0});  // everything pruned, and still the output is σ·X·Aᵀ·Bᵀ
  const std::vector<double> expected = layer.expected();
  const Dense y = layer.run();
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CHECK(std::abs(expected[i]) > 1e-6);
    CHECK(static_cast<double>(y.data[i]) == doctest::Approx(expected[i]).epsilon(1e-5).scale(10));
  }
}
