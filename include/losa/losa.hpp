#pragma once
// All of losa but file formats (losa/io.hpp) and the published quirks (losa/published.hpp).

#include <losa/adapt.hpp>
#include <losa/adapter.hpp>
#include <losa/allocate.hpp>
#include <losa/calibrate.hpp>
#include <losa/core.hpp>
#include <losa/gemm.hpp>
#include <losa/mask.hpp>
