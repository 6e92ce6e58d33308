#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <losa/core/random.hpp>
#include <losa/core/thread_pool.hpp>
#include <vector>

#include "attention.hpp"
#include "blas.hpp"
#include "loops.hpp"
#include "loss.hpp"
#include "matrix.hpp"
#include "norm.hpp"
#include "rope.hpp"
#include "swiglu.hpp"

using llama::Matrix;
using llama::Token;

namespace {

Matrix random_matrix(std::size_t rows, std::size_t cols, std::uint64_t stream, double spread = 1) {
  Matrix m(rows, cols);
  const losa::Random random{.seed = 9, .stream = stream};
  for (std::size_t i = 0; i < rows * cols; ++i) m.view().data[i] = static_cast<float>(spread * random.normal(i));
  return m;
}
double at(const Matrix& m, std::size_t r, std::size_t c) { return static_cast<double>(m.view()(r, c)); }
bool same_bits(const Matrix& a, const Matrix& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() &&
         std::memcmp(a.view().data, b.view().data, a.rows() * a.cols() * sizeof(float)) == 0;
}

// d f / d m(r, c) by central differences, f in double of float inputs.
template <class F>
double slope(Matrix& m, std::size_t r, std::size_t c, F&& f) {
  float& x = m.view()(r, c);
  const float kept = x;
  x = kept + 1e-3f;
  const double above = f();
  const double step_up = static_cast<double>(x);
  x = kept - 1e-3f;
  const double below = f();
  const double step = step_up - static_cast<double>(x);
  x = kept;
  return (above - below) / step;
}

}  // namespace

TEST_CASE("dense products equal sums in double, for any shape and number of threads") {
  losa::ThreadPool three(3);
  for (std::size_t tokens : std::initializer_list<std::size_t>{1, 2, 7, 128, 129, 300})
    for (std::size_t out : std::initializer_list<std::size_t>{1, 5, 257})
      for (std::size_t in : std::initializer_list<std::size_t>{1, 33}) {
        CAPTURE(tokens);
        CAPTURE(out);
        CAPTURE(in);
        const Matrix x = random_matrix(tokens, in, 1), w = random_matrix(out, in, 2), g = random_matrix(tokens, out, 3);
        Matrix y(tokens, out), y3(tokens, out), dx(tokens, in), dx3(tokens, in);
        llama::multiply(x.view(), w.view(), y.view());
        llama::multiply(x.view(), w.view(), y3.view(), three);
        llama::multiply_transposed(g.view(), w.view(), dx.view());
        llama::multiply_transposed(g.view(), w.view(), dx3.view(), three);
        CHECK(same_bits(y, y3));
        CHECK(same_bits(dx, dx3));
        double worst = 0;
        for (std::size_t t = 0; t < tokens; ++t) {
          for (std::size_t o = 0; o < out; ++o) {
            double sum = 0;
            for (std::size_t i = 0; i < in; ++i) sum += at(x, t, i) * at(w, o, i);
            worst = std::max(worst, std::abs(sum - at(y, t, o)));
          }
          for (std::size_t i = 0; i < in; ++i) {
            double sum = 0;
            for (std::size_t o = 0; o < out; ++o) sum += at(g, t, o) * at(w, o, i);
            worst = std::max(worst, std::abs(sum - at(dx, t, i)));
          }
        }
        CHECK(worst < 1e-4);
        llama::multiply(x.view(), w.view(), y3.view(), three, true);  // y += y
        CHECK(at(y3, tokens - 1, out - 1) == doctest::Approx(2 * at(y, tokens - 1, out - 1)));
      }
  Matrix small(2, 2);
  CHECK_THROWS_AS(llama::multiply(small.view(), Matrix(3, 4).view(), small.view()), losa::ShapeError);
}

TEST_CASE("exponential: two units in the last place, NaN stays NaN") {
  double worst = 0;
  for (int i = -86999; i <= 86999; ++i) {
    const float x = static_cast<float>(i) / 1000.0f;
    const double expected = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::abs(static_cast<double>(llama::exponential(x)) - expected) / expected);
  }
  CHECK(worst < 2 * 1.2e-7);
  CHECK(llama::exponential(0.0f) == 1.0f);
  CHECK(llama::exponential(-1000.0f) < 1e-36f);
  CHECK(std::isnan(llama::exponential(NAN)));
}

TEST_CASE("RMSNorm: value and gradient") {
  Matrix x = random_matrix(5, 11, 1);
  const Matrix g = random_matrix(5, 11, 2);
  std::vector<float> weight(11), scale(5);
  for (std::size_t i = 0; i < 11; ++i) weight[i] = 0.5f + 0.1f * static_cast<float>(i);
  Matrix y(5, 11);
  const auto value = [&] {
    double sum = 0;
    for (std::size_t t = 0; t < 5; ++t) {
      double squares = 0;
      for (std::size_t i = 0; i < 11; ++i) squares += at(x, t, i) * at(x, t, i);
      for (std::size_t i = 0; i < 11; ++i)
        sum += at(g, t, i) * static_cast<double>(weight[i]) * at(x, t, i) / std::sqrt(squares / 11 + 1e-3);
    }
    return sum;
  };
  llama::rms_norm(x.view(), weight, 1e-3, y.view(), scale);
  double dot = 0;
  for (std::size_t t = 0; t < 5; ++t)
    for (std::size_t i = 0; i < 11; ++i) dot += at(g, t, i) * at(y, t, i);
  CHECK(dot == doctest::Approx(value()).epsilon(1e-6));
  Matrix dx(5, 11);
  dx.fill(2.0f);
  llama::rms_norm_backward(x.view(), weight, scale, g.view(), dx.view());
  for (std::size_t t = 0; t < 5; ++t)
    for (std::size_t i = 0; i < 11; ++i)
      CHECK(at(dx, t, i) - 2 == doctest::Approx(slope(x, t, i, value)).epsilon(1e-3));
}

TEST_CASE("SwiGLU: value and gradient") {
  Matrix g = random_matrix(3, 13, 1, 3), u = random_matrix(3, 13, 2);
  const Matrix dy = random_matrix(3, 13, 3);
  const auto value = [&] {
    double sum = 0;
    for (std::size_t t = 0; t < 3; ++t)
      for (std::size_t i = 0; i < 13; ++i)
        sum += at(dy, t, i) * at(g, t, i) / (1 + std::exp(-at(g, t, i))) * at(u, t, i);
    return sum;
  };
  Matrix y(3, 13), dg(3, 13), du(3, 13);
  llama::swiglu(g.view(), u.view(), y.view());
  llama::swiglu_backward(g.view(), u.view(), dy.view(), dg.view(), du.view());
  double dot = 0;
  for (std::size_t t = 0; t < 3; ++t)
    for (std::size_t i = 0; i < 13; ++i) {
      dot += at(dy, t, i) * at(y, t, i);
      CHECK(std::abs(at(dg, t, i) - slope(g, t, i, value)) < 1e-5);
      CHECK(std::abs(at(du, t, i) - slope(u, t, i, value)) < 1e-5);
    }
  CHECK(dot == doctest::Approx(value()).epsilon(1e-6));
  g.fill(NAN);
  llama::swiglu(g.view(), u.view(), y.view());
  CHECK(std::isnan(y.view()(0, 0)));
}

TEST_CASE("RoPE: scores depend on the distance of positions alone, lengths stay, the inverse undoes it") {
  const llama::Rope rope(8, 10000.0, 200);
  const Matrix q = random_matrix(1, 16, 1), k = random_matrix(1, 16, 2);
  const auto score = [&](std::size_t i, std::size_t j) {
    Matrix a = q, b = k;
    rope.apply(a.view(), i, 1);
    rope.apply(b.view(), j, 1);
    double sum = 0;
    for (std::size_t c = 0; c < 16; ++c) sum += at(a, 0, c) * at(b, 0, c);
    return sum;
  };
  for (std::size_t shift : std::initializer_list<std::size_t>{1, 17, 150}) {
    CHECK(score(10, 3) == doctest::Approx(score(10 + shift, 3 + shift)).epsilon(1e-5));
    CHECK(std::abs(score(10, 3) - score(10 + shift, 3)) > 1e-3);
  }
  Matrix x = random_matrix(6, 16, 3);
  const Matrix before = x;
  rope.apply(x.view(), 5, 3);  // two sequences of three, both from position 5
  CHECK_FALSE(same_bits(x, before));
  Matrix second = before;
  rope.apply(second.view().block(3, 0, 3, 16), 5, 3);
  for (std::size_t c = 0; c < 16; ++c) CHECK(at(x, 4, c) == at(second, 4, c));
  for (std::size_t t = 0; t < 6; ++t)
    for (std::size_t i = 0; i < 4; ++i)
      CHECK(std::hypot(at(x, t, i), at(x, t, i + 4)) ==
            doctest::Approx(std::hypot(at(before, t, i), at(before, t, i + 4))));
  rope.apply_inverse(x.view(), 5, 3);
  for (std::size_t t = 0; t < 6; ++t)
    for (std::size_t c = 0; c < 16; ++c) CHECK(at(x, t, c) == doctest::Approx(at(before, t, c)).epsilon(1e-5));
  Matrix zero = before;
  rope.apply(zero.view(), 0, 1);  // position 0 turns by nothing
  CHECK(same_bits(zero, before));
  CHECK_THROWS_AS(rope.apply(x.view(), 195, 6), losa::RangeError);
}

namespace {

// Attention in double, straight from the formula.
std::vector<double> naive(const llama::AttentionShape& s, const Matrix& q, const Matrix& k, const Matrix& v) {
  std::vector<double> o(s.sequences * s.queries * s.heads * s.head_dim);
  for (std::size_t n = 0; n < s.sequences; ++n)
    for (std::size_t h = 0; h < s.heads; ++h)
      for (std::size_t i = 0; i < s.queries; ++i) {
        const std::size_t kv = h / (s.heads / s.kv_heads) * s.head_dim, seen = s.keys - s.queries + i + 1;
        std::vector<double> p(seen);
        double sum = 0;
        for (std::size_t j = 0; j < seen; ++j) {
          for (std::size_t c = 0; c < s.head_dim; ++c)
            p[j] += at(q, n * s.queries + i, h * s.head_dim + c) * at(k, n * s.keys + j, kv + c);
          sum += p[j] = std::exp(p[j] / std::sqrt(static_cast<double>(s.head_dim)));
        }
        for (std::size_t j = 0; j < seen; ++j)
          for (std::size_t c = 0; c < s.head_dim; ++c)
            o[(n * s.queries + i) * s.heads * s.head_dim + h * s.head_dim + c] +=
                p[j] / sum * at(v, n * s.keys + j, kv + c);
      }
  return o;
}

}  // namespace

TEST_CASE("attention equals the formula: grouped heads, several sequences, tiles, queries after cached keys") {
  losa::ThreadPool three(3);
  for (const llama::AttentionShape s : {llama::AttentionShape{2, 5, 5, 4, 2, 6},
                                        {1, 1, 1, 2, 2, 2},
                                        {1, 1, 70, 6, 2, 4},
                                        {1, 3, 9, 4, 1, 4},
                                        {1, 130, 130, 2, 1, 8},
                                        {2, 70, 140, 3, 3, 2}}) {
    CAPTURE(s.queries);
    CAPTURE(s.keys);
    const Matrix q = random_matrix(s.sequences * s.queries, s.heads * s.head_dim, 1, 2);
    const Matrix k = random_matrix(s.sequences * s.keys, s.kv_heads * s.head_dim, 2);
    const Matrix v = random_matrix(s.sequences * s.keys, s.kv_heads * s.head_dim, 3);
    Matrix o(q.rows(), q.cols()), o3(q.rows(), q.cols());
    llama::attention(s, q.view(), k.view(), v.view(), o.view(), {});
    llama::attention(s, q.view(), k.view(), v.view(), o3.view(), {}, three);
    CHECK(same_bits(o, o3));
    const auto expected = naive(s, q, k, v);
    double worst = 0;
    for (std::size_t i = 0; i < expected.size(); ++i)
      worst = std::max(worst, std::abs(expected[i] - static_cast<double>(o.view().data[i])));
    CHECK(worst < 3e-6);
  }
  Matrix x(4, 6);
  CHECK_THROWS_AS(llama::attention({1, 4, 4, 3, 2, 2}, x.view(), x.view(), x.view(), x.view(), {}), losa::ShapeError);
  CHECK_THROWS_AS(llama::attention({1, 4, 4, 3, 1, 2}, x.view(), x.view(), x.view(), x.view(), {}), losa::ShapeError);
}

TEST_CASE("attention: gradients of queries, keys and values equal differences of the formula") {
  losa::ThreadPool three(3);
  for (const llama::AttentionShape s : {llama::AttentionShape{2, 4, 4, 4, 2, 4}, {1, 67, 67, 2, 1, 2}}) {
    Matrix q = random_matrix(s.sequences * s.queries, s.heads * s.head_dim, 1);
    Matrix k = random_matrix(s.sequences * s.keys, s.kv_heads * s.head_dim, 2);
    Matrix v = random_matrix(s.sequences * s.keys, s.kv_heads * s.head_dim, 3);
    const Matrix g = random_matrix(q.rows(), q.cols(), 4);
    Matrix o(q.rows(), q.cols()), dq(q.rows(), q.cols()), dk(k.rows(), k.cols()), dv(k.rows(), k.cols());
    Matrix dq3 = dq, dk3 = dk, dv3 = dv;
    std::vector<float> log_sum(s.sequences * s.heads * s.queries);
    llama::attention(s, q.view(), k.view(), v.view(), o.view(), log_sum);
    llama::attention_backward(s, q.cview(), k.cview(), v.cview(), o.cview(), log_sum, g.cview(), dq.view(), dk.view(),
                              dv.view());
    llama::attention_backward(s, q.cview(), k.cview(), v.cview(), o.cview(), log_sum, g.cview(), dq3.view(), dk3.view(),
                              dv3.view(), three);
    CHECK((same_bits(dq, dq3) && same_bits(dk, dk3) && same_bits(dv, dv3)));
    const auto value = [&] {
      const auto out = naive(s, q, k, v);
      double sum = 0;
      for (std::size_t i = 0; i < out.size(); ++i) sum += out[i] * static_cast<double>(g.view().data[i]);
      return sum;
    };
    for (std::size_t t = 0; t < q.rows(); t += 1 + q.rows() / 5)
      for (std::size_t c = 0; c < k.cols(); ++c) {
        CHECK(std::abs(at(dq, t, c) - slope(q, t, c, value)) < 2e-5);
        CHECK(std::abs(at(dk, t, c) - slope(k, t, c, value)) < 2e-5);
        CHECK(std::abs(at(dv, t, c) - slope(v, t, c, value)) < 2e-5);
      }
  }
}

TEST_CASE("loss: value and gradient, the last token of a sequence predicts nothing") {
  losa::ThreadPool three(3);
  const std::size_t context = 50, vocabulary = 23, width = 6;
  Matrix h = random_matrix(3 * context, width, 1);
  const Matrix head = random_matrix(vocabulary, width, 2);
  std::vector<Token> tokens(3 * context);
  for (std::size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<Token>(losa::Random{.seed = 3}.below(vocabulary, i));
  const auto value = [&] {
    double total = 0;
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      if ((t + 1) % context == 0) continue;
      std::vector<double> z(vocabulary);
      double sum = 0;
      for (std::size_t w = 0; w < vocabulary; ++w) {
        for (std::size_t i = 0; i < width; ++i) z[w] += at(head, w, i) * at(h, t, i);
        sum += std::exp(z[w]);
      }
      total += std::log(sum) - z[tokens[t + 1]];
    }
    return total;
  };
  Matrix dh(h.rows(), width);
  const double sum = llama::next_token_loss(head.view(), h.cview(), tokens, context, dh.view());
  CHECK(sum == doctest::Approx(value()).epsilon(1e-6));
  CHECK(llama::next_token_loss(head.view(), h.cview(), tokens, context, {}) == sum);
  const double predictions = 3 * (context - 1);
  for (std::size_t t : std::initializer_list<std::size_t>{0, 1, 48, 49, 64, 149})
    for (std::size_t i = 0; i < width; ++i) CHECK(std::abs(at(dh, t, i) * predictions - slope(h, t, i, value)) < 1e-4);
  CHECK(at(dh, 49, 0) == 0);
  Matrix in_place = h;
  CHECK(llama::next_token_loss(head.view(), in_place.cview(), tokens, context, in_place.view(), three) == sum);
  CHECK(same_bits(in_place, dh));
  CHECK_THROWS_AS(llama::next_token_loss(head.view(), h.cview(), tokens, 1, {}), losa::RangeError);
  CHECK_THROWS_AS(llama::next_token_loss(head.view(), h.cview(), tokens, 40, {}), losa::RangeError);
}
