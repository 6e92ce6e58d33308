#pragma once
// Every target that a unit with its compile flags can have, with the kernels of every format.
//
// A new target is a line in the list below; a new format brings its kernels in a line above it.

#include <array>
#include <tuple>

#include <losa/gemm/arch.hpp>
#include <losa/gemm/backend.hpp>
#include <losa/gemm/bitmask/kernels.hpp>
#include <losa/gemm/formats.hpp>
#include <losa/gemm/kernel.hpp>
#include <losa/gemm/list/kernels.hpp>
#include <losa/gemm/operation.hpp>

namespace losa::inline v0::detail {

// Here, where the kernels of every format have been seen: without some of them a target would quietly have its
// parent's.
template <class Target, class... Entries>
constexpr void fill(std::tuple<Entries...>& entries) noexcept {
  const auto set = []<class Arguments, class WeightsType>(Entry<Arguments, WeightsType>& entry) {
    using Schedule = typename Kernel<Target, Arguments, WeightsType>::Schedule;
    static_assert(ScheduleFor<Schedule, Arguments, WeightsType>);
    entry.operation = operation_of<Schedule, Arguments, Operand<WeightsType>>();
  };
  (set(std::get<Entries>(entries)), ...);
}

template <class Target>
constexpr Backend make_backend() noexcept {
  Backend made{.name = Target::name, .supported = Target::supported, .multiply = {}, .training = {}};
  fill<Target>(made.multiply);
  fill<Target>(made.training);
  return made;
}

/// The backend of a target.
template <class Target>
const Backend& backend_of() noexcept {
  static constexpr Backend made = make_backend<Target>();
  return made;
}

}  // namespace losa::inline v0::detail

namespace losa::inline v0::detail::inline LOSA_ARCH {

/// Best first; but `amx`, which few processors have run yet, only when it is named.
inline auto known_backends() noexcept {
  return std::array {
#if defined(LOSA_AVX512)
    &backend_of<avx512_bf16::Target>(),
#endif
#if defined(LOSA_AVX512) && defined(LOSA_AMX)
        &backend_of<amx::Target>(),
#endif
#if defined(LOSA_AVX512)
        &backend_of<avx512::Target>(),
#endif
#if defined(LOSA_AVX2)
        &backend_of<avx2::Target>(),
#endif
#if defined(LOSA_PORTABLE)
        &backend_of<portable::Target>(),
#endif
        &backend_of<reference::Target>(),
  };
}

}  // namespace losa::inline v0::detail::inline LOSA_ARCH
