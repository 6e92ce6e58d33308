#pragma once
// A decoded tile turned over: lists of rows for each column, with the values in that order, so that W read by columns
// costs what W read by rows does. One pass over the kept weights, to lists with room for every row; the panels of a
// group share it.
//
//   TileLists by_row = decoder.decode(w, values, range, 2);         // entries are columns
//   TileLists by_column = turner.turn(by_row, cols, width);         // entries are rows · width / 2
//   KernelSet::gather<Vectors>(by_column, panel, sums);

#include <cstddef>
#include <cstdint>

#include <losa/gemm/arch.hpp>
#include <losa/gemm/arena.hpp>
#include <losa/gemm/panel/tile.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH {

class TileTurner {
 public:
  static std::size_t need(std::size_t rows, std::size_t cols) noexcept {
    return Arena::need<std::uint16_t>(room(rows) * cols) + Arena::need<float>(room(rows) * cols) +
           2 * Arena::need<std::uint32_t>(cols);
  }
  TileTurner(Arena& arena, std::size_t rows, std::size_t cols) noexcept
      : entries_(arena.take<std::uint16_t>(room(rows) * cols)),
        values_(arena.take<float>(room(rows) * cols)),
        starts_(arena.take<std::uint32_t>(cols)),
        ends_(arena.take<std::uint32_t>(cols)) {
    for (std::size_t c = 0; c < cols; ++c) starts_[c] = static_cast<std::uint32_t>(c * room(rows));
  }

  /// `by_row` has columns below `cols` as entries.
  TileLists turn(const TileLists& by_row, std::size_t cols, std::size_t width) noexcept {
    for (std::size_t c = 0; c < cols; ++c) ends_[c] = starts_[c];
    for (std::size_t r = 0; r < by_row.rows; ++r) {
      const auto entry = static_cast<std::uint16_t>(r * (width / 2));
      for (std::uint32_t k = by_row.starts[r]; k != by_row.ends[r]; ++k) {
        const std::uint32_t to = ends_[by_row.entries[k]]++;
        entries_[to] = entry;
        values_[to] = by_row.values[k];
      }
    }
    for (std::size_t c = 0; c < cols; ++c)
      for (std::uint32_t k = ends_[c]; k % 4 != 0; ++k) {
        entries_[k] = entries_[k - 1];
        values_[k] = 0;
      }
    return {.rows = cols, .entries = entries_, .values = values_, .starts = starts_, .ends = ends_};
  }

 private:
  // An odd number of lines, so that lists do not begin in the same few sets of the cache.
  static std::size_t room(std::size_t rows) noexcept { return (rows + 31) / 32 * 32 + 16; }

  std::uint16_t* entries_;
  float* values_;
  std::uint32_t* starts_;
  std::uint32_t* ends_;
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH
