#pragma once
// The factor that optimal brain surgery needs, column by column from the left: U upper triangular with H⁻¹ = UᵀU.
// Row j of U holds what removing input j does to the inputs after it, [H_{j:}⁻¹]_{0,:} = U_jj·U_{j,j:} for the
// Hessian H_{j:} of the inputs from j on (Frantar and Alistarh, "SparseGPT", ICML 2023, section 3.3).
//
// H = R·Rᵀ with R upper triangular (Cholesky's factorisation from the last column to the first) and U = R⁻¹: no inverse
// of H. Both are made in one pass, in place (triangular_inverse.hpp).
//
//   auto factor = losa::inverse_factor(hessian, {.damping = 0.01}, executor);      // hessian (in, in), double

#include <cstddef>
#include <string_view>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/finite.hpp>
#include <losa/core/view.hpp>
#include <losa/mask/triangular_inverse.hpp>

namespace losa::inline v0 {

struct DampingOptions {
  double damping = 0.01;       // of the mean of the live diagonal, added to the diagonal
  std::size_t max_raises = 6;  // how often damping may rise tenfold when the matrix is not positive definite
  friend bool operator==(const DampingOptions&, const DampingOptions&) = default;
};

/// U, the damping that it took, and the columns without any signal.
struct InverseFactor {
  detail::UpperStrips upper;  // (size, size), the upper triangle alone
  double damping = 0;         // as asked, or risen tenfold `raises` times
  std::size_t raises = 0;
  std::vector<bool> dead;  // (size) H_jj = 0: no input ever differed from 0; U_jj as if the column had mean signal

  std::size_t size() const noexcept { return upper.size(); }
  /// U_jk.
  double operator()(std::size_t j, std::size_t k) const noexcept { return j <= k ? upper(j, k) : 0.0; }
};

/// U with (H + λI)⁻¹ = UᵀU, λ = damping · mean of the nonzero diagonal. If H + λI is not positive definite λ rises
/// tenfold (from no damping: to 1e-6) at most `max_raises` times; `damping` and `raises` of the result tell.
/// hessian (n, n), symmetric; only its upper triangle is read. Cost 2n³/3 flops, memory n²/2 doubles, the result's.
/// Throws ShapeError (not square), RangeError (damping negative or not finite), NumericError (an element that is not
/// finite, a negative diagonal, not positive definite even with the highest damping).
inline InverseFactor inverse_factor(MatrixView<const double> hessian, const DampingOptions& options = {},
                                    const ExecutorRef& executor = {}, std::string_view where = "inverse_factor") {
  const std::size_t size = hessian.rows;
  detail::expect_shape(where, "hessian", hessian, size, size);
  if (!(detail::is_finite(options.damping) && options.damping >= 0.0))
    detail::raise<RangeError>(where, ": damping must be finite and not negative, got ", options.damping);

  InverseFactor result{.upper = {}, .damping = options.damping, .raises = 0, .dead = std::vector<bool>(size)};
  double trace = 0;
  std::size_t live = 0;
  for (std::size_t r = 0; r < size; ++r) {
    for (std::size_t c = r; c < size; ++c)
      if (!detail::is_finite(hessian(r, c)))
        detail::raise<NumericError>(where, ": element (", r, ", ", c, ") of the Hessian is not finite");
    const double diagonal = hessian(r, r);
    if (diagonal < 0)
      detail::raise<NumericError>(where, ": diagonal element ", r, " of the Hessian is negative: ", diagonal);
    result.dead[r] = diagonal == 0;
    live += diagonal > 0;
    trace += diagonal;
  }
  const double mean = live == 0 ? 1.0 : trace / static_cast<double>(live);

  result.upper = detail::UpperStrips(size);
  std::vector<double> diagonal(size);
  for (;; ++result.raises) {
    for (std::size_t j = 0; j < size; ++j)
      diagonal[j] = (result.dead[j] ? mean : hessian(j, j)) + result.damping * mean;
    result.upper.assign(hessian, diagonal, executor);
    if (detail::TriangularInverse(result.upper, diagonal, executor).run()) return result;
    if (result.raises >= options.max_raises)
      detail::raise<NumericError>(where, ": the Hessian is not positive definite even with damping ", result.damping);
    result.damping = result.damping == 0 ? 1e-6 : 10 * result.damping;
  }
}

}  // namespace losa::inline v0
