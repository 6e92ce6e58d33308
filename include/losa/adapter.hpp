#pragma once
// Everything in losa/adapter: low-rank adapters under a mask, their optimiser, merge and resize.

#include <losa/adapter/concept.hpp>
#include <losa/adapter/dropout.hpp>
#include <losa/adapter/gradients.hpp>
#include <losa/adapter/lora.hpp>
#include <losa/adapter/lora_factors.hpp>
#include <losa/adapter/masked_lora.hpp>
#include <losa/adapter/merge.hpp>
#include <losa/adapter/optimizer.hpp>
#include <losa/adapter/resize.hpp>
#include <losa/adapter/small_svd.hpp>
