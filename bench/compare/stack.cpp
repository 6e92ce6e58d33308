#include "stack.hpp"

#include <cmath>
#include <limits>
#include <map>
#include <stdexcept>
#include <utility>

namespace compare {
namespace {

constexpr std::size_t head_size = Stack::hidden / Stack::heads;

void norm(const std::vector<float>& x, std::vector<float>& y) {
  float squares = 0;
  for (float v : x) squares += v * v;
  const float scale = 1 / std::sqrt(squares / static_cast<float>(x.size()) + 1e-5f);
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = x[i] * scale;
}

void add(const std::vector<float>& change, std::vector<float>& state) {
  for (std::size_t i = 0; i < state.size(); ++i) state[i] += change[i];
}

/// Rotary embedding of position `past`.
void rotate(float* head) {
  constexpr std::size_t half = head_size / 2;
  for (std::size_t i = 0; i < half; ++i) {
    const float angle = static_cast<float>(Stack::past) * std::pow(1e4f, -static_cast<float>(i) / half);
    const float a = head[i];
    const float b = head[half + i];
    head[i] = a * std::cos(angle) - b * std::sin(angle);
    head[half + i] = a * std::sin(angle) + b * std::cos(angle);
  }
}

}  // namespace

Stack::Stack(const Entry& entry, std::size_t blocks, const Pruning& pruning, losa::ThreadPool& pool) : pool_(pool) {
  for (std::vector<float>* v : {&state_, &normed_, &q_, &k_, &v_, &mixed_, &change_}) v->resize(hidden);
  for (std::vector<float>* v : {&gate_, &up_}) v->resize(inner);

  // Weights of the same shape have the same values; every contender makes a copy of its own.
  using Shape = std::pair<std::size_t, std::size_t>;
  std::map<Shape, std::vector<float>> weights;
  std::map<Shape, losa::Mask> masks;
  const auto make = [&](std::size_t out, std::size_t in, const std::vector<float>& x, std::vector<float>& y) {
    std::vector<float>& weight = weights[{out, in}];
    if (weight.empty()) weight = numbers(out * in, 1);
    Layer layer{.out = out, .in = in, .weight = weight.data(), .most_copies = 1, .pool = &pool};
    if (entry.sparse) {
      layer.mask = &masks.try_emplace(Shape{out, in}, random_mask(out, in, pruning)).first->second;
      layer.pruning = pruning;
    }
    kept_ += layer.mask == nullptr ? layer.size() : layer.mask->kept();
    std::unique_ptr<Contender> made = entry.make(layer);
    made->prepare({.x = x.data(), .g = nullptr, .y = y.data(), .tokens = 1});
    return made;
  };
  for (std::size_t b = 0; b < blocks; ++b) {
    Block block;
    block.q = make(hidden, hidden, normed_, q_);
    block.k = make(hidden, hidden, normed_, k_);
    block.v = make(hidden, hidden, normed_, v_);
    block.o = make(hidden, hidden, mixed_, change_);
    block.gate = make(inner, hidden, normed_, gate_);
    block.up = make(inner, hidden, normed_, up_);
    block.down = make(hidden, inner, gate_, change_);
    block.keys = numbers(past * hidden, 4);
    block.values = numbers(past * hidden, 5);
    blocks_.push_back(std::move(block));
  }
}

void Stack::attend(Block& block) {
  pool_.parallel_for(heads, [&](std::size_t h) {
    const std::size_t from = h * head_size;
    float* q = q_.data() + from;
    rotate(q);
    rotate(k_.data() + from);
    float scores[past + 1];
    float most = -std::numeric_limits<float>::infinity();
    for (std::size_t t = 0; t <= past; ++t) {
      const float* k = t == past ? k_.data() + from : block.keys.data() + t * hidden + from;
      float sum = 0;
      for (std::size_t i = 0; i < head_size; ++i) sum += q[i] * k[i];
      scores[t] = sum / std::sqrt(static_cast<float>(head_size));
      most = std::max(most, scores[t]);
    }
    float total = 0;
    for (float& s : scores) total += s = std::exp(s - most);
    float* mixed = mixed_.data() + from;
    std::fill(mixed, mixed + head_size, 0.0f);
    for (std::size_t t = 0; t <= past; ++t) {
      const float* v = t == past ? v_.data() + from : block.values.data() + t * hidden + from;
      const float share = scores[t] / total;
      for (std::size_t i = 0; i < head_size; ++i) mixed[i] += share * v[i];
    }
  });
}

void Stack::run() {
  const auto multiply = [](Contender& c) {
    c.run();
    c.fetch();
  };
  for (std::size_t i = 0; i < hidden; ++i) state_[i] = static_cast<float>(i % 7) - 3;
  for (Block& block : blocks_) {
    norm(state_, normed_);
    for (Contender* c : {block.q.get(), block.k.get(), block.v.get()}) multiply(*c);
    attend(block);
    multiply(*block.o);
    add(change_, state_);
    norm(state_, normed_);
    for (Contender* c : {block.gate.get(), block.up.get()}) multiply(*c);
    for (std::size_t i = 0; i < inner; ++i) gate_[i] *= up_[i] / (1 + std::exp(-gate_[i]));
    multiply(*block.down);
    add(change_, state_);
  }
  for (float v : state_)
    if (!std::isfinite(v)) throw std::runtime_error("the stack's output is not finite");
}

std::size_t Stack::bytes() const {
  std::size_t sum = 0;
  for (const Block& block : blocks_)
    for (const Contender* c : block.all()) sum += c->bytes();
  return sum;
}

}  // namespace compare
