#pragma once
// Wanda: score |w_ij|·‖X_j‖₂ (Sun et al., "A simple and effective pruning approach for large language models", ICLR
// 2024, Eq. 1), compared within each output row. A common factor of all norms leaves the mask as it is, so sums of
// squares serve as well as their means.
//
//   losa::ColumnNorms norms(in);
//   for (auto batch : calibration) norms.add(batch);
//   losa::Mask mask = losa::select(losa::Wanda{norms}, weight, losa::NofM{2, 4});

#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/mask/statistics.hpp>

namespace losa::inline v0 {

class Wanda {
 public:
  static constexpr StatisticsNeeds needs{.square_norms = true};

  /// Names the score where it will be made from statistics later (as_policy(Wanda{})); scores nothing itself.
  Wanda() = default;
  /// `square_norms` (in): Σx² of every input column, or any common multiple of it.
  explicit Wanda(std::span<const double> square_norms) : norms_(square_norms.size()) {
    for (std::size_t c = 0; c < norms_.size(); ++c) norms_[c] = std::sqrt(square_norms[c]);
  }
  /// From anything with sum_squares(), such as ColumnNorms.
  template <class Norms>
  requires requires(const Norms& norms) { std::span<const double>(norms.sum_squares()); }
  explicit Wanda(const Norms& norms) : Wanda(std::span<const double>(norms.sum_squares())) {}

  static Wanda from(const LayerStatistics& statistics) { return Wanda(statistics.square_norms); }

  float operator()(std::size_t /*row*/, std::size_t col, float weight) const noexcept {
    return static_cast<float>(std::abs(static_cast<double>(weight)) * norms_[col]);
  }

  /// Throws ShapeError unless there is one norm per column.
  void validate(std::size_t rows, std::size_t cols) const {
    if (norms_.size() != cols)
      detail::raise<ShapeError>("Wanda: ", norms_.size(), " column norms for a weight of ", rows, " × ", cols);
  }

 private:
  std::vector<double> norms_;  // (in) ‖X_j‖₂
};

}  // namespace losa::inline v0
