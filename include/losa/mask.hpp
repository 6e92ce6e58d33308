#pragma once
// Everything in losa/mask: scores and policies that choose which weights stay.

#include <losa/mask/counts.hpp>
#include <losa/mask/inverse_factor.hpp>
#include <losa/mask/magnitude.hpp>
#include <losa/mask/obs_sweep.hpp>
#include <losa/mask/policy.hpp>
#include <losa/mask/select.hpp>
#include <losa/mask/sparsegpt.hpp>
#include <losa/mask/statistics.hpp>
#include <losa/mask/triangular_inverse.hpp>
#include <losa/mask/wanda.hpp>
