#pragma once
// Everything in losa/calibrate: statistics that take activations batch by batch and merge across shards.

#include <losa/calibrate/column_moments.hpp>
#include <losa/calibrate/column_norms.hpp>
#include <losa/calibrate/columns.hpp>
#include <losa/calibrate/feature_gram.hpp>
#include <losa/calibrate/hessian.hpp>
#include <losa/calibrate/reconstruction_error.hpp>
