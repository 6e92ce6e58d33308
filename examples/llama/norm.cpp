#include "norm.hpp"

#include <cmath>

#include "loops.hpp"

namespace llama {

void rms_norm(losa::MatrixView<const float> x, std::span<const float> weight, double epsilon, losa::MatrixView<float> y,
              std::span<float> scale, losa::ExecutorRef executor) {
  for_row_tiles(x.rows, x.cols, executor, [&](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) {
      const float* from = x.row(t).data();
      float* to = y.row(t).data();
      const float squares = detail::sum_of(x.cols, [&](std::size_t i) { return from[i] * from[i]; });
      const auto r =
          static_cast<float>(1.0 / std::sqrt(static_cast<double>(squares) / static_cast<double>(x.cols) + epsilon));
      scale[t] = r;
      for (std::size_t i = 0; i < x.cols; ++i) to[i] = weight[i] * (from[i] * r);
    }
  });
}

void rms_norm_backward(losa::MatrixView<const float> x, std::span<const float> weight, std::span<const float> scale,
                       losa::MatrixView<const float> grad_y, losa::MatrixView<float> grad_x,
                       losa::ExecutorRef executor) {
  for_row_tiles(x.rows, x.cols, executor, [&](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) {
      const float* from = x.row(t).data();
      const float* g = grad_y.row(t).data();
      float* to = grad_x.row(t).data();
      const float r = scale[t];
      const float dot = detail::sum_of(x.cols, [&](std::size_t i) { return g[i] * weight[i] * from[i]; });
      const float along = r * r * r * dot / static_cast<float>(x.cols);
      for (std::size_t i = 0; i < x.cols; ++i) to[i] += r * (weight[i] * g[i]) - along * from[i];
    }
  });
}

}  // namespace llama
