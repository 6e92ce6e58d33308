#pragma once
// The formats of packed weights that backends know, by the type through which kernels read the values.
//
// A new format is a folder: its layout, its weights type, an Operand, kernels for the targets that have their own
// (kernel.hpp), and its weights type in the list below.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <losa/core/types.hpp>
#include <losa/gemm/list_layout.hpp>
#include <losa/gemm/packed_structure.hpp>
#include <losa/gemm/weights.hpp>

namespace losa::inline v0::detail {

/// A matrix as kernels see it: pointers and sizes.
template <class WeightsType>
struct Operand {
  PackedLayout layout;
  WeightsType weights;
};
template <class Element>
struct Operand<ListWeights<Element>> {
  ListLayout layout;
  ListWeights<Element> weights;
};

template <class... Members>
struct TypeList {};

using Formats = TypeList<FloatWeights<float>, FloatWeights<bf16>, FloatWeights<f16>, Int8Weights, Int4Weights,
                         ListWeights<float>, ListWeights<bf16>, ListWeights<f16>, ListWeights<std::int8_t>>;
/// Those that products of training have.
using TrainableFormats = TypeList<FloatWeights<float>>;

template <class WeightsType>
concept BitmaskWeights = std::is_same_v<decltype(Operand<WeightsType>::layout), PackedLayout>;

template <class... Members>
constexpr std::size_t largest_operand(TypeList<Members...>) noexcept {
  static_assert((std::is_trivially_copyable_v<Operand<Members>> && ...));
  return std::max({sizeof(Operand<Members>)...});
}

}  // namespace losa::inline v0::detail
