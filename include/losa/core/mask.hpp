#pragma once
// The mask: which weights of an out × in matrix are kept. One bit per weight, 1 = kept, stored explicitly and never
// inferred from `W != 0`. Bit c % 64 of word c / 64 of a row belongs to column c; bits past the last column are 0.
//
//   losa::Mask mask = losa::Mask::full(out, in);
//   mask.set(3, 7, false);
//   double sparsity = mask.sparsity();             // zeros / (out·in)

#include <bit>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/core/view.hpp>

namespace losa::inline v0 {

class Mask {
 public:
  Mask() = default;
  /// Nothing kept.
  Mask(std::size_t rows, std::size_t cols)
      : rows_(rows), cols_(cols), words_per_row_((cols + 63) / 64), words_(rows * words_per_row_) {}
  /// Everything kept.
  static Mask full(std::size_t rows, std::size_t cols) {
    Mask mask(rows, cols);
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t w = 0; w < mask.words_per_row_; ++w) mask.row_words(r)[w] = mask.valid_bits(w);
    return mask;
  }

  std::size_t rows() const noexcept { return rows_; }
  std::size_t cols() const noexcept { return cols_; }
  std::size_t size() const noexcept { return rows_ * cols_; }
  std::size_t words_per_row() const noexcept { return words_per_row_; }
  std::size_t bytes() const noexcept { return words_.size() * sizeof(std::uint64_t); }

  bool operator()(std::size_t r, std::size_t c) const noexcept {
    assert(r < rows_ && c < cols_);
    return (words_[r * words_per_row_ + c / 64] >> (c % 64)) & 1u;
  }
  void set(std::size_t r, std::size_t c, bool keep) noexcept {
    assert(r < rows_ && c < cols_);
    std::uint64_t& word = words_[r * words_per_row_ + c / 64];
    const std::uint64_t one = std::uint64_t{1} << (c % 64);
    word = keep ? (word | one) : (word & ~one);
  }

  std::span<const std::uint64_t> words() const noexcept { return words_; }
  /// All rows' words, to be written whole; the same rule as for row_words.
  std::span<std::uint64_t> words() noexcept { return words_; }
  std::span<const std::uint64_t> row_words(std::size_t r) const noexcept {
    assert(r < rows_);
    return {words_.data() + r * words_per_row_, words_per_row_};
  }
  /// The words of a row, to be written whole; bits past the last column must stay 0 (see valid_bits).
  std::span<std::uint64_t> row_words(std::size_t r) noexcept {
    assert(r < rows_);
    return {words_.data() + r * words_per_row_, words_per_row_};
  }
  /// Ones at the positions of word w that are columns.
  std::uint64_t valid_bits(std::size_t w) const noexcept {
    return (w + 1 == words_per_row_ && cols_ % 64 != 0) ? (std::uint64_t{1} << (cols_ % 64)) - 1 : ~std::uint64_t{0};
  }

  std::size_t kept_in_row(std::size_t r) const noexcept {
    std::size_t count = 0;
    for (std::uint64_t word : row_words(r)) count += static_cast<std::size_t>(std::popcount(word));
    return count;
  }
  /// Number of ones.
  std::size_t kept() const noexcept {
    std::size_t count = 0;
    for (std::uint64_t word : words_) count += static_cast<std::size_t>(std::popcount(word));
    return count;
  }
  /// Number of pruned weights.
  std::size_t zeros() const noexcept { return size() - kept(); }
  /// Fraction of pruned weights; 0 for an empty matrix.
  double sparsity() const noexcept {
    return size() == 0 ? 0.0 : static_cast<double>(zeros()) / static_cast<double>(size());
  }
  /// True if every weight kept here is kept in `other` too.
  bool subset_of(const Mask& other) const noexcept {
    if (rows_ != other.rows_ || cols_ != other.cols_) return false;
    for (std::size_t i = 0; i < words_.size(); ++i)
      if ((words_[i] & ~other.words_[i]) != 0) return false;
    return true;
  }
  friend bool operator==(const Mask&, const Mask&) = default;

  /// Calls f(column) for every kept column of row r, in rising order.
  template <class Function>
  void for_each_kept(std::size_t r, Function&& f) const {
    for (std::size_t w = 0; w < words_per_row_; ++w)
      for (std::uint64_t word = words_[r * words_per_row_ + w]; word != 0; word &= word - 1)
        f(w * 64 + static_cast<std::size_t>(std::countr_zero(word)));
  }

 private:
  std::size_t rows_ = 0;
  std::size_t cols_ = 0;
  std::size_t words_per_row_ = 0;
  std::vector<std::uint64_t> words_;
};

/// Sets every pruned weight of `weight` (out, in) to +0. Throws ShapeError if the shapes differ.
template <class Element>
void apply_mask(MatrixView<Element> weight, const Mask& mask) {
  detail::expect_shape("apply_mask", "weight", weight, mask.rows(), mask.cols());
  for (std::size_t r = 0; r < weight.rows; ++r)
    for (std::size_t c = 0; c < weight.cols; ++c)
      if (!mask(r, c)) weight(r, c) = Element{};
}

}  // namespace losa::inline v0
