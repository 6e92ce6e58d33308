#pragma once
// A residual network, h ← h + W₂·relu(W₁·h) per block, that models losa::Engine: its task is to reproduce the outputs
// of its own dense self. Small enough to check every number, real enough that pruning hurts and training helps.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <losa/adapt.hpp>
#include <losa/core/random.hpp>
#include <map>
#include <span>
#include <string>
#include <variant>
#include <vector>

namespace toy {

using losa::MatrixView;

template <losa::Adapter A>
class Engine {
 public:
  using Adapter = A;
  static constexpr std::size_t width_ = 16, middle = 24, tokens = 12, sequences_ = 6;

  explicit Engine(std::size_t blocks, std::uint64_t seed = 1, losa::ExecutorRef executor = {})
      : executor_(executor), seed_(seed), blocks_(blocks) {
    const losa::Random random{.seed = 5, .stream = 0};
    std::uint64_t draw = 0;
    for (Block& block : blocks_) {
      block.original.resize(2 * width_ * middle);
      for (float& w : block.original) w = static_cast<float>(0.3 * random.normal(draw++));
      block.master = block.original;
    }
    for (std::size_t b = 0; b < blocks; ++b) {
      float* w = blocks_[b].master.data();
      blocks_[b].linears.emplace_back("block" + std::to_string(b) + ".up", 0, MatrixView<float>(w, middle, width_));
      blocks_[b].linears.emplace_back("block" + std::to_string(b) + ".down", 1,
                                      MatrixView<float>(w + width_ * middle, width_, middle));
    }
  }
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  std::size_t blocks() const { return blocks_.size(); }
  std::span<losa::AdaptedLinear<A>> linears(std::size_t b) { return blocks_[b].linears; }
  /// With `one_at_a_time` only the last block held has its weights, as in a model larger than memory.
  void hold(std::size_t held) {
    if (!one_at_a_time) return;
    for (std::size_t b = 0; b < blocks_.size(); ++b) {
      Block& block = blocks_[b];
      if (b != held && block.parked.empty())
        for (auto& linear : block.linears) block.parked.push_back(linear.park());
      if (b != held) continue;
      for (std::size_t i = 0; i < block.parked.size(); ++i)
        block.linears[i].unpark(block.master.data() + i * width_ * middle, std::move(block.parked[i]), executor_);
      block.parked.clear();
    }
  }
  std::size_t inputs(std::size_t) const { return 2; }
  std::size_t sequences() const { return sequences_; }
  std::size_t context() const { return tokens; }
  std::size_t width() const { return width_; }
  losa::ExecutorRef executor() const { return executor_; }

  void embed(std::size_t sequence, MatrixView<float> hidden) { fill(hidden, 1000 + sequence); }

  template <class F>
  void observe_block(std::size_t b, MatrixView<const float> hidden, std::size_t, F&& observe) {
    hold(b);
    std::vector<float> mid(hidden.rows * middle);
    MatrixView<float> m(mid.data(), hidden.rows, middle);
    observe(0, hidden);
    multiply(linears(b)[0], hidden, m);
    for (float& v : mid) v = std::max(v, 0.0f);
    observe(1, MatrixView<const float>(m));
  }

  void run_block(std::size_t b, MatrixView<float> hidden, std::size_t) {
    hold(b);
    std::vector<float> mid(hidden.rows * middle), out(hidden.rows * width_);
    MatrixView<float> m(mid.data(), hidden.rows, middle), y(out.data(), hidden.rows, width_);
    multiply(linears(b)[0], hidden, m);
    for (float& v : mid) v = std::max(v, 0.0f);
    multiply(linears(b)[1], m, y);
    for (std::size_t i = 0; i < out.size(); ++i) hidden.data[i] += out[i];
  }

  void run_original_block(std::size_t b, MatrixView<float> hidden, std::size_t = tokens) {
    const float* w = blocks_[b].original.data();
    std::vector<float> mid(hidden.rows * middle), out(hidden.rows * width_);
    MatrixView<float> m(mid.data(), hidden.rows, middle), y(out.data(), hidden.rows, width_);
    dense({w, middle, width_}, hidden, m);
    for (float& v : mid) v = std::max(v, 0.0f);
    dense({w + width_ * middle, width_, middle}, m, y);
    for (std::size_t i = 0; i < out.size(); ++i) hidden.data[i] += out[i];
  }

  /// Loss: mean over tokens of ½‖h − h_dense‖².
  double train_step(std::uint64_t step) {
    for (Block& block : blocks_)
      for (auto& linear : block.linears) linear.zero_gradients();
    std::vector<float> h(tokens * width_), target;
    MatrixView<float> hidden(h.data(), tokens, width_);
    fill(hidden, losa::Random{.seed = seed_, .stream = 9}.bits(step));
    target = h;
    MatrixView<float> dense_hidden(target.data(), tokens, width_);
    for (std::size_t b = 0; b < blocks(); ++b) run_original_block(b, dense_hidden);

    const losa::DropoutKey key{.step = step, .training = true};
    std::vector<std::vector<float>> inputs, mids;
    for (std::size_t b = 0; b < blocks(); ++b) {
      hold(b);
      inputs.push_back(h);
      std::vector<float> mid(tokens * middle), out(tokens * width_);
      multiply(linears(b)[0], hidden, {mid.data(), tokens, middle}, key);
      for (float& v : mid) v = std::max(v, 0.0f);
      multiply(linears(b)[1], {mid.data(), tokens, middle}, {out.data(), tokens, width_}, key);
      for (std::size_t i = 0; i < h.size(); ++i) h[i] += out[i];
      mids.push_back(std::move(mid));
    }
    double loss = 0;
    std::vector<float> grad(h.size());
    for (std::size_t i = 0; i < h.size(); ++i) {
      const float difference = h[i] - target[i];
      loss += 0.5 * static_cast<double>(difference) * static_cast<double>(difference) / tokens;
      grad[i] = difference / tokens;
    }
    for (std::size_t b = blocks(); b-- > 0;) {
      hold(b);
      std::vector<float> grad_mid(tokens * middle), grad_in(tokens * width_);
      MatrixView<float> gm(grad_mid.data(), tokens, middle);
      backward(linears(b)[1], {mids[b].data(), tokens, middle}, {grad.data(), tokens, width_}, gm, key);
      for (std::size_t i = 0; i < grad_mid.size(); ++i)
        if (mids[b][i] <= 0) grad_mid[i] = 0;
      backward(linears(b)[0], {inputs[b].data(), tokens, width_}, gm, {grad_in.data(), tokens, width_}, key);
      for (std::size_t i = 0; i < grad.size(); ++i) grad[i] += grad_in[i];
    }
    if (step == poisoned_step) return std::nan("");
    return loss;
  }

  std::uint64_t poisoned_step = ~std::uint64_t{0};
  bool one_at_a_time = false;

 private:
  struct Block {
    std::vector<float> original, master;
    std::vector<losa::AdaptedLinear<A>> linears;
    std::vector<typename losa::AdaptedLinear<A>::Masks> parked;
  };

  static void fill(MatrixView<float> hidden, std::uint64_t stream) {
    const losa::Random random{.seed = 77, .stream = stream};
    for (std::size_t i = 0; i < hidden.size(); ++i)
      hidden.data[i] = static_cast<float>(random.normal(i) * (1.0 + static_cast<double>(i % width_) / 4));
  }
  static void dense(MatrixView<const float> w, MatrixView<const float> x, MatrixView<float> y) {
    for (std::size_t t = 0; t < x.rows; ++t)
      for (std::size_t r = 0; r < w.rows; ++r) {
        float sum = 0;
        for (std::size_t c = 0; c < w.cols; ++c) sum += w(r, c) * x(t, c);
        y(t, r) = sum;
      }
  }
  void multiply(losa::AdaptedLinear<A>& linear, MatrixView<const float> x, MatrixView<float> y,
                losa::DropoutKey key = {}) {
    if (linear.pruned()) {
      linear.forward(x, y, key, executor_);
    } else {
      dense(linear.weight, x, y);
    }
  }
  void backward(losa::AdaptedLinear<A>& linear, MatrixView<const float> x, MatrixView<const float> grad_y,
                MatrixView<float> grad_x, losa::DropoutKey key) {
    if (linear.pruned()) return linear.backward(x, grad_y, grad_x, key, executor_);
    linear.backward_dense(grad_y);
    for (std::size_t t = 0; t < x.rows; ++t)
      for (std::size_t c = 0; c < x.cols; ++c) {
        float sum = 0;
        for (std::size_t r = 0; r < grad_y.cols; ++r) sum += grad_y(t, r) * linear.weight(r, c);
        grad_x(t, c) = sum;
      }
  }

  losa::ExecutorRef executor_;
  std::uint64_t seed_;
  std::vector<Block> blocks_;
};

/// A visitor that keeps a state in memory, and one that gives it back.
struct Archive {
  using Value = std::variant<std::uint64_t, double, std::string, std::vector<float>, std::vector<double>,
                             std::vector<std::uint64_t>, losa::Mask>;
  std::map<std::string, Value> values;
  std::string prefix;
  bool reading = false;

  template <class T>
  void operator()(const std::string& name, T& value) {
    if (reading) {
      value = std::get<T>(values.at(prefix + name));
    } else {
      values[prefix + name] = value;
    }
  }
  void operator()(const std::string& name, MatrixView<float>& view) {
    std::vector<float> copy(view.data, view.data + view.size());
    (*this)(name, copy);
    std::copy(copy.begin(), copy.end(), view.data);
  }
  template <class F>
  void group(const std::string& name, F&& f) {
    const std::string outer = prefix;
    prefix += name;
    f();
    prefix = outer;
  }
};

}  // namespace toy
