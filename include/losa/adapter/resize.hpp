#pragma once
// Changing the rank of a product BA without changing the product. B is held transposed: bt (rank, out), a (rank, in).
//
//   grow     new rows of bt are 0, new rows of a are fresh: BA stays the same, bit for bit, and both can learn
//   shrink   BA = Σ σ_k u_k v_kᵀ by thin QR of B and Aᵀ and the SVD of the small core (Eckart–Young: the best of that
//            rank); what is cut off is handed back, for the caller to fold into the weights
//
// The rows of a come out with one common length, the root mean square of the old ones, and bt carries the singular
// values: an optimiser's step then moves BA as much after the change as before it.
// Cost O((out + in)·rank²) in double.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include <Eigen/Dense>

#include <losa/adapter/optimizer.hpp>
#include <losa/core/error.hpp>

namespace losa::inline v0 {

/// How an adapter's components after a change of rank come from those before it. Gradients of the new rows of a are
/// `a_map` times those of the old rows, and of bt `bt_map` times.
struct RankChange {
  std::size_t from = 0;
  std::size_t to = 0;
  std::vector<double> a_map;   // (to, from)
  std::vector<double> bt_map;  // (to, from)

  /// Carries the optimiser's moments over: the means exactly as the gradients, the squares as if the components were
  /// uncorrelated; those of new components are 0. Empty moments stay empty. Throws ShapeError unless the lengths are
  /// multiples of `from` and equal.
  void apply(Moments& a, Moments& bt) const {
    apply(a, a_map, "a");
    apply(bt, bt_map, "bt");
  }

 private:
  void apply(Moments& moments, const std::vector<double>& map, const char* name) const {
    if (moments.m.empty() && moments.v.empty()) return;
    if (from == 0 || moments.m.size() % from != 0 || moments.v.size() != moments.m.size())
      detail::raise<ShapeError>("RankChange::apply: moments of ", name, " must have the same multiple of ", from,
                                " elements, got ", moments.m.size(), " and ", moments.v.size());
    const std::size_t width = moments.m.size() / from;
    Moments next{std::vector<float>(to * width), std::vector<float>(to * width)};
    for (std::size_t k = 0; k < to; ++k)
      for (std::size_t c = 0; c < width; ++c) {
        double m = 0;
        double v = 0;
        for (std::size_t j = 0; j < from; ++j) {
          const double weight = map[k * from + j];
          m += weight * static_cast<double>(moments.m[j * width + c]);
          v += weight * weight * static_cast<double>(moments.v[j * width + c]);
        }
        next.m[k * width + c] = static_cast<float>(m);
        next.v[k * width + c] = static_cast<float>(v);
      }
    moments = std::move(next);
  }
};

namespace detail {

/// The change that keeps the first min(from, to) components as they are.
inline RankChange keep_components(std::size_t from, std::size_t to) {
  RankChange change{from, to, std::vector<double>(to * from), {}};
  for (std::size_t k = 0; k < std::min(from, to); ++k) change.a_map[k * from + k] = 1.0;
  change.bt_map = change.a_map;
  return change;
}

/// Replaces a (rank, in) and bt (rank, out) by the best factors of rank `to` < rank of their product.
inline RankChange truncate_factors(std::vector<float>& a, std::vector<float>& bt, std::size_t in, std::size_t out,
                                   std::size_t rank, std::size_t to) {
  using Matrix = Eigen::MatrixXd;
  using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const auto r = static_cast<Eigen::Index>(rank);
  const auto k = static_cast<Eigen::Index>(to);
  const auto n = static_cast<Eigen::Index>(in);
  const auto m = static_cast<Eigen::Index>(out);
  RankChange change{rank, to, std::vector<double>(to * rank), std::vector<double>(to * rank)};
  if (to != 0) {
    const Matrix at = Eigen::Map<const RowMajor>(a.data(), r, n).cast<double>().transpose();  // (in, rank)
    const Matrix b = Eigen::Map<const RowMajor>(bt.data(), r, m).cast<double>().transpose();  // (out, rank)
    const Eigen::HouseholderQR<Matrix> qr_a(at);
    const Eigen::HouseholderQR<Matrix> qr_b(b);
    const Matrix q_a = qr_a.householderQ() * Matrix::Identity(n, r);               // (in, rank)
    const Matrix q_b = qr_b.householderQ() * Matrix::Identity(m, r);               // (out, rank)
    const Matrix r_a = qr_a.matrixQR().topRows(r).triangularView<Eigen::Upper>();  // Aᵀ = Q_a·R_a
    const Matrix r_b = qr_b.matrixQR().topRows(r).triangularView<Eigen::Upper>();  // B = Q_b·R_b
    const Eigen::JacobiSVD<Matrix> svd(r_b * r_a.transpose(), Eigen::ComputeFullU | Eigen::ComputeFullV);
    const Matrix u = svd.matrixU().leftCols(k);  // (rank, to)
    const Matrix v = svd.matrixV().leftCols(k);  // (rank, to)

    // Rows of an untrained a have mean length 1/√3; that stands in where a is all zero.
    const double norm = at.norm() / std::sqrt(static_cast<double>(rank));
    const double length = norm > 0 ? norm : 1.0 / std::sqrt(3.0);
    const Matrix next_a = length * (q_a * v).transpose();                                                 // (to, in)
    const Matrix next_bt = (svd.singularValues().head(k).asDiagonal() * (q_b * u).transpose() / length);  // (to, out)
    // B' = B·(R_aᵀV/length) and A' = (length·Vᵀ·R_a⁻ᵀ)·A, hence by the chain rule the maps of the gradients:
    // ∂/∂A' = (R_aᵀV/length)ᵀ·∂/∂A, ∂/∂B' = ∂/∂B·(length·Vᵀ·R_a⁻ᵀ)ᵀ.
    const Matrix a_map = v.transpose() * r_a / length;  // (to, rank)
    const Matrix bt_map = length * r_a.completeOrthogonalDecomposition().solve(v).transpose();
    Eigen::Map<Eigen::Matrix<double, -1, -1, Eigen::RowMajor>>(change.a_map.data(), k, r) = a_map;
    Eigen::Map<Eigen::Matrix<double, -1, -1, Eigen::RowMajor>>(change.bt_map.data(), k, r) = bt_map;
    Eigen::Map<RowMajor>(a.data(), k, n) = next_a.cast<float>();
    Eigen::Map<RowMajor>(bt.data(), k, m) = next_bt.cast<float>();
  }
  a.resize(to * in);
  bt.resize(to * out);
  return change;
}

}  // namespace detail
}  // namespace losa::inline v0
