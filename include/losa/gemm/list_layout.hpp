#pragma once
// The list format as kernels read it: list_matrix.hpp makes it.

#include <cstddef>
#include <cstdint>

namespace losa::inline v0 {

/// The list format as kernels see it. Rows lie in blocks of 32, columns in ranges of 256; block after block, range
/// after range, row after row. A row's list in a range is filled up to a multiple of 4 with weights of 0 on its last
/// column. 64 bytes after the last value and the last column are readable.
struct ListLayout {
  static constexpr std::size_t range_cols = 256;

  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t ranges = 0;
  const std::uint8_t* counts = nullptr;   // (row blocks, ranges, 32) fours of weights
  const std::uint8_t* columns = nullptr;  // in the range
  const std::size_t* offsets = nullptr;   // (row blocks · ranges) weights before each
  const std::size_t* shares = nullptr;    // (share_count + 1) boundaries in row blocks
  std::size_t share_count = 0;
};

/// T is float, bf16, f16 or std::int8_t; the last has a scale for each row.
template <class T>
struct ListWeights {
  const T* values = nullptr;
  const float* scales = nullptr;  // (row blocks · 32), or null
};

}  // namespace losa::inline v0
