#pragma once
// How the row blocks of a packed matrix are cut into tasks: by kept count, found by bisection in its offsets, for as
// many tasks as a call wants.

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace losa::inline v0::detail {

/// Row blocks [first, last).
struct BlockRange {
  std::size_t first;
  std::size_t last;
  std::size_t size() const noexcept { return last - first; }
};

/// Where share i of n begins: the block before which the kept count is nearest to i / n of all. `offsets` holds
/// `per_block` kept counts for each of `blocks` blocks, and the whole at the end. Costs O(log blocks).
inline std::size_t share_begin(const std::uint64_t* offsets, std::size_t per_block, std::size_t blocks, std::size_t i,
                               std::size_t n) noexcept {
  const std::size_t kept = offsets[blocks * per_block];
  if (kept == 0) return blocks / n * i + blocks % n * i / n;
  const std::size_t wanted = kept / n * i + kept % n * i / n;
  std::size_t low = 0;
  std::size_t high = blocks;
  while (low < high) {
    const std::size_t middle = low + (high - low) / 2;
    if (offsets[middle * per_block] < wanted)
      low = middle + 1;
    else
      high = middle;
  }
  if (low > 0 && wanted - offsets[(low - 1) * per_block] < offsets[low * per_block] - wanted) --low;
  return low;
}

/// Share i of n; may be empty.
inline BlockRange share_of(const std::uint64_t* offsets, std::size_t per_block, std::size_t blocks, std::size_t i,
                           std::size_t n) noexcept {
  return {i == 0 ? 0 : share_begin(offsets, per_block, blocks, i, n),
          i + 1 == n ? blocks : share_begin(offsets, per_block, blocks, i + 1, n)};
}

/// Shares of a phase whose tasks cost nothing of their own: 16 or more where there are blocks enough, so that a few
/// threads share them evenly, one per 256 rows, and as many for each thread.
inline std::size_t many_shares(std::size_t blocks, std::size_t threads) noexcept {
  const std::size_t wanted = std::max((blocks + 7) / 8, std::min<std::size_t>(16, blocks));
  return std::clamp<std::size_t>((wanted + threads - 1) / threads * threads, 1, std::max<std::size_t>(1, blocks));
}

/// Shares where each task repeats work that costs as much as `overhead` rows: one for each thread, and more while that
/// stays below a fiftieth.
inline std::size_t few_shares(std::size_t blocks, std::size_t threads, std::size_t block_rows,
                              std::size_t overhead) noexcept {
  const std::size_t each = blocks * block_rows / threads / (50 * overhead);
  return std::clamp<std::size_t>(threads * std::min<std::size_t>(1 + each, 8), 1, std::max<std::size_t>(1, blocks));
}

}  // namespace losa::inline v0::detail
