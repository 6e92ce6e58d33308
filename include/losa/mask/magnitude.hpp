#pragma once
// Magnitude: score |w|. The oldest rule, blind to the inputs.
//
//   losa::Mask mask = losa::select(losa::Magnitude{}, weight, losa::Unstructured{0.5, losa::Group::layer});

#include <cmath>
#include <cstddef>

#include <losa/mask/statistics.hpp>

namespace losa::inline v0 {

struct Magnitude {
  static constexpr StatisticsNeeds needs{};
  static Magnitude from(const LayerStatistics& /*statistics*/) { return {}; }

  float operator()(std::size_t /*row*/, std::size_t /*col*/, float weight) const noexcept { return std::abs(weight); }
};

}  // namespace losa::inline v0
