#pragma once
// The AMX backend (Sapphire Rapids and later): `avx512_bf16`, but for bf16 and int8 weights in the bitmask format and
// more than eight tokens, which are multiplied in tiles. Only a model of the instructions has run so far (tests/gemm),
// never a processor.

#include <losa/gemm/amx/products.hpp>
#if defined(LOSA_AVX512)

#include <losa/core/executor.hpp>
#include <losa/core/types.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/avx512_bf16/backend.hpp>
#include <losa/gemm/backend.hpp>
#include <losa/gemm/cpu.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH::amx {

/// The products on tile registers of type Tiles.
template <class Tiles>
struct Products {
  static void spmm_bf16(const PackedLayout& w, const FloatWeights<bf16>& weights, MatrixView<const float> x,
                        MatrixView<float> y, const float* bias, bool accumulate, ExecutorRef executor) {
    if (x.rows <= few_tokens || !Product<Tiles, Bf16>::spmm(w, weights, x, y, bias, accumulate, executor))
      avx512_bf16::backend().spmm_bf16(w, weights, x, y, bias, accumulate, executor);
  }
  static void spmm_int8(const PackedLayout& w, const Int8Weights& weights, MatrixView<const float> x,
                        MatrixView<float> y, const float* bias, bool accumulate, ExecutorRef executor) {
    if (x.rows <= few_tokens || !Product<Tiles, Int8>::spmm(w, weights, x, y, bias, accumulate, executor))
      avx512_bf16::backend().spmm_int8(w, weights, x, y, bias, accumulate, executor);
  }

  static Backend table(const char* name, bool (*supported)() noexcept) noexcept {
    Backend made = avx512_bf16::backend();
    made.name = name;
    made.supported = supported;
    made.spmm_bf16 = spmm_bf16;
    made.spmm_int8 = spmm_int8;
    return made;
  }
};

inline const Backend& backend() noexcept {
  static const Backend table = Products<Tiles>::table("amx", []() noexcept {
    return avx512_bf16::backend().supported() && cpu().amx_tile && cpu().amx_bf16 && cpu().amx_int8 &&
           tiles_permitted();
  });
  return table;
}

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::amx
#endif
