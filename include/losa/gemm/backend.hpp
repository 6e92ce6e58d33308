#pragma once
// What an implementation of the products provides: a name, whether this machine can run it, and one function per
// product. Arguments are plain pointers, sizes and strides, checked by the caller; no type depends on compile flags.
//
// A new backend is a folder with a header that defines one such table, and one line in registry.hpp. It may use any
// blocking, scratch space and parallel partition, as long as the result does not depend on the number of threads:
// split work at boundaries that follow from shapes and kept counts alone, and give every output one order of additions.

#include <cstddef>
#include <cstdint>

#include <losa/core/executor.hpp>
#include <losa/core/types.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/list_layout.hpp>
#include <losa/gemm/packed_structure.hpp>
#include <losa/gemm/weights.hpp>

namespace losa::inline v0 {

/// y (tokens, rows) = [y +] x (tokens, cols) · Wᵀ [+ bias (rows)]
template <class WeightsType>
using SpmmFunction = void (*)(const PackedLayout& w, const WeightsType& weights, MatrixView<const float> x,
                              MatrixView<float> y, const float* bias, bool accumulate, ExecutorRef executor);

template <class Element>
using ListFunction = void (*)(const ListLayout& w, const ListWeights<Element>& weights, MatrixView<const float> x,
                              MatrixView<float> y, const float* bias, bool accumulate, ExecutorRef executor);

struct Backend {
  const char* name;
  /// True if the CPU and the operating system support every instruction the functions below may execute.
  bool (*supported)() noexcept;

  SpmmFunction<FloatWeights<float>> spmm_f32;
  SpmmFunction<FloatWeights<bf16>> spmm_bf16;
  SpmmFunction<FloatWeights<f16>> spmm_f16;
  SpmmFunction<Int8Weights> spmm_int8;
  SpmmFunction<Int4Weights> spmm_int4;
  ListFunction<float> list_f32;
  ListFunction<bf16> list_bf16;
  ListFunction<f16> list_f16;
  ListFunction<std::int8_t> list_int8;
  /// dx (tokens, cols) = [dx +] g (tokens, rows) · W
  void (*spmm_transposed)(const PackedLayout& w, const float* values, MatrixView<const float> g, MatrixView<float> dx,
                          bool accumulate, ExecutorRef executor);
  /// values[k] = [base[k] +] scale · Σ_t g[t, r] · x[t, c] at the k-th kept position (r, c). `base` is null or an
  /// array as long as `values`, which it may be itself.
  void (*sddmm)(const PackedLayout& w, const float* base, float scale, MatrixView<const float> g,
                MatrixView<const float> x, float* values, ExecutorRef executor);
};

}  // namespace losa::inline v0
