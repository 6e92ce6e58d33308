#pragma once
// Patterns: where zeros may lie, and how many. Unstructured per output row (Wanda's choice), per layer or per block of
// columns; N:M along the input (N kept of every M); or a mask that is given.
//
//   losa::Pattern pattern = losa::Unstructured{0.7};            // per output row
//   losa::Pattern half = losa::NofM{2, 4};

#include <cstddef>
#include <string_view>
#include <variant>

#include <losa/core/apportion.hpp>
#include <losa/core/error.hpp>
#include <losa/core/finite.hpp>
#include <losa/core/mask.hpp>

namespace losa::inline v0 {

/// What competes with what when weights are compared.
enum class Group {
  row,           // the weights of one output row; zeros are spread evenly over rows
  layer,         // the whole matrix
  column_block,  // all rows of `block` neighbouring columns; zeros are spread over blocks by their width
};

/// A fraction of zeros: round(sparsity · out · in) of them.
struct Unstructured {
  double sparsity = 0.5;
  Group group = Group::row;
  std::size_t block = 128;  // columns, for Group::column_block
};

/// A number of zeros, for callers who have apportioned a model's budget themselves.
struct ExactZeros {
  std::size_t zeros = 0;
  Group group = Group::row;
  std::size_t block = 128;
};

/// N kept of every M neighbouring columns of a row.
struct NofM {
  std::size_t n = 2;
  std::size_t m = 4;
};

/// Exactly this mask. The mask must outlive the pattern.
struct GivenMask {
  const Mask* mask = nullptr;
};

using Pattern = std::variant<Unstructured, ExactZeros, NofM, GivenMask>;

namespace detail {
template <class... Cases>
struct overloaded : Cases... {
  using Cases::operator()...;
};
template <class... Cases>
overloaded(Cases...) -> overloaded<Cases...>;
}  // namespace detail

/// Zeros that `pattern` puts into a rows × cols matrix. `where` starts the error sentence.
/// Throws RangeError (sparsity, more zeros than weights, N > M, M = 0) or ShapeError (M does not divide cols).
inline std::size_t zeros_of(const Pattern& pattern, std::size_t rows, std::size_t cols,
                            std::string_view where = "mask") {
  return std::visit(
      detail::overloaded{
          [&](const Unstructured& p) -> std::size_t {
            if (!(detail::is_finite(p.sparsity) && p.sparsity >= 0.0 && p.sparsity < 1.0))
              detail::raise<RangeError>(where, ": sparsity must be in [0, 1), got ", p.sparsity);
            return zeros_target(rows * cols, p.sparsity);
          },
          [&](const ExactZeros& p) -> std::size_t {
            if (p.zeros > rows * cols)
              detail::raise<RangeError>(where, ": ", p.zeros, " zeros do not fit into a weight of ", rows, " × ", cols);
            return p.zeros;
          },
          [&](const NofM& p) -> std::size_t {
            if (p.m == 0 || p.n > p.m)
              detail::raise<RangeError>(where, ": pattern N:M needs 0 ≤ N ≤ M and M ≥ 1, got ", p.n, ":", p.m);
            if (cols % p.m != 0)
              detail::raise<ShapeError>(where, ": mask pattern ", p.n, ":", p.m, " needs `in` to be a multiple of ",
                                        p.m, ", got weight ", rows, " × ", cols);
            return rows * (cols / p.m) * (p.m - p.n);
          },
          [&](const GivenMask& p) -> std::size_t {
            if (p.mask == nullptr) detail::raise<RangeError>(where, ": GivenMask holds no mask");
            if (p.mask->rows() != rows || p.mask->cols() != cols)
              detail::raise<ShapeError>(where, ": the given mask is ", p.mask->rows(), " × ", p.mask->cols(),
                                        ", the weight ", rows, " × ", cols);
            return p.mask->zeros();
          }},
      pattern);
}

}  // namespace losa::inline v0
