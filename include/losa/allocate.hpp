#pragma once
// Everything in losa/allocate: sparsity per layer, rank per block, schedules over the steps.

#include <losa/allocate/allocator.hpp>
#include <losa/allocate/importance.hpp>
#include <losa/allocate/rank.hpp>
#include <losa/allocate/rmi.hpp>
#include <losa/allocate/schedule.hpp>
#include <losa/allocate/score_curve.hpp>
#include <losa/allocate/sparsity.hpp>
#include <losa/allocate/spectral_rank.hpp>
#include <losa/allocate/uniform.hpp>
#include <losa/allocate/water_fill.hpp>
