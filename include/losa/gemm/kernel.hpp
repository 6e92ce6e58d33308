#pragma once
// Which code multiplies. A target is a set of instructions:
//
//   struct Target {
//     using Parent = avx2::Target;                       // has what this lacks; void for none
//     static constexpr const char* name = "avx512";
//     static bool supported() noexcept;                  // by processor and system
//   };
//
// and for a product and a format that it has kernels of its own for, a Schedule of tasks:
//
//   template <>
//   struct Kernel<avx512::Target, Multiply, Int8Weights> {
//     using Schedule = …;
//   };
//
//   Schedule(operand, shape)            cheap: it is made anew for every question and task
//   needs(), tasks(phase), rounding(), run(phase, task, arguments, workspace), all noexcept    (operation.hpp)

#include <concepts>
#include <cstddef>
#include <type_traits>

#include <losa/gemm/formats.hpp>
#include <losa/gemm/operation.hpp>

namespace losa::inline v0::detail {

template <class Target, class Arguments, class WeightsType>
struct Kernel : Kernel<typename Target::Parent, Arguments, WeightsType> {};

template <class Schedule, class Arguments, class WeightsType>
concept ScheduleFor = std::is_nothrow_constructible_v < Schedule,
        const Operand<WeightsType>
&, Shape > &&requires(const Schedule& schedule, std::size_t n, const Arguments& arguments, Workspace workspace) {
  { schedule.needs() }
  noexcept->std::same_as<Needs>;
  { schedule.tasks(n) }
  noexcept->std::same_as<std::size_t>;
  { schedule.rounding() }
  noexcept->std::same_as<Rounding>;
  { schedule.run(n, n, arguments, workspace) }
  noexcept->std::same_as<void>;
};

}  // namespace losa::inline v0::detail
