#pragma once
// Everything in losa/adapt: Algorithm 1 (LoSA) over any engine that models a small concept.

#include <losa/adapt/adapt.hpp>
#include <losa/adapt/calibration.hpp>
#include <losa/adapt/engine.hpp>
#include <losa/adapt/linear.hpp>
#include <losa/adapt/options.hpp>
#include <losa/adapt/recipe.hpp>
#include <losa/adapt/report.hpp>
#include <losa/adapt/spectrum.hpp>
#include <losa/adapt/update.hpp>
