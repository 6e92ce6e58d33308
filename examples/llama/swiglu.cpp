#include "swiglu.hpp"

#include "loops.hpp"

namespace llama {

void swiglu(losa::MatrixView<const float> gate, losa::MatrixView<const float> up, losa::MatrixView<float> y,
            losa::ExecutorRef executor) {
  for_row_tiles(gate.rows, gate.cols, executor, [&](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) {
      const float* g = gate.row(t).data();
      const float* u = up.row(t).data();
      float* to = y.row(t).data();
      for (std::size_t i = 0; i < gate.cols; ++i) to[i] = g[i] / (1.0f + exponential(-g[i])) * u[i];
    }
  });
}

void swiglu_backward(losa::MatrixView<const float> gate, losa::MatrixView<const float> up,
                     losa::MatrixView<const float> grad_y, losa::MatrixView<float> grad_gate,
                     losa::MatrixView<float> grad_up, losa::ExecutorRef executor) {
  for_row_tiles(gate.rows, gate.cols, executor, [&](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) {
      const float* g = gate.row(t).data();
      const float* u = up.row(t).data();
      const float* dy = grad_y.row(t).data();
      float* dg = grad_gate.row(t).data();
      float* du = grad_up.row(t).data();
      for (std::size_t i = 0; i < gate.cols; ++i) {
        const float sigma = 1.0f / (1.0f + exponential(-g[i]));
        const float d = dy[i];
        du[i] = d * (g[i] * sigma);
        dg[i] = d * u[i] * (sigma * (1.0f + g[i] * (1.0f - sigma)));
      }
    }
  });
}

}  // namespace llama
