#pragma once
// Everything in losa/core: views, storage types, masks and patterns, errors, executors, progress, random numbers.
// losa/core/openmp.hpp stays apart, since it needs a compiler run with OpenMP enabled.

#include <losa/core/apportion.hpp>
#include <losa/core/error.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/finite.hpp>
#include <losa/core/machine.hpp>
#include <losa/core/mask.hpp>
#include <losa/core/opaque.hpp>
#include <losa/core/pattern.hpp>
#include <losa/core/product_f64.hpp>
#include <losa/core/progress.hpp>
#include <losa/core/random.hpp>
#include <losa/core/thread_pool.hpp>
#include <losa/core/types.hpp>
#include <losa/core/view.hpp>
#include <losa/core/worker.hpp>
#include <losa/version.hpp>
