#pragma once
// The kernels of the list format, of every target.

#include <losa/gemm/list/avx2.hpp>
#include <losa/gemm/list/avx512.hpp>
#include <losa/gemm/list/portable.hpp>
#include <losa/gemm/list/reference.hpp>
