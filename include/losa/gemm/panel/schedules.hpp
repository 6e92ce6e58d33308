#pragma once
// Every product of a target whose kernel set is complete.

#include <losa/gemm/arch.hpp>
#include <losa/gemm/formats.hpp>
#include <losa/gemm/kernel.hpp>
#include <losa/gemm/operation.hpp>
#include <losa/gemm/panel/multiply.hpp>
#include <losa/gemm/panel/multiply_list.hpp>
#include <losa/gemm/panel/multiply_transposed.hpp>
#include <losa/gemm/panel/sample.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH {

template <class KernelSet, class Arguments, class WeightsType>
struct PanelSchedule;
template <class KernelSet, class WeightsType>
struct PanelSchedule<KernelSet, Multiply, WeightsType> {
  using Schedule = PanelMultiply<KernelSet, WeightsType>;
};
template <class KernelSet, class Element>
struct PanelSchedule<KernelSet, Multiply, ListWeights<Element>> {
  using Schedule = PanelMultiplyList<KernelSet, Element>;
};
template <class KernelSet>
struct PanelSchedule<KernelSet, MultiplyTransposed, FloatWeights<float>> {
  using Schedule = PanelMultiplyTransposed<KernelSet>;
};
template <class KernelSet>
struct PanelSchedule<KernelSet, Sample, FloatWeights<float>> {
  using Schedule = PanelSample<KernelSet>;
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH
