#pragma once
// A tile of a packed matrix as the panel kernels read it: the mask of some rows × columns decoded to lists of columns.

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <losa/gemm/arch.hpp>
#include <losa/gemm/backend.hpp>
#include <losa/gemm/panel/decode.hpp>
#include <losa/gemm/scratch.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH {

/// The kept weights of some rows within one column tile, as kernels read them. Four entries past the last are readable
/// and lie within the tile.
struct TileLists {
  std::size_t rows = 0;
  const std::uint16_t* entries = nullptr;  // column in the tile · panel width / 2: panel + 2 · entry is its vector
  const std::uint32_t* starts = nullptr;   // (rows) into entries
  const std::uint32_t* ends = nullptr;     // (rows) into entries
  const std::size_t* offsets = nullptr;    // (rows) index of the row's first value in the tile
  const std::size_t* next = nullptr;       // (rows) index of a value to be needed soon, or null
  const float* ahead = nullptr;            // panel to be read next, 32 KiB from here, or null

  std::size_t count(std::size_t r) const noexcept { return ends[r] - starts[r]; }

  /// Values that the row will need soon, as many as it has here; kernels ask for them as they go. Rows of a tile jump
  /// through memory, which the hardware does not foresee (cold 4096 × 4096 at 70 %, AVX2, median of three runs on a
  /// busy machine: 17 → 26 GFLOP/s at 16 tokens, 33 → 42 at 64; asking once per row does as well).
  template <class T>
  const T* soon(const T* values, std::size_t r) const noexcept {
    return values + (next != nullptr ? next[r] : offsets[r]);
  }
  /// Two lines of the panel to be read next: 256 rows bring a tile of it to L2.
  void prefetch_panel(std::size_t r) const noexcept {
    if (ahead == nullptr) return;
    __builtin_prefetch(ahead + r * 32, 0, 2);
    __builtin_prefetch(ahead + r * 32 + 16, 0, 2);
  }
};

/// Tile sizes for panels of a width: a tile of X is 32 KiB (with 64 KiB the loop loses a quarter, with 16 KiB the rows
/// cost more than they hold), its lists at most 64 KiB.
struct TileShape {
  std::size_t cols;
  std::size_t rows;
  explicit TileShape(std::size_t width) noexcept : TileShape(width, 8192) {}
  TileShape(std::size_t width, std::size_t most_cols) noexcept
      : cols(std::max<std::size_t>(64, std::min(8192 / width, most_cols))),
        rows(std::clamp<std::size_t>(32768 / cols, 1, 256)) {}
};

/// The same for a tile that is read by columns: rows take the place of columns. A small matrix gets narrower tiles, so
/// that there are four.
struct TurnedTileShape {
  std::size_t rows;
  std::size_t cols;
  TurnedTileShape(std::size_t width, std::size_t matrix_cols) noexcept
      : rows(std::max<std::size_t>(64, 8192 / width)),
        cols(std::clamp<std::size_t>(std::min(16384 / rows, matrix_cols / 4) / 64 * 64, 64, 128)) {}
};

/// Scratch of a task: decoded lists of up to `rows` rows, and for each of `cursors` rows where its values stand.
template <class K>
class TileDecoder {
 public:
  static std::size_t need(std::size_t rows, std::size_t cols, std::size_t cursors) noexcept {
    return Scratch::need<std::uint16_t>(rows * cols + decode_overrun) + Scratch::need<std::uint32_t>(rows + 1) +
           Scratch::need<std::size_t>(cursors) + Scratch::need<std::size_t>(rows);
  }
  TileDecoder(Scratch& scratch, const PackedLayout& w, std::size_t rows, std::size_t cols, std::size_t cursors) noexcept
      : w_(w),
        entries_(scratch.take<std::uint16_t>(rows * cols + decode_overrun)),
        starts_(scratch.take<std::uint32_t>(rows + 1)),
        cursors_(scratch.take<std::size_t>(cursors)),
        next_(scratch.take<std::size_t>(rows)) {}

  /// Puts the cursors of rows [r0, r1) at their first value at or after column 64 · word.
  void seek(std::size_t r0, std::size_t r1, std::size_t word) noexcept {
    first_ = r0;
    K::seek(w_, r0, r1, word, cursors_);
  }

  /// Lists of rows [r0, r0 + rows) and words [w0, w1), entries being columns of a panel with `stride` floats each. The
  /// offsets they refer to are those before the tile: call advance when the kernels have run.
  /// `ahead` is how many mask words lie between these and those decoded next.
  TileLists decode(std::size_t r0, std::size_t rows, std::size_t w0, std::size_t w1, std::size_t stride,
                   std::size_t ahead) noexcept {
    std::uint16_t* out = entries_;
    const std::size_t* cursors = cursors_ + (r0 - first_);
    for (std::size_t r = 0; r < rows; ++r) {
      starts_[r] = static_cast<std::uint32_t>(out - entries_);
      const std::uint64_t* words = w_.words + (r0 + r) * w_.words_per_row;
      __builtin_prefetch(words + w0 + ahead, 0, 2);
      out = K::decode(words + w0, w1 - w0, stride / 2, out);
      next_[r] = cursors[r] + static_cast<std::size_t>(out - entries_) - starts_[r];
    }
    starts_[rows] = static_cast<std::uint32_t>(out - entries_);
    std::fill_n(out, decode_overrun, std::uint16_t{0});
    return {
        .rows = rows, .entries = entries_, .starts = starts_, .ends = starts_ + 1, .offsets = cursors, .next = next_};
  }
  void advance(const TileLists& lists, std::size_t r0) noexcept {
    std::copy_n(next_, lists.rows, cursors_ + (r0 - first_));
  }

 private:
  const PackedLayout& w_;
  std::size_t first_ = 0;
  std::uint16_t* entries_;
  std::uint32_t* starts_;
  std::size_t* cursors_;
  std::size_t* next_;
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH
