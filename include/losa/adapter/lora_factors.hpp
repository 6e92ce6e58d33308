#pragma once
// The two factors of a low-rank adapter (Hu et al., "LoRA", ICLR 2022): ΔW = σ·B·A, B (out, rank), A (rank, in).
//
// B is held transposed, bt (rank, out): the gradients of both factors are then the library's sparse products with
// `rank` tokens. A starts uniform in ±1/√in (Kaiming's rule as LoRA uses it), B starts at 0, so that ΔW = 0.
//
//   losa::LoraFactors factors(out, in, {.rank = 8, .scale = 2.0});
//   factors.delta_row(3, row);                        // row = σ·(BA)[3, :]

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <losa/adapter/gradients.hpp>
#include <losa/adapter/resize.hpp>
#include <losa/core/error.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/finite.hpp>
#include <losa/core/mask.hpp>
#include <losa/core/random.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/packed_matrix.hpp>
#include <losa/gemm/sddmm.hpp>

namespace losa::inline v0 {

struct LoraOptions {
  std::size_t rank = 8;
  double scale = 2.0;        // σ = α/r₀; stays when the rank changes
  double dropout = 0;        // probability that an element of the adapter's input is dropped
  std::uint64_t seed = 0;    // of the initial A and of dropout
  std::uint64_t stream = 0;  // another one for each layer
};

class LoraFactors {
 public:
  /// Throws RangeError if the rank is above min(out, in) or the scale is not finite.
  LoraFactors(std::size_t out, std::size_t in, const LoraOptions& options)
      : out_(out), in_(in), rank_(options.rank), scale_(options.scale), seed_(options.seed), stream_(options.stream) {
    check_rank("LoraFactors", rank_);
    check_scale();
    bt_.resize(rank_ * out_);
    a_.resize(rank_ * in_);
    draw_rows(0, stream_);
  }

  std::size_t rank() const noexcept { return static_cast<std::size_t>(rank_); }
  std::size_t in() const noexcept { return in_; }
  std::size_t out() const noexcept { return out_; }
  double scale() const noexcept { return scale_; }
  std::uint64_t seed() const noexcept { return seed_; }
  std::uint64_t stream() const noexcept { return stream_; }

  MatrixView<const float> a() const noexcept { return {a_.data(), rank(), in_}; }     // (rank, in)
  MatrixView<float> a() noexcept { return {a_.data(), rank(), in_}; }                 // (rank, in)
  MatrixView<const float> bt() const noexcept { return {bt_.data(), rank(), out_}; }  // (rank, out)
  MatrixView<float> bt() noexcept { return {bt_.data(), rank(), out_}; }              // (rank, out)
  /// What an optimiser steps: A, then Bᵀ. A change of rank ends the spans.
  std::array<std::span<float>, 2> parameters() noexcept { return {std::span<float>(a_), std::span<float>(bt_)}; }

  /// σ·(BA)[r, :] at every column, pruned or not (in); what a pruned weight would gain if it came back.
  /// Throws ShapeError if `delta` is not as long as a row, RangeError if there is no such row.
  void delta_row(std::size_t r, std::span<float> delta) const {
    if (delta.size() != in_)
      detail::raise<ShapeError>("delta_row: delta must have ", in_, " elements, got ", delta.size());
    if (r >= out_) detail::raise<RangeError>("delta_row: row must be below ", out_, ", got ", r);
    std::fill(delta.begin(), delta.end(), 0.0f);
    for (std::size_t k = 0; k < rank(); ++k) {
      const float b = bt_[k * out_ + r];
      const float* row = a_.data() + k * in_;
      for (std::size_t c = 0; c < in_; ++c) delta[c] += b * row[c];
    }
    const auto scale = static_cast<float>(scale_);
    for (float& value : delta) value *= scale;
  }

  /// packed = base + σBA at the kept positions; `base` (kept) in packed order; it may be packed's own values.
  /// Throws ShapeError on other sizes.
  void add_to(PackedMatrix<float>& packed, std::span<const float> base, ExecutorRef executor = {}) const {
    refresh_values(packed, base, bt(), a(), static_cast<float>(scale_), executor);
  }

  /// Changes the rank and keeps M⊙(W + σBA) as it is. Growing: `weight` is untouched, new rows of A are drawn from
  /// `fresh_stream`, new rows of Bᵀ are 0, every product stays the same bit for bit. Shrinking: BA becomes its best
  /// approximation of that rank, and what it loses is added to `weight` (out, in) where `mask` keeps it, so that every
  /// kept weight stays the same to rounding. Afterwards call refresh with the new base. The result carries an
  /// optimiser's moments over (RankChange::apply).
  /// Throws RangeError if the rank is above min(out, in), ShapeError if weight or mask are not out × in, NumericError
  /// if a factor to be truncated is not finite. Cost of shrinking O(kept·(old + new rank)).
  RankChange resize(std::size_t rank, MatrixView<float> weight, const Mask& mask, std::uint64_t fresh_stream,
                    ExecutorRef executor = {}) {
    check_rank("resize", rank);
    if (rank < this->rank()) return shrink(rank, weight, mask, executor);
    const std::size_t old = this->rank();
    set_rank(rank);
    draw_rows(old, fresh_stream);
    return detail::keep_components(old, rank);
  }

  /// Grows by the rows of `fresh_a` (new components, in), given instead of drawn: leading right singular vectors of
  /// the masked gradient, say. Throws as resize, and ShapeError if the rows are not `in` long.
  RankChange grow(MatrixView<const float> fresh_a) {
    const std::size_t old = rank();
    check_rank("grow", old + fresh_a.rows);
    detail::expect_shape("grow", "fresh_a", fresh_a, fresh_a.rows, in_);
    set_rank(old + fresh_a.rows);
    for (std::size_t k = old; k < rank(); ++k)
      for (std::size_t c = 0; c < in_; ++c) a_[k * in_ + c] = fresh_a(k - old, c);
    return detail::keep_components(old, rank());
  }

  /// Shows the whole state to a visitor that reads or writes it. Throws RangeError or ShapeError if what was read does
  /// not fit an out × in layer.
  template <class Visitor>
  void visit(Visitor& visitor) {
    visitor("rank", rank_);
    visitor("scale", scale_);
    visitor("seed", seed_);
    visitor("stream", stream_);
    visitor("a", a_);
    visitor("bt", bt_);
    check_rank("LoraFactors::visit", rank_);
    check_scale();
    if (a_.size() != rank_ * in_ || bt_.size() != rank_ * out_)
      detail::raise<ShapeError>("LoraFactors::visit: rank ", rank_, " needs ", rank_ * in_, " and ", rank_ * out_,
                                " elements of a and bt, got ", a_.size(), " and ", bt_.size());
  }

 private:
  void check_rank(const char* where, std::uint64_t rank) const {
    const std::size_t most = std::min(out_, in_);
    if (rank > most)
      detail::raise<RangeError>(where, ": rank of a ", out_, " × ", in_, " layer must be at most ", most, ", got ",
                                rank);
  }
  void check_scale() const {
    if (!detail::is_finite(scale_)) detail::raise<RangeError>("LoraFactors: scale must be finite, got ", scale_);
  }
  void set_rank(std::size_t rank) {
    rank_ = rank;
    a_.resize(rank * in_);
    bt_.resize(rank * out_);
  }
  void draw_rows(std::size_t first, std::uint64_t stream) {
    const Random random{.seed = seed_, .stream = stream};
    const double bound = 1.0 / std::sqrt(static_cast<double>(in_));
    for (std::size_t i = first * in_; i < a_.size(); ++i)
      a_[i] = static_cast<float>(bound * (2.0 * random.uniform(i) - 1.0));
  }

  RankChange shrink(std::size_t rank, MatrixView<float> weight, const Mask& mask, ExecutorRef executor) {
    detail::expect_shape("resize", "weight", weight, out_, in_);
    if (mask.rows() != out_ || mask.cols() != in_)
      detail::raise<ShapeError>("resize: mask must be ", out_, " × ", in_, ", got ", mask.rows(), " × ", mask.cols());
    for (std::span<float> factor : parameters())
      for (float value : factor)
        if (!detail::is_finite(value)) detail::raise<NumericError>("resize: a factor of the adapter is not finite");
    const std::size_t old = this->rank();
    const std::vector<float> old_a = a_;
    const std::vector<float> old_bt = bt_;
    const RankChange change = detail::truncate_factors(a_, bt_, in_, out_, old, rank);
    rank_ = rank;
    // The rounded factors are subtracted, not the exact ones: what is folded makes up for their rounding too.
    executor.parallel_for(out_, [&](std::size_t r) {
      std::vector<double> lost(in_);
      for (std::size_t k = 0; k < old; ++k) {
        const double b = static_cast<double>(old_bt[k * out_ + r]);
        for (std::size_t c = 0; c < in_; ++c) lost[c] += b * static_cast<double>(old_a[k * in_ + c]);
      }
      for (std::size_t k = 0; k < rank; ++k) {
        const double b = static_cast<double>(bt_[k * out_ + r]);
        for (std::size_t c = 0; c < in_; ++c) lost[c] -= b * static_cast<double>(a_[k * in_ + c]);
      }
      mask.for_each_kept(r, [&](std::size_t c) {
        weight(r, c) = static_cast<float>(static_cast<double>(weight(r, c)) + scale_ * lost[c]);
      });
    });
    return change;
  }

  std::size_t out_;
  std::size_t in_;
  std::uint64_t rank_;
  double scale_;
  std::uint64_t seed_;
  std::uint64_t stream_;
  std::vector<float> a_;   // (rank, in)
  std::vector<float> bt_;  // (rank, out)
};

namespace detail {

/// Zeros where the gradients are empty; ShapeError where they have another size than the factors.
inline void prepare_gradients(const char* where, LoraGradients& gradients, const LoraFactors& factors) {
  const std::size_t a = factors.rank() * factors.in();
  const std::size_t bt = factors.rank() * factors.out();
  if (gradients.a.empty()) gradients.a.assign(a, 0.0f);
  if (gradients.bt.empty()) gradients.bt.assign(bt, 0.0f);
  if (gradients.a.size() != a || gradients.bt.size() != bt)
    raise<ShapeError>(where, ": gradients must have ", a, " and ", bt, " elements for rank ", factors.rank(), ", got ",
                      gradients.a.size(), " and ", gradients.bt.size());
}

}  // namespace detail
namespace detail {

/// ShapeError unless x and y fit a layer of out × in.
inline void check_product(const char* where, const LoraFactors& factors, const PackedMatrix<float>& packed,
                          MatrixView<const float> x, MatrixView<const float> y, const char* name) {
  if (packed.rows() != factors.out() || packed.cols() != factors.in())
    raise<ShapeError>(where, ": packed weights must be ", factors.out(), " × ", factors.in(), ", got ", packed.rows(),
                      " × ", packed.cols());
  expect_shape(where, "x", x, x.rows, factors.in());
  expect_shape(where, name, y, x.rows, factors.out());
}

}  // namespace detail
}  // namespace losa::inline v0
