#pragma once
// Squared singular values of a matrix, by the eigenvalues of the smaller of its two Grams, in double.

#include <algorithm>
#include <cstddef>
#include <vector>

// Eigen has an enumerator Success, which is a macro after <X11/X.h>.
#pragma push_macro("Success")
#undef Success
#include <Eigen/Eigenvalues>
#pragma pop_macro("Success")

#include <losa/core/error.hpp>
#include <losa/core/view.hpp>

namespace losa::inline v0::detail {

/// Falling, min(rows, cols) of them. A template only so that Eigen's solver is compiled where it is called. Cost
/// O(rows·cols·min + min³). Throws NumericError if they cannot be found.
template <class Element>
std::vector<double> squared_singular_values(MatrixView<Element> matrix) {
  using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Eigen::Map<const Rows, Eigen::Unaligned, Eigen::OuterStride<>> map(
      matrix.data, static_cast<Eigen::Index>(matrix.rows), static_cast<Eigen::Index>(matrix.cols),
      Eigen::OuterStride<>(static_cast<Eigen::Index>(matrix.stride)));
  const Eigen::MatrixXd wide = map.cast<double>();
  const Eigen::MatrixXd gram =
      matrix.rows <= matrix.cols ? Eigen::MatrixXd(wide * wide.transpose()) : Eigen::MatrixXd(wide.transpose() * wide);
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(gram, Eigen::EigenvaluesOnly);
  constexpr Eigen::ComputationInfo success{};  // Eigen::Success, the first of them, whose name may be a macro here
  if (solver.info() != success) raise<NumericError>("squared_singular_values: no convergence");
  std::vector<double> values(solver.eigenvalues().data(), solver.eigenvalues().data() + solver.eigenvalues().size());
  std::reverse(values.begin(), values.end());
  for (double& value : values) value = std::max(value, 0.0);
  return values;
}

}  // namespace losa::inline v0::detail
