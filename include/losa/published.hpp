#pragma once
// Everything in losa/published: the counting and budget rules of the published implementation, behind the same
// concepts.

#include <losa/published/counts.hpp>
#include <losa/published/rank.hpp>
#include <losa/published/recipe.hpp>
#include <losa/published/sparsity.hpp>
