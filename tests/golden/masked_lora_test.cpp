// Masked LoRA and the reconstruction error against the published implementation: the library in float, and the formulas
// in double, which hold every digit of the vectors.
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include <losa/adapter/masked_lora.hpp>
#include <losa/adapter/merge.hpp>
#include <losa/calibrate/reconstruction_error.hpp>
#include <losa/gemm.hpp>

#include "golden.hpp"

namespace {

struct Case {
  golden::Matrix w, a, b, x, g;          // (out, in), (rank, in), (out, rank), (tokens, in), (tokens, out)
  golden::Matrix y, da, db, dx, merged;  // like x·Wᵀ, a, b, x, w
  losa::Mask mask;
  double scale;

  std::size_t out() const { return w.rows; }
  std::size_t in() const { return w.cols; }
  std::size_t rank() const { return a.rows; }
  std::size_t tokens() const { return x.rows; }
};

Case load() {
  const golden::Json& json = golden::vectors()["masked_lora"];
  const auto get = [&](const char* name) { return golden::matrix(json[name], std::string("masked_lora.") + name); };
  const auto sized = [&](const char* name, std::size_t rows, std::size_t cols) {
    return golden::matrix(json[name], std::string("masked_lora.") + name, rows, cols);
  };
  Case c;
  c.w = get("W");
  c.a = get("A");
  c.x = get("X");
  c.b = sized("B", c.out(), c.rank());
  c.g = sized("G", c.tokens(), c.out());
  c.y = sized("Y", c.tokens(), c.out());
  c.da = sized("dA", c.rank(), c.in());
  c.db = sized("dB", c.out(), c.rank());
  c.dx = sized("dX", c.tokens(), c.in());
  c.merged = sized("merged", c.out(), c.in());
  c.mask = golden::mask(json["keep"], "masked_lora.keep", c.out(), c.in());
  c.scale = golden::number(json["scale"], "masked_lora.scale");
  return c;
}

/// Sum over k of f(k).
template <class F>
double sum(std::size_t n, F&& f) {
  double total = 0;
  for (std::size_t k = 0; k < n; ++k) total += f(k);
  return total;
}

/// The adapter of the case, its factors set.
losa::MaskedLora adapter_of(const Case& c) {
  losa::MaskedLora adapter(c.out(), c.in(), {.rank = c.rank(), .scale = c.scale});
  const auto [a, bt] = adapter.parameters();
  for (std::size_t k = 0; k < c.rank(); ++k) {
    for (std::size_t j = 0; j < c.in(); ++j) a[k * c.in() + j] = static_cast<float>(c.a(k, j));
    for (std::size_t i = 0; i < c.out(); ++i) bt[k * c.out() + i] = static_cast<float>(c.b(i, k));
  }
  return adapter;
}

}  // namespace

TEST_CASE("masked LoRA: the formulas give the vectors, digit for digit") {
  const Case c = load();
  const auto kept = [&](std::size_t i, std::size_t j) { return c.mask(i, j) ? 1.0 : 0.0; };
  const auto effective = [&](std::size_t i, std::size_t j) {
    return kept(i, j) * (c.w(i, j) + c.scale * sum(c.rank(), [&](std::size_t k) { return c.b(i, k) * c.a(k, j); }));
  };
  const auto gradient = [&](std::size_t i, std::size_t j) {  // Ĝ
    return kept(i, j) * sum(c.tokens(), [&](std::size_t t) { return c.g(t, i) * c.x(t, j); });
  };
  const double tolerance = 2e-15;  // of the largest entry
  CHECK(golden::relative_difference(effective, c.merged) <= tolerance);
  CHECK(golden::relative_difference(
            [&](std::size_t t, std::size_t i) {
              return sum(c.in(), [&](std::size_t j) { return c.x(t, j) * effective(i, j); });
            },
            c.y) <= tolerance);
  CHECK(golden::relative_difference(
            [&](std::size_t k, std::size_t j) {
              return c.scale * sum(c.out(), [&](std::size_t i) { return c.b(i, k) * gradient(i, j); });
            },
            c.da) <= tolerance);
  CHECK(golden::relative_difference(
            [&](std::size_t i, std::size_t k) {
              return c.scale * sum(c.in(), [&](std::size_t j) { return gradient(i, j) * c.a(k, j); });
            },
            c.db) <= tolerance);
  CHECK(golden::relative_difference(
            [&](std::size_t t, std::size_t j) {
              return sum(c.out(), [&](std::size_t i) { return c.g(t, i) * effective(i, j); });
            },
            c.dx) <= tolerance);
}

TEST_CASE("masked LoRA: output and gradients") {
  const Case c = load();
  losa::MaskedLora adapter = adapter_of(c);
  const golden::FloatMatrix w(c.w);
  const golden::FloatMatrix x(c.x);
  const golden::FloatMatrix g(c.g);
  losa::PackedMatrix<float> packed = losa::pack(w.view(), c.mask);
  const std::vector<float> base(packed.values().begin(), packed.values().end());
  adapter.refresh(packed, base);

  golden::FloatMatrix y(c.tokens(), c.out());
  adapter.forward(packed, x.view(), y.view());
  CHECK(golden::relative_difference(y.view(), c.y) <= 1e-6);

  losa::LoraGradients gradients;
  golden::FloatMatrix dx(c.tokens(), c.in());
  adapter.backward(packed, x.view(), g.view(), gradients, dx.view());
  const losa::MatrixView<const float> da(gradients.a.data(), c.rank(), c.in());
  const losa::MatrixView<const float> dbt(gradients.bt.data(), c.rank(), c.out());
  CHECK(golden::relative_difference(da, c.da) <= 1e-6);
  CHECK(golden::relative_difference([&](std::size_t i, std::size_t k) { return dbt(k, i); }, c.db) <= 1e-6);
  CHECK(golden::relative_difference(dx.view(), c.dx) <= 1e-6);
}

TEST_CASE("masked LoRA: merged weights, their zeros exactly those of the mask") {
  const Case c = load();
  golden::FloatMatrix weight(c.w);
  losa::merge(adapter_of(c), weight.view(), c.mask);
  CHECK(golden::relative_difference(weight.view(), c.merged) <= 1e-6);
  for (std::size_t i = 0; i < c.out(); ++i)
    for (std::size_t j = 0; j < c.in(); ++j) {
      CHECK((c.merged(i, j) != 0) == c.mask(i, j));
      CHECK((weight.view()(i, j) != 0) == c.mask(i, j));
    }
}

TEST_CASE("reconstruction error") {
  const golden::Json& json = golden::vectors()["reconstruction_error"];
  const golden::Matrix dense = golden::matrix(json["dense"], "reconstruction_error.dense");
  const golden::Matrix sparse = golden::matrix(json["sparse"], "reconstruction_error.sparse", dense.rows, dense.cols);
  const double expected = golden::number(json["error"], "reconstruction_error.error");

  const double formula = sum(dense.cols,
                             [&](std::size_t c) {
                               const double error = sum(
                                   dense.rows, [&](std::size_t t) { return std::pow(dense(t, c) - sparse(t, c), 2); });
                               return error / sum(dense.rows, [&](std::size_t t) { return dense(t, c) * dense(t, c); });
                             }) /
                         static_cast<double>(dense.cols);
  CHECK(std::abs(formula - expected) <= 1e-14 * expected);

  losa::ReconstructionError error(dense.cols);
  const golden::FloatMatrix d(dense);
  const golden::FloatMatrix s(sparse);
  const std::size_t half = dense.rows / 2;
  error.add(d.view().block(0, 0, half, d.cols), s.view().block(0, 0, half, s.cols));
  error.add(d.view().block(half, 0, d.rows - half, d.cols), s.view().block(half, 0, s.rows - half, s.cols));
  CHECK(std::abs(error.value() - expected) <= 1e-6 * expected);
}
