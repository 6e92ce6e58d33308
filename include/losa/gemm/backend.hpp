#pragma once
// What an implementation of the products provides: a name, whether this machine can run it, and one function per
// product. Arguments are plain pointers, sizes and strides, checked by the caller; no type depends on compile flags.
//
// A new backend is a folder with a header that defines one such table, and one line in registry.hpp. It may use any
// blocking, scratch space and parallel partition, as long as the result does not depend on the number of threads:
// split work at boundaries that follow from shapes and kept counts alone, and give every output one order of additions.

#include <cstddef>
#include <cstdint>

#include <losa/core/executor.hpp>
#include <losa/core/types.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/packed_matrix.hpp>

namespace losa::inline v0 {

/// The bitmask format as kernels see it: packed_structure.hpp has the order. 64 bytes after the last value and after
/// the last mask word are readable.
struct PackedLayout {
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t row_blocks = 0;
  std::size_t tiles = 0;                 // column tiles of a row block
  const std::uint64_t* words = nullptr;  // (row_blocks, tiles, 32)
  const std::size_t* offsets = nullptr;  // (row_blocks · tiles + 1) values before each tile
  const std::size_t* shares = nullptr;   // (share_count + 1) boundaries in row blocks, of about equal kept count
  std::size_t share_count = 0;

  std::size_t kept() const noexcept { return offsets[row_blocks * tiles]; }
};

/// y (tokens, rows) = [y +] x (tokens, cols) · Wᵀ [+ bias (rows)]
template <class T>
using SpmmFunction = void (*)(const PackedLayout& w, const T* values, MatrixView<const float> x, MatrixView<float> y,
                              const float* bias, bool accumulate, ExecutorRef executor);

struct Backend {
  const char* name;
  /// True if the CPU and the operating system support every instruction the functions below may execute.
  bool (*supported)() noexcept;

  SpmmFunction<float> spmm_f32;
  SpmmFunction<bf16> spmm_bf16;
  SpmmFunction<f16> spmm_f16;
  /// dx (tokens, cols) = [dx +] g (tokens, rows) · W
  void (*spmm_transposed)(const PackedLayout& w, const float* values, MatrixView<const float> g, MatrixView<float> dx,
                          bool accumulate, ExecutorRef executor);
  /// values[k] = [base[k] +] scale · Σ_t g[t, r] · x[t, c] at the k-th kept position (r, c). `base` is null or an
  /// array as long as `values`, which it may be itself.
  void (*sddmm)(const PackedLayout& w, const float* base, float scale, MatrixView<const float> g,
                MatrixView<const float> x, float* values, ExecutorRef executor);
};

namespace detail {

template <Storage T>
PackedLayout layout(const PackedMatrix<T>& packed) noexcept {
  const PackedStructure& s = packed.structure();
  return {s.rows,         s.cols,           s.row_blocks,    s.tiles,
          s.words.data(), s.offsets.data(), s.shares.data(), s.shares.size() - 1};
}

}  // namespace detail
}  // namespace losa::inline v0
