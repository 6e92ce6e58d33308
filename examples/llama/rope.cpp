#include "rope.hpp"

#include <cmath>
#include <numbers>

#include "loops.hpp"

namespace llama {

namespace {

double scaled(double frequency, const RopeScaling& s) {
  if (s.kind == RopeScaling::Kind::none) return frequency;
  const double slow = frequency / s.factor;
  if (s.kind == RopeScaling::Kind::linear) return slow;
  const double turns = s.first_context * frequency / (2 * std::numbers::pi);
  if (turns < s.low_frequency) return slow;
  if (turns > s.high_frequency) return frequency;
  const double share = (turns - s.low_frequency) / (s.high_frequency - s.low_frequency);
  return (1 - share) * slow + share * frequency;
}

}  // namespace

Rope::Rope(std::size_t head_dim, double theta, std::size_t positions, const RopeScaling& scaling)
    : theta_(theta), scaling_(scaling), half_(head_dim / 2) {
  extend(positions);
}

void Rope::extend(std::size_t positions) {
  if (positions <= positions_) return;
  cosine_.resize(positions * half_);
  sine_.resize(positions * half_);
  for (std::size_t i = 0; i < half_; ++i) {
    const double frequency = scaled(std::pow(theta_, -static_cast<double>(i) / static_cast<double>(half_)), scaling_);
    for (std::size_t p = positions_; p < positions; ++p) {
      const double angle = static_cast<double>(p) * frequency;
      cosine_[p * half_ + i] = static_cast<float>(std::cos(angle));
      sine_[p * half_ + i] = static_cast<float>(std::sin(angle));
    }
  }
  positions_ = positions;
}

void Rope::turn(losa::MatrixView<float> x, std::size_t first, std::size_t sequence, float direction,
                losa::ExecutorRef executor) const {
  const std::size_t last = first + std::min(sequence, x.rows);
  if (last > positions_)
    losa::detail::raise<losa::RangeError>("Rope: position ", last - 1, " is not below ", positions_);
  for_row_tiles(x.rows, x.cols, executor, [&](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) {
      const float* cosine = cosine_.data() + (first + t % sequence) * half_;
      const float* sine = sine_.data() + (first + t % sequence) * half_;
      for (std::size_t head = 0; head < x.cols; head += 2 * half_) {
        float* a = x.row(t).data() + head;
        float* b = a + half_;
        for (std::size_t i = 0; i < half_; ++i) {
          const float s = direction * sine[i];
          const float turned = a[i] * cosine[i] - b[i] * s;
          b[i] = b[i] * cosine[i] + a[i] * s;
          a[i] = turned;
        }
      }
    }
  });
}

}  // namespace llama
