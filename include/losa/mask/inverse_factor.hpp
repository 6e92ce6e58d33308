#pragma once
// The factor that optimal brain surgery needs, column by column from the left: U upper triangular with H⁻¹ = UᵀU.
// Row j of U holds what removing input j does to the inputs after it, [H_{j:}⁻¹]_{0,:} = U_jj·U_{j,j:} for the
// Hessian H_{j:} of the inputs from j on (Frantar and Alistarh, "SparseGPT", ICML 2023, section 3.3).
//
// With J the exchange matrix and J·H·J = L·Lᵀ, U = J·L⁻¹·J: one Cholesky factorisation and one triangular inverse
// (2n³/3), no inverse of H.
//
//   auto factor = losa::inverse_factor(hessian, {.damping = 0.01}, executor);      // hessian (in, in), double

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string_view>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/view.hpp>

namespace losa::inline v0 {

struct DampingOptions {
  double damping = 0.01;       // of the mean of the live diagonal, added to the diagonal
  std::size_t max_raises = 6;  // how often damping may rise tenfold when the matrix is not positive definite
};

/// U, the damping that it took, and the columns without any signal.
struct InverseFactor {
  std::size_t size = 0;
  std::vector<double> values;  // (size, size) row-major, zero below the diagonal
  double damping = 0;          // as asked, or risen tenfold `raises` times
  std::size_t raises = 0;
  std::vector<bool> dead;  // (size) H_jj = 0: no input ever differed from 0; U_jj as if the column had mean signal

  MatrixView<const double> upper() const noexcept { return {values.data(), size, size}; }
};

namespace detail {

using RowMajorMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Columns of the triangular inverse per task; measured at n = 1536: 64 and 256 are within 10 % of 128.
inline constexpr Eigen::Index inverse_panel = 128;

/// L (lower) of `matrix`, in place; false if a pivot is not clearly positive.
inline bool cholesky(Eigen::MatrixXd& matrix) {
  const Eigen::VectorXd diagonal = matrix.diagonal();
  const Eigen::Index n = matrix.rows();
  Eigen::LLT<Eigen::Ref<Eigen::MatrixXd>, Eigen::Lower> factorisation(matrix);
  if (factorisation.info() != Eigen::Success) return false;
  // A pivot at the level of rounding is a zero that was missed. (With damping 0.01 no pivot is near: it is at least
  // 0.01 of the mean diagonal, and no element of the diagonal exceeds n times the mean.)
  const double rounding = 16 * static_cast<double>(n) * std::numeric_limits<double>::epsilon();
  for (Eigen::Index j = 0; j < n; ++j)
    if (!(matrix(j, j) * matrix(j, j) > rounding * diagonal(j))) return false;
  return true;
}

}  // namespace detail

/// U with (H + λI)⁻¹ = UᵀU, λ = damping · mean of the nonzero diagonal. If H + λI is not positive definite λ rises
/// tenfold (from no damping: to 1e-6) at most `max_raises` times; `damping` and `raises` of the result tell.
/// hessian (n, n), symmetric; only its upper triangle is read. Cost 2n³/3, memory 2n².
/// Throws ShapeError (not square), RangeError (damping negative or not finite), NumericError (an element that is not
/// finite, a negative diagonal, not positive definite even with the highest damping).
inline InverseFactor inverse_factor(MatrixView<const double> hessian, const DampingOptions& options = {},
                                    const ExecutorRef& executor = {}, std::string_view where = "inverse_factor") {
  using Eigen::Index;
  const std::size_t size = hessian.rows;
  detail::expect_shape(where, "hessian", hessian, size, size);
  if (!(options.damping >= 0.0 && std::isfinite(options.damping)))
    detail::raise<RangeError>(where, ": damping must be finite and not negative, got ", options.damping);

  InverseFactor result{.size = size, .values = {}, .damping = options.damping, .raises = 0, .dead = {}};
  result.values.resize(size * size);
  result.dead.resize(size);
  double trace = 0;
  std::size_t live = 0;
  for (std::size_t r = 0; r < size; ++r) {
    for (std::size_t c = r; c < size; ++c)
      if (!std::isfinite(hessian(r, c)))
        detail::raise<NumericError>(where, ": element (", r, ", ", c, ") of the Hessian is not finite");
    const double diagonal = hessian(r, r);
    if (diagonal < 0)
      detail::raise<NumericError>(where, ": diagonal element ", r, " of the Hessian is negative: ", diagonal);
    result.dead[r] = diagonal == 0;
    live += diagonal > 0;
    trace += diagonal;
  }
  const double mean = live == 0 ? 1.0 : trace / static_cast<double>(live);

  const auto n = static_cast<Index>(size);
  Eigen::MatrixXd lower(n, n);
  for (;; ++result.raises) {
    // Column-major lower triangle of J·H·J: element (i, j) is H(n−1−i, n−1−j), read from the upper triangle of H.
    const double added = result.damping * mean;
    for (std::size_t c = 0; c < size; ++c)
      for (std::size_t r = c; r < size; ++r)
        lower(static_cast<Index>(r), static_cast<Index>(c)) = hessian(size - 1 - r, size - 1 - c);
    for (std::size_t j = 0; j < size; ++j) {
      double& diagonal = lower(static_cast<Index>(size - 1 - j), static_cast<Index>(size - 1 - j));
      diagonal = (result.dead[j] ? mean : diagonal) + added;
    }
    if (detail::cholesky(lower)) break;
    if (result.raises >= options.max_raises)
      detail::raise<NumericError>(where, ": the Hessian is not positive definite even with damping ", result.damping);
    result.damping = result.damping == 0 ? 1e-6 : 10 * result.damping;
  }

  // U(j, k) = L⁻¹(n−1−j, n−1−k). Columns [p, p + w) of L⁻¹ are zero above row p.
  const std::size_t panels = static_cast<std::size_t>((n + detail::inverse_panel - 1) / detail::inverse_panel);
  executor.parallel_for(panels, [&](std::size_t panel) {
    const Index p = static_cast<Index>(panel) * detail::inverse_panel;
    const Index width = std::min(detail::inverse_panel, n - p);
    Eigen::MatrixXd columns = Eigen::MatrixXd::Zero(n - p, width);
    columns.topLeftCorner(width, width).setIdentity();
    lower.bottomRightCorner(n - p, n - p).triangularView<Eigen::Lower>().solveInPlace(columns);
    for (Index k = 0; k < width; ++k)
      for (Index j = k; j < n - p; ++j)
        result.values[static_cast<std::size_t>((n - 1 - p - j) * n + (n - 1 - p - k))] = columns(j, k);
  });
  return result;
}

}  // namespace losa::inline v0
