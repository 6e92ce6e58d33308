#pragma once
// Sparse matrix products: pack a masked weight matrix once, multiply it with activations on the best instruction set of
// the machine. Needs neither Eigen nor JSON.
//
//   auto packed = losa::pack(losa::view(weight, out, in), mask);
//   losa::spmm(packed, losa::view(x, tokens, in), losa::view(y, tokens, out));

#include <losa/core/error.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/mask.hpp>
#include <losa/core/types.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/backend.hpp>
#include <losa/gemm/list_matrix.hpp>
#include <losa/gemm/pack.hpp>
#include <losa/gemm/packed_matrix.hpp>
#include <losa/gemm/quantized_matrix.hpp>
#include <losa/gemm/registry.hpp>
#include <losa/gemm/sddmm.hpp>
#include <losa/gemm/spmm.hpp>
