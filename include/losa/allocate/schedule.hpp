#pragma once
// How sparsity rises over T schedule steps, t = 1 … T, to its final value S:
//
//   OneShot  S_t = S                  Linear  S_t = S·t/T                  Cubic  S_t = S − S·(1 − t/T)³   (LoSA, Eq.
//   8)
//
// S_T is S bit for bit, and S_t never falls. A schedule is any type with operator()(t, T, S).
//
//   double now = losa::scheduled_sparsity(losa::Cubic{}, 3, 5, 0.7);       // 0.6552

#include <algorithm>
#include <concepts>
#include <cstddef>

#include <losa/core/error.hpp>
#include <losa/core/finite.hpp>

namespace losa::inline v0 {

template <class ScheduleType>
concept Schedule = requires(const ScheduleType& schedule, std::size_t step, double final) {
  { schedule(step, step, final) } -> std::convertible_to<double>;
};

/// Everything at the first step.
struct OneShot {
  constexpr double operator()(std::size_t, std::size_t, double final) const noexcept { return final; }
};

/// Equal steps.
struct Linear {
  constexpr double operator()(std::size_t step, std::size_t steps, double final) const noexcept {
    return step >= steps ? final : final * (static_cast<double>(step) / static_cast<double>(steps));
  }
};

/// Much at first, little at last (Zhu and Gupta 2017, from 0; LoSA, Eq. 8).
struct Cubic {
  constexpr double operator()(std::size_t step, std::size_t steps, double final) const noexcept {
    const double left = step >= steps ? 0.0 : 1.0 - static_cast<double>(step) / static_cast<double>(steps);
    return final - final * (left * left * left);
  }
};

/// S_t of a schedule, in [0, final]. Throws RangeError unless 1 ≤ t ≤ T and 0 ≤ final < 1.
template <Schedule ScheduleType>
double scheduled_sparsity(const ScheduleType& schedule, std::size_t step, std::size_t steps, const double& final) {
  if (step < 1 || step > steps)
    detail::raise<RangeError>("scheduled_sparsity: step must be in [1, ", steps, "], got ", step);
  if (!(detail::is_finite(final) && final >= 0.0 && final < 1.0))
    detail::raise<RangeError>("scheduled_sparsity: final sparsity must be in [0, 1), got ", final);
  if (step == steps) return final;
  return std::clamp(static_cast<double>(schedule(step, steps, final)), 0.0, final);
}

}  // namespace losa::inline v0
