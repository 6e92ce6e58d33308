#pragma once
// The kernels of the bitmask format, of every target.

#include <losa/gemm/bitmask/avx2.hpp>
#include <losa/gemm/bitmask/avx512.hpp>
#include <losa/gemm/bitmask/avx512_bf16.hpp>
#include <losa/gemm/bitmask/portable.hpp>
#include <losa/gemm/bitmask/reference.hpp>
#if defined(LOSA_AMX)
#include <losa/gemm/bitmask/amx.hpp>
#endif
