#include "swiglu.hpp"

#include "loops.hpp"

namespace llama {

void swiglu(losa::MatrixView<const float> gate, losa::MatrixView<const float> up, losa::MatrixView<float> y,
            losa::ExecutorRef executor) {
  for_row_tiles(gate.rows, gate.cols, executor, [&](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t)
      swiglu_row(gate.row(t).data(), up.row(t).data(), y.row(t).data(), gate.cols);
  });
}

void swiglu_backward(losa::MatrixView<const float> gate, losa::MatrixView<const float> up,
                     losa::MatrixView<const float> grad_y, losa::MatrixView<float> grad_gate,
                     losa::MatrixView<float> grad_up, losa::ExecutorRef executor) {
  for_row_tiles(gate.rows, gate.cols, executor, [&](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t)
      swiglu_backward_row(gate.row(t).data(), up.row(t).data(), grad_y.row(t).data(), grad_gate.row(t).data(),
                          grad_up.row(t).data(), gate.cols);
  });
}

}  // namespace llama
