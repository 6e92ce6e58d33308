#pragma once
// SwiGLU (Shazeer, 2020): y = silu(g)∘u with silu(g) = g/(1 + e^−g).
//
//   dg = dy∘u∘σ(g)·(1 + g·(1 − σ(g))),   du = dy∘silu(g)

#include <losa/core/executor.hpp>
#include <losa/core/view.hpp>

namespace llama {

/// y = silu(gate)∘up, all (tokens, d).
void swiglu(losa::MatrixView<const float> gate, losa::MatrixView<const float> up, losa::MatrixView<float> y,
            losa::ExecutorRef executor = {});

/// grad_gate and grad_up (overwritten) from grad_y; all (tokens, d).
void swiglu_backward(losa::MatrixView<const float> gate, losa::MatrixView<const float> up,
                     losa::MatrixView<const float> grad_y, losa::MatrixView<float> grad_gate,
                     losa::MatrixView<float> grad_up, losa::ExecutorRef executor = {});

}  // namespace llama
