#pragma once
// The list format as kernels read it: list_matrix.hpp makes it.

#include <cstddef>
#include <cstdint>

namespace losa::inline v0 {

/// The list format as kernels see it. Rows lie in blocks of 32, columns in ranges of 256; block after block, range
/// after range, row after row. A row's list in a range ascends and is filled up to a multiple of 4 with weights of 0 on
/// its last column. The fours of weights that all lie in the first half of the range are counted apart from the others,
/// of which one may begin there. 64 bytes after the last value and the last column are readable.
struct ListLayout {
  static constexpr std::size_t range_cols = 256;
  static constexpr std::size_t half_cols = range_cols / 2;

  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t ranges = 0;
  const std::uint8_t* counts = nullptr;  // (row blocks, ranges, 32, 2) fours of weights, those of the first half first
  const std::uint8_t* col_indices = nullptr;  // in the range
  const std::uint64_t* offsets = nullptr;     // (row blocks · ranges + 1) weights before each
};

/// What a kernel takes of a row's list in a range: activations of more tokens fit the first-level cache for half of it.
enum class ListPart { whole, first, second };

/// Fours of a row's weights that a kernel passes over, multiplies, and passes over again.
struct ListSpan {
  std::size_t before;
  std::size_t count;
  std::size_t after;
};
template <ListPart part>
ListSpan list_span(const std::uint8_t* counts) noexcept {
  if constexpr (part == ListPart::first) return {0, counts[0], counts[1]};
  if constexpr (part == ListPart::second) return {counts[0], counts[1], 0};
  return {0, std::size_t{counts[0]} + counts[1], 0};
}

/// Element is float, bf16, f16 or std::int8_t; the last has a scale for each row.
template <class Element>
struct ListWeights {
  const Element* values = nullptr;
  const float* scales = nullptr;  // (row blocks · 32), or null
};

}  // namespace losa::inline v0
