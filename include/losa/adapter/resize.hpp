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

#include <losa/adapter/optimizer.hpp>
#include <losa/adapter/small_svd.hpp>
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
  RankChange change{rank, to, std::vector<double>(to * rank), std::vector<double>(to * rank)};
  if (to != 0) {
    const ThinQr qr_a(std::vector<double>(a.begin(), a.end()), rank, in);     // Aᵀ = Q_a·R_a
    const ThinQr qr_b(std::vector<double>(bt.begin(), bt.end()), rank, out);  // B = Q_b·R_b
    // BA = Q_b·(R_b·R_aᵀ)·Q_aᵀ, and the core in the middle is UΣVᵀ.
    std::vector<double> core(rank * rank);
    for (std::size_t i = 0; i < rank; ++i)
      for (std::size_t j = 0; j < rank; ++j)
        for (std::size_t k = std::max(i, j); k < rank; ++k) core[j * rank + i] += qr_b.r(i, k) * qr_a.r(j, k);
    const std::vector<double> v = right_singular_vectors(std::move(core), rank);  // (rank, rank)

    // Rows of an untrained a have mean length 1/√3; that stands in where a is all zero.
    double squares = 0;
    for (float value : a) squares += static_cast<double>(value) * static_cast<double>(value);
    const double length = squares > 0 ? std::sqrt(squares / static_cast<double>(rank)) : 1.0 / std::sqrt(3.0);

    // A' = length·(Q_a·V)ᵀ = (length·Vᵀ·R_a⁻ᵀ)·A and B' = UΣ/length = B·(R_aᵀ·V/length). By the chain rule the
    // gradient of A' is (R_aᵀ·V/length)ᵀ times that of A, the gradient of B'ᵀ length·Vᵀ·R_a⁻ᵀ times that of Bᵀ.
    std::vector<float> next_a(to * in);
    std::vector<float> next_bt(to * out);
    std::vector<double> tall(in);
    std::vector<double> wide(out);
    for (std::size_t k = 0; k < to; ++k) {
      std::fill(tall.begin(), tall.end(), 0.0);
      std::copy_n(v.data() + k * rank, rank, tall.data());
      double* bt_map = change.bt_map.data() + k * rank;
      std::copy_n(tall.data(), rank, bt_map);
      qr_a.solve_r(bt_map);
      for (std::size_t j = 0; j < rank; ++j) bt_map[j] *= length;
      double* a_map = change.a_map.data() + k * rank;
      for (std::size_t i = 0; i < rank; ++i)
        for (std::size_t j = i; j < rank; ++j) a_map[j] += qr_a.r(i, j) * v[k * rank + i] / length;
      qr_a.apply_q(tall.data());
      for (std::size_t c = 0; c < in; ++c) next_a[k * in + c] = static_cast<float>(length * tall[c]);
      std::fill(wide.begin(), wide.end(), 0.0);
      for (std::size_t j = 0; j < rank; ++j)
        for (std::size_t r = 0; r < out; ++r) wide[r] += a_map[j] * static_cast<double>(bt[j * out + r]);
      for (std::size_t r = 0; r < out; ++r) next_bt[k * out + r] = static_cast<float>(wide[r]);
    }
    a = std::move(next_a);
    bt = std::move(next_bt);
  }
  a.resize(to * in);
  bt.resize(to * out);
  return change;
}

}  // namespace detail
}  // namespace losa::inline v0
