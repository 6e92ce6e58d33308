#pragma once
// From a symmetric positive definite matrix A (n, n) to U = R⁻¹ with A = R·Rᵀ, R and U upper triangular, in place.
//
// Panels of columns from the last to the first: Cholesky's factorisation and the back substitution R·U = I in one pass.
// With the panel's columns K, those before it I and those after it J:
//   R_KK from A_KK,  R_IK = A_IK·R_KK⁻ᵀ
//   U_KK = R_KK⁻¹,   U_KJ = R_KK⁻¹·(K, J)         R_IK is needed no more after this panel, so U_IK grows in its place
//   (I, I) −= R_IK·R_IKᵀ,  (I, K) = −R_IK·U_KK,  (I, J) −= R_IK·U_KJ          one product: R_IK times a row of strips
// 2n³/3 flops, all but O(n²·panel) of them in the last line.
//
// Panels, strips and the order of every sum follow from n alone: the same bits for any number of threads.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <vector>

#include <losa/core/executor.hpp>
#include <losa/core/finite.hpp>
#include <losa/core/product_f64.hpp>
#include <losa/core/view.hpp>

namespace losa::inline v0::detail {

/// The upper triangle of a square matrix in strips of 24 columns, one after the other, each (24 · its number from 1,
/// 24) row-major: down to the end of its diagonal tile. What lies past the last column is the identity's.
class UpperStrips {
 public:
  UpperStrips() = default;
  explicit UpperStrips(std::size_t size)
      : size_(size), strips_((size + strip_width - 1) / strip_width), values_(offset(strips_)) {}

  std::size_t size() const noexcept { return size_; }
  std::size_t strips() const noexcept { return strips_; }
  double* strip(std::size_t s) noexcept { return values_.data() + offset(s); }
  const double* strip(std::size_t s) const noexcept { return values_.data() + offset(s); }
  std::span<const double> values() const noexcept { return values_; }

  /// Element (r, c), r ≤ c.
  double operator()(std::size_t r, std::size_t c) const noexcept {
    return strip(c / strip_width)[r * strip_width + c % strip_width];
  }

  /// The upper triangle of `matrix` with another diagonal.
  void assign(MatrixView<const double> matrix, std::span<const double> diagonal, const ExecutorRef& executor) {
    executor.parallel_for(strips_, [&](std::size_t s) {
      double* to = strip(s);
      const std::size_t first = s * strip_width;
      const std::size_t cols = std::min(strip_width, size_ - first);
      for (std::size_t r = 0; r < first; ++r, to += strip_width) {
        std::copy_n(matrix.data + r * matrix.stride + first, cols, to);
        std::fill(to + cols, to + strip_width, 0.0);
      }
      for (std::size_t r = 0; r < strip_width; ++r, to += strip_width)
        for (std::size_t c = 0; c < strip_width; ++c)
          to[c] = r == c ? (c < cols ? diagonal[first + c] : 1.0)
                         : (r < c && c < cols ? matrix(first + r, first + c) : 0.0);
    });
  }

 private:
  static std::size_t offset(std::size_t s) noexcept { return tile_size * (s * (s + 1) / 2); }

  std::size_t size_ = 0;
  std::size_t strips_ = 0;
  std::vector<double> values_;
};

/// One run over a matrix, see above. `diagonal` is the diagonal of A.
class TriangularInverse {
 public:
  TriangularInverse(UpperStrips& matrix, std::span<const double> diagonal, const ExecutorRef& executor)
      : matrix_(matrix),
        diagonal_(diagonal),
        executor_(executor),
        packed_(matrix.strips() * panel_strips * tile_size) {}

  /// False if a pivot is not clearly positive; then the matrix is lost.
  bool run() {
    for (std::size_t last = matrix_.strips(); last > 0;) {
      first_ = (last - 1) / panel_strips * panel_strips;
      last_ = last;
      if (!factor_panel()) return false;
      executor_.parallel_for(matrix_.strips(), [&](std::size_t s) { solve_strip(s); });
      update();
      last = first_;
    }
    return true;
  }

 private:
  // 8 strips are 192 columns; 4 and 16 are as fast within the noise (n = 576, 1536, 4096; AVX2).
  static constexpr std::size_t panel_strips = 8;
  // Tiles per task: four packed strips (36 KiB each) stay in a second-level cache while others pass.
  static constexpr std::size_t task_rows = 4;
  static constexpr std::size_t task_columns = 32;

  /// R_sK transposed, (panel, 24): rows of the triangle as a strip.
  double* packed(std::size_t s) noexcept { return packed_.data() + s * panel_strips * tile_size; }
  double* tile(std::size_t row, std::size_t column) noexcept { return matrix_.strip(column) + row * tile_size; }

  /// Transposes rows s of the panel from strip `from` of the panel on.
  void pack(std::size_t s, std::size_t from) {
    for (std::size_t k = from; k < last_; ++k) {
      const double* source = tile(s, k);
      double* to = packed(s) + (k - first_) * tile_size;
      for (std::size_t r = 0; r < strip_width; ++r)
        for (std::size_t c = 0; c < strip_width; ++c) to[c * strip_width + r] = source[r * strip_width + c];
    }
  }

  /// X with R_KK·X = what `x` (panel, 24) holds, down to its tile `begin`; tiles from `end` on are 0.
  void solve(double* x, std::size_t begin, std::size_t end) {
    for (std::size_t k = end; k-- > begin;) {
      const double* r = packed(first_ + k);
      strip_kernels().multiply(r + (k + 1) * tile_size, x + (k + 1) * tile_size, (end - k - 1) * strip_width, -1.0,
                               x + k * tile_size);
      substitute(r + k * tile_size, x + k * tile_size);
    }
  }

  /// Solves with a diagonal tile, given transposed.
  static void substitute(const double* r, double* x) {
    for (std::size_t t = strip_width; t-- > 0;) {
      const double inverse = 1.0 / r[t * strip_width + t];
      for (std::size_t i = 0; i < strip_width; ++i) x[t * strip_width + i] *= inverse;
      strip_kernels().subtract(r + t * strip_width, t, x + t * strip_width, x);
    }
  }

  /// R_KK into the packed strips of the panel.
  bool factor_panel() {
    for (std::size_t s = last_; s-- > first_;) {
      const std::size_t k = s - first_;
      const std::size_t count = last_ - first_;
      pack(s, s);
      solve(packed(s), k + 1, count);
      const double* solved = packed(s) + (k + 1) * tile_size;
      double* diagonal = packed(s) + k * tile_size;
      strip_kernels().multiply(solved, solved, (count - k - 1) * strip_width, -1.0, diagonal);
      if (!cholesky(diagonal, s * strip_width)) return false;
    }
    return true;
  }

  /// R of a diagonal tile whose first column is `first`; `a` holds A's, then R's transpose in its lower triangle (what
  /// stands above is of no meaning).
  bool cholesky(double* a, std::size_t first) const {
    // A pivot at the level of rounding is a zero that was missed. (With damping 0.01 no pivot is near: it is at least
    // 0.01 of the mean diagonal, and no element of the diagonal exceeds n times the mean.)
    const double rounding = 16 * static_cast<double>(matrix_.size()) * std::numeric_limits<double>::epsilon();
    for (std::size_t t = strip_width; t-- > 0;) {
      double* row = a + t * strip_width;
      const double pivot = row[t];
      if (first + t < matrix_.size() && !(detail::is_finite(pivot) && pivot > rounding * diagonal_[first + t]))
        return false;
      const double root = std::sqrt(pivot);
      for (std::size_t i = 0; i < t; ++i) row[i] /= root;
      row[t] = root;
      for (std::size_t i = 0; i < t; ++i)
        for (std::size_t j = 0; j <= i; ++j) a[i * strip_width + j] -= row[i] * row[j];
    }
    return true;
  }

  /// R_sK before the panel, U_Ks in it and after it.
  void solve_strip(std::size_t s) {
    const std::size_t count = last_ - first_;
    if (s < first_) {
      pack(s, first_);
      solve(packed(s), 0, count);
      return;
    }
    double* x = tile(first_, s);
    const std::size_t tiles = std::min(count, s - first_ + 1);
    if (s < last_) {
      std::fill(x, x + tiles * tile_size, 0.0);
      for (std::size_t i = 0; i < strip_width; ++i) x[(tiles - 1) * tile_size + i * (strip_width + 1)] = 1.0;
    }
    solve(x, 0, tiles);
  }

  /// Rows before the panel −= R_IK · (R_IKᵀ, U_KK, U_KJ).
  void update() {
    const std::size_t row_tasks = (first_ + task_rows - 1) / task_rows;
    const std::size_t column_tasks = (matrix_.strips() + task_columns - 1) / task_columns;
    executor_.parallel_for(row_tasks * column_tasks, [&](std::size_t task) {
      const std::size_t row = task / column_tasks * task_rows;
      const std::size_t column = task % column_tasks * task_columns;
      const std::size_t row_end = std::min(first_, row + task_rows);
      for (std::size_t j = std::max(row, column); j < std::min(matrix_.strips(), column + task_columns); ++j)
        for (std::size_t i = row; i < std::min(row_end, j + 1); ++i) update_tile(i, j);
    });
  }
  void update_tile(std::size_t i, std::size_t j) {
    double* to = tile(i, j);
    if (j >= first_ && j < last_) std::fill(to, to + tile_size, 0.0);  // A_IK is in the packed strips
    const double* other = j < first_ ? packed(j) : tile(first_, j);
    const std::size_t tiles = j < first_ ? last_ - first_ : std::min(last_, j + 1) - first_;
    strip_kernels().multiply(packed(i), other, tiles * strip_width, -1.0, to);
  }

  UpperStrips& matrix_;
  std::span<const double> diagonal_;
  ExecutorRef executor_;
  std::vector<double> packed_;
  std::size_t first_ = 0;  // strips of the panel
  std::size_t last_ = 0;
};

}  // namespace losa::inline v0::detail
