// Wanda's masks and SparseGPT's weights against the published implementation, with its counts.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <losa/calibrate/column_norms.hpp>
#include <losa/calibrate/hessian.hpp>
#include <losa/core/mask.hpp>
#include <losa/core/pattern.hpp>
#include <losa/mask/select.hpp>
#include <losa/mask/wanda.hpp>
#include <losa/published/counts.hpp>

#include "golden.hpp"

namespace {

const std::vector<std::pair<std::string, losa::Pattern>> patterns = {{"s0.5", losa::Unstructured{0.5}},
                                                                     {"s0.7", losa::Unstructured{0.7}},
                                                                     {"2:4", losa::NofM{2, 4}},
                                                                     {"4:8", losa::NofM{4, 8}}};

losa::Mask nonzeros(const golden::Matrix& w) {
  losa::Mask mask(w.rows, w.cols);
  for (std::size_t r = 0; r < w.rows; ++r)
    for (std::size_t c = 0; c < w.cols; ++c) mask.set(r, c, w(r, c) != 0);
  return mask;
}

}  // namespace

TEST_CASE("Wanda's masks, bit for bit") {
  const golden::Json& wanda = golden::vectors()["wanda"];
  const golden::Matrix w = golden::matrix(wanda["W"], "wanda.W");
  const golden::Matrix x = golden::matrix(wanda["X"], "wanda.X");
  REQUIRE(x.cols == w.cols);
  const golden::FloatMatrix weight(w);
  const golden::FloatMatrix tokens(x);
  losa::ColumnNorms norms(w.cols);
  norms.add(tokens.view());
  for (const auto& [name, pattern] : patterns) {
    const std::string label = name;
    CAPTURE(label);
    const losa::Mask expected = golden::mask(wanda["keep_" + name], "wanda.keep_" + name, w.rows, w.cols);
    CHECK(losa::select<losa::published::Counts>(losa::Wanda{norms}, weight.view(), pattern) == expected);
    golden::FloatMatrix pruned = weight;
    CHECK(losa::published::Wanda{}.prune(pruned.view(), {.tokens = norms.tokens(), .square_norms = norms.sum_squares()},
                                         {.pattern = pattern}) == expected);
  }
}

TEST_CASE("SparseGPT's Hessian") {
  // The published one is 2·XᵀX / batches, in float, over batches of 32 tokens.
  const golden::Json& json = golden::vectors()["sparsegpt"];
  REQUIRE(json["note"] == "float32 reference; X added in batches of 32 tokens");
  const golden::Matrix x = golden::matrix(json["X"], "sparsegpt.X");
  const golden::Matrix expected = golden::float_matrix(json["H"], "sparsegpt.H", x.cols, x.cols);
  const golden::FloatMatrix tokens(x);
  losa::Hessian hessian(x.cols);
  for (std::size_t t = 0; t < x.rows; t += 32)
    hessian.add(tokens.view().block(t, 0, std::min<std::size_t>(32, x.rows - t), x.cols));
  const double scale = 2.0 / static_cast<double>((x.rows + 31) / 32);
  CHECK(golden::relative_difference([&](std::size_t r, std::size_t c) { return scale * hessian.matrix()(r, c); },
                                    expected) <= 1e-6);
}

TEST_CASE("SparseGPT's weights and zeros") {
  const golden::Json& json = golden::vectors()["sparsegpt"];
  const golden::Matrix w = golden::matrix(json["W"], "sparsegpt.W");
  const golden::Matrix x = golden::matrix(json["X"], "sparsegpt.X");
  REQUIRE(x.cols == w.cols);
  losa::Hessian hessian(x.cols);
  hessian.add(golden::FloatMatrix(x).view());
  for (const auto& [name, pattern] : patterns) {
    const std::string label = name;
    CAPTURE(label);
    const golden::Matrix expected = golden::float_matrix(json["W_" + name], "sparsegpt.W_" + name, w.rows, w.cols);
    golden::FloatMatrix weight(w);
    losa::published::SparseGpt policy;
    policy.damping = golden::number(json["damp"], "sparsegpt.damp");
    policy.block = golden::count(json["block"], "sparsegpt.block");
    const losa::Mask mask =
        policy.prune(weight.view(), {.tokens = x.rows, .hessian = hessian.matrix()}, {.pattern = pattern});
    losa::apply_mask(weight.view(), mask);
    CHECK(mask == nonzeros(expected));
    CHECK(golden::relative_difference(weight.view(), expected) <= 2e-6);
  }
}
