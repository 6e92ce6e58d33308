#include "check.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace compare {
namespace {

std::vector<std::size_t> spread(std::size_t n, std::size_t most) {
  std::vector<std::size_t> chosen;
  const std::size_t count = std::min(n, most);
  for (std::size_t i = 0; i < count; ++i) chosen.push_back(count == 1 ? 0 : i * (n - 1) / (count - 1));
  return chosen;
}

}  // namespace

Reference::Reference(const Layer& layer, Op op, const Operands& o) {
  const auto kept = [&](std::size_t r, std::size_t c) { return layer.mask == nullptr || (*layer.mask)(r, c); };
  cols_ = op == Op::product ? layer.out : layer.in;
  rows_ = op == Op::sddmm ? spread(layer.out, 64) : spread(o.tokens, 8);
  want_.resize(rows_.size() * cols_);
  if (op == Op::sddmm) {
    counts_.resize(want_.size());
    layer.pool->parallel_for(rows_.size(), [&](std::size_t i) {
      const std::size_t r = rows_[i];
      double* want = want_.data() + i * cols_;
      for (std::size_t t = 0; t < o.tokens; ++t)
        for (std::size_t c = 0; c < layer.in; ++c)
          want[c] += static_cast<double>(o.g[t * layer.out + r]) * static_cast<double>(o.x[t * layer.in + c]);
      for (std::size_t c = 0; c < layer.in; ++c) counts_[i * cols_ + c] = kept(r, c);
    });
  } else {
    // Tasks are rows of W for y = x · Wᵀ, ranges of its columns for y = g · W: each output has one writer.
    const std::size_t part = 64;
    layer.pool->parallel_for((cols_ + part - 1) / part, [&](std::size_t p) {
      const std::size_t end = std::min(cols_, (p + 1) * part);
      if (op == Op::product) {
        std::vector<double> row(layer.in);
        for (std::size_t r = p * part; r < end; ++r) {
          for (std::size_t c = 0; c < layer.in; ++c)
            row[c] = kept(r, c) ? static_cast<double>(layer.weight[r * layer.in + c]) : 0.0;
          for (std::size_t i = 0; i < rows_.size(); ++i) {
            const float* x = o.x + rows_[i] * layer.in;
            double sum = 0;
            for (std::size_t c = 0; c < layer.in; ++c) sum += row[c] * static_cast<double>(x[c]);
            want_[i * cols_ + r] = sum;
          }
        }
      } else {
        for (std::size_t r = 0; r < layer.out; ++r)
          for (std::size_t c = p * part; c < end; ++c) {
            if (!kept(r, c)) continue;
            const auto w = static_cast<double>(layer.weight[r * layer.in + c]);
            for (std::size_t i = 0; i < rows_.size(); ++i)
              want_[i * cols_ + c] += w * static_cast<double>(o.g[rows_[i] * layer.out + r]);
          }
      }
    });
  }
  double squares = 0;
  for (double w : want_) squares += w * w;
  scale_ = std::sqrt(squares / static_cast<double>(want_.size()));
}

double Reference::error(const float* y) const {
  double worst = 0;
  for (std::size_t i = 0; i < want_.size(); ++i) {
    if (!counts_.empty() && counts_[i] == 0) continue;
    const double off = std::abs(static_cast<double>(y[rows_[i / cols_] * cols_ + i % cols_]) - want_[i]);
    if (std::isnan(off)) return off;
    worst = std::max(worst, off);
  }
  return worst / scale_;
}

double tolerance(const std::string& type) {
  if (type == "f32") return 1e-3;
  if (type == "f16" || type == "bf16") return 0.04;
  if (type == "int8") return 0.1;
  if (type == "int4") return 0.7;
  throw std::invalid_argument("no tolerance for values of type " + type);
}

}  // namespace compare
