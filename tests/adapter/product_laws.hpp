#pragma once
// Laws of forward and backward that every adapter keeps, the plain one and the masked one.

#include <cmath>
#include <vector>

#include <doctest/doctest.h>

#include <losa/adapter/concept.hpp>
#include <losa/core/thread_pool.hpp>

#include "oracle.hpp"

namespace oracle {

struct Case {
  std::size_t out, in, tokens, rank;
  double density;
  double dropout;
};

template <losa::Adapter A>
struct Layer {
  Case shape;
  Dense weight;
  losa::Mask mask;
  A adapter;
  losa::PackedMatrix<float> packed;
  std::vector<float> base;
  Dense x, g;
  losa::DropoutKey key{.step = 3, .training = true};

  explicit Layer(const Case& s)
      : shape(s),
        weight(normal(s.out, s.in, 1)),
        mask(random_mask(s.out, s.in, s.density)),
        adapter(s.out, s.in, {.rank = s.rank, .scale = 1.5, .dropout = s.dropout, .seed = 21, .stream = 2}),
        packed(losa::pack(weight.view(), mask)),
        base(kept_values(weight, mask)),
        x(normal(s.tokens, s.in, 2)),
        g(normal(s.tokens, s.out, 3)) {
    fill(adapter, 4);
    adapter.refresh(packed, base);
  }
  Dense d() const { return multipliers(losa::Dropout(shape.dropout, 21, 2), key, shape.tokens, shape.in); }
  std::vector<double> expected() const { return forward(adapter, A::mergeable, weight, mask, x, d()); }
  Dense run(losa::ExecutorRef executor = {}) const {
    Dense y(shape.tokens, shape.out, -7);  // to be overwritten
    adapter.forward(packed, x.view(), y.view(), key, executor);
    return y;
  }
};

inline const std::vector<Case>& cases() {
  static const std::vector<Case> all = {{5, 7, 3, 2, 0.5, 0},      {5, 7, 3, 2, 0.5, 0.4}, {17, 66, 9, 3, 0.4, 0},
                                        {17, 66, 9, 3, 0.4, 0.25}, {8, 8, 1, 8, 0.3, 0.1}, {12, 130, 33, 1, 0.3, 0},
                                        {6, 9, 4, 3, 1.0, 0.5},    {6, 9, 4, 3, 0.0, 0.5}, {5, 33, 45, 2, 0.5, 0.5}};
  return all;
}

template <losa::Adapter A>
void forward_is_the_formula() {
  for (const Case& shape : cases()) {
    CAPTURE(shape.out);
    CAPTURE(shape.in);
    CAPTURE(shape.dropout);
    const Layer<A> layer(shape);
    const std::vector<double> expected = layer.expected();
    const Dense y = layer.run();
    for (std::size_t i = 0; i < expected.size(); ++i)
      CHECK(static_cast<double>(y.data[i]) == doctest::Approx(expected[i]).epsilon(1e-5).scale(10));
  }
}

template <losa::Adapter A>
void gradients_are_the_differences() {
  for (const Case& shape : cases()) {
    CAPTURE(shape.out);
    CAPTURE(shape.in);
    CAPTURE(shape.dropout);
    Layer<A> layer(shape);
    const Dense d = layer.d();
    losa::LoraGradients gradients;
    gradients.a.assign(shape.rank * shape.in, 2.0f);  // to be added to
    Dense grad_x(shape.tokens, shape.in, -7);         // to be overwritten
    layer.adapter.backward(layer.packed, layer.x.view(), layer.g.view(), gradients, grad_x.view(), layer.key);
    const auto value = [&] {
      return loss(forward(layer.adapter, A::mergeable, layer.weight, layer.mask, layer.x, d), layer.g);
    };
    const auto close = [](float got, double expected) {
      return std::abs(static_cast<double>(got) - expected) <= 2e-5 * (10 + std::abs(expected));
    };
    const auto [a, bt] = layer.adapter.parameters();
    // Every 7th parameter: the oracle costs a whole product per difference.
    for (std::size_t i = 0; i < a.size(); i += 7) CHECK(close(gradients.a[i] - 2.0f, difference(a[i], value)));
    for (std::size_t i = 0; i < bt.size(); i += 3) CHECK(close(gradients.bt[i], difference(bt[i], value)));
    for (std::size_t i = 0; i < grad_x.data.size(); i += 11)
      CHECK(close(grad_x.data[i], difference(layer.x.data[i], value)));
  }
}

template <losa::Adapter A>
void without_grad_x_the_rest_is_the_same() {
  const Layer<A> layer(cases()[3]);
  losa::LoraGradients with, without;
  Dense grad_x(layer.shape.tokens, layer.shape.in);
  losa::LoraWorkspace workspace;
  layer.adapter.backward(layer.packed, layer.x.view(), layer.g.view(), with, grad_x.view(), layer.key, {}, workspace);
  layer.adapter.backward(layer.packed, layer.x.view(), layer.g.view(), without, {}, layer.key, {}, workspace);
  CHECK(same_bits(with.a, without.a));
  CHECK(same_bits(with.bt, without.bt));
}

template <losa::Adapter A>
void any_number_of_threads_gives_the_same_bits() {
  const Layer<A> layer({70, 300, 101, 5, 0.4, 0.2});
  const Dense y = layer.run();
  losa::LoraGradients gradients;
  Dense grad_x(layer.shape.tokens, layer.shape.in);
  layer.adapter.backward(layer.packed, layer.x.view(), layer.g.view(), gradients, grad_x.view(), layer.key);
  for (std::size_t threads : {1u, 2u, 3u, 5u}) {
    CAPTURE(threads);
    losa::ThreadPool pool(threads);
    CHECK(same_bits(layer.run(pool).data, y.data));
    losa::LoraGradients other;
    Dense other_x(layer.shape.tokens, layer.shape.in);
    layer.adapter.backward(layer.packed, layer.x.view(), layer.g.view(), other, other_x.view(), layer.key, pool);
    CHECK(same_bits(other.a, gradients.a));
    CHECK(same_bits(other.bt, gradients.bt));
    CHECK(same_bits(other_x.data, grad_x.data));
  }
}

template <losa::Adapter A>
void one_workspace_serves_layers_of_any_shape() {
  losa::LoraWorkspace workspace;
  for (int round = 0; round < 2; ++round)
    for (const Case& shape : cases()) {
      const Layer<A> layer(shape);
      losa::LoraGradients shared, own;
      Dense x1(shape.tokens, shape.in), x2(shape.tokens, shape.in), y(shape.tokens, shape.out);
      layer.adapter.forward(layer.packed, layer.x.view(), y.view(), layer.key, {}, workspace);
      CHECK(same_bits(y.data, layer.run().data));
      layer.adapter.backward(layer.packed, layer.x.view(), layer.g.view(), shared, x1.view(), layer.key, {}, workspace);
      layer.adapter.backward(layer.packed, layer.x.view(), layer.g.view(), own, x2.view(), layer.key);
      CHECK(same_bits(shared.a, own.a));
      CHECK(same_bits(shared.bt, own.bt));
      CHECK(same_bits(x1.data, x2.data));
    }
}

template <losa::Adapter A>
void starts_as_the_base_bit_for_bit() {
  for (double p : {0.0, 0.3}) {
    const Dense weight = normal(20, 70, 1);
    const losa::Mask mask = random_mask(20, 70, 0.5);
    losa::PackedMatrix<float> packed = losa::pack(weight.view(), mask);
    const losa::PackedMatrix<float> dense = packed;
    A adapter(20, 70, {.rank = 4, .dropout = p});
    adapter.refresh(packed, dense.values());
    const Dense x = normal(6, 70, 2);
    Dense y(6, 20), base(6, 20);
    adapter.forward(packed, x.view(), y.view(), {.step = 1, .training = true});
    losa::spmm(dense, x.view(), base.view());
    CHECK(same_bits(y.data, base.data));
  }
}

template <losa::Adapter A>
void rank_zero_is_the_base() {
  const Dense weight = normal(6, 10, 1);
  const losa::Mask mask = random_mask(6, 10, 0.5);
  losa::PackedMatrix<float> packed = losa::pack(weight.view(), mask);
  const losa::PackedMatrix<float> base = packed;
  A adapter(6, 10, {.rank = 0, .dropout = 0.5});
  adapter.refresh(packed, base.values());
  const Dense x = normal(3, 10, 2), g = normal(3, 6, 3);
  Dense y(3, 6), expected(3, 6), grad_x(3, 10), expected_x(3, 10);
  losa::LoraGradients gradients;
  adapter.forward(packed, x.view(), y.view(), {.training = true});
  adapter.backward(packed, x.view(), g.view(), gradients, grad_x.view(), {.training = true});
  losa::spmm(base, x.view(), expected.view());
  losa::spmm_transposed(base, g.view(), expected_x.view());
  CHECK(same_bits(y.data, expected.data));
  CHECK(same_bits(grad_x.data, expected_x.data));
  CHECK(gradients.a.empty());
  CHECK(gradients.bt.empty());
}

template <losa::Adapter A>
void state_put_back_gives_the_same_bits() {
  Layer<A> layer({9, 40, 5, 3, 0.5, 0.3});
  const Dense y = layer.run();
  Shelf shelf;
  layer.adapter.visit(shelf);
  layer.adapter = A(9, 40, {.rank = 1});
  shelf.rewind();
  layer.adapter.visit(shelf);
  CHECK(layer.adapter.dropout() == 0.3);
  layer.adapter.refresh(layer.packed, layer.base);
  CHECK(same_bits(layer.run().data, y.data));
  shelf.numbers.back() = 1.5;
  shelf.rewind();
  CHECK(sentence<losa::RangeError>([&] { layer.adapter.visit(shelf); }) == "Dropout: p must be in [0, 1), got 1.5");
}

template <losa::Adapter A>
void wrong_shapes_are_named(const std::string& type) {
  const Layer<A> layer({5, 7, 3, 2, 0.5, 0});
  Dense y(3, 5), wrong_x(3, 6), wrong_y(3, 4), grad_x(3, 7);
  losa::LoraGradients gradients;
  CHECK(sentence<losa::ShapeError>([&] { layer.adapter.forward(layer.packed, wrong_x.view(), y.view()); }) ==
        type + "::forward: x must be 3 × 7, got 3 × 6");
  CHECK(sentence<losa::ShapeError>([&] { layer.adapter.forward(layer.packed, layer.x.view(), wrong_y.view()); }) ==
        type + "::forward: y must be 3 × 5, got 3 × 4");
  CHECK(sentence<losa::ShapeError>([&] {
          layer.adapter.backward(layer.packed, layer.x.view(), wrong_y.view(), gradients);
        }) == type + "::backward: grad_y must be 3 × 5, got 3 × 4");
  CHECK(sentence<losa::ShapeError>([&] {
          layer.adapter.backward(layer.packed, layer.x.view(), layer.g.view(), gradients, wrong_x.view());
        }) == type + "::backward: grad_x must be 3 × 7, got 3 × 6");
  losa::LoraGradients short_ones{std::vector<float>(7), std::vector<float>(10)};
  CHECK(sentence<losa::ShapeError>([&] {
          layer.adapter.backward(layer.packed, layer.x.view(), layer.g.view(), short_ones);
        }) == type + "::backward: gradients must have 14 and 10 elements for rank 2, got 7 and 10");
  const losa::PackedMatrix<float> other(losa::Mask(4, 7));
  CHECK(sentence<losa::ShapeError>([&] { layer.adapter.forward(other, layer.x.view(), y.view()); }) ==
        type + "::forward: packed weights must be 5 × 7, got 4 × 7");
  CHECK(sentence<losa::RangeError>([] { A(5, 7, {.rank = 6}); }) ==
        "LoraFactors: rank of a 5 × 7 layer must be at most 5, got 6");
  CHECK(sentence<losa::RangeError>([] { A(5, 7, {.rank = 1, .dropout = 1.0}); }) ==
        "Dropout: p must be in [0, 1), got 1");
}

}  // namespace oracle
