#pragma once
// AVX-512 kernels (Ice Lake, Zen 4 and later): the inner loops of the shared panel driver with up to eight 16-lane
// accumulators, lists of columns by vpcompressb; for few tokens those of expand.hpp (one to four), integers.hpp (one to
// eight) and list_integers.hpp (one to four). Transposition and what only moves data are the AVX2 ones.

#include <losa/gemm/target/avx512_vector.hpp>
#if defined(LOSA_AVX512)

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <losa/core/view.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/bitmask/avx2.hpp>
#include <losa/gemm/bitmask/avx512_expand.hpp>
#include <losa/gemm/bitmask/avx512_integers.hpp>
#include <losa/gemm/kernel.hpp>
#include <losa/gemm/operation.hpp>
#include <losa/gemm/panel/kernel_set.hpp>
#include <losa/gemm/panel/schedules.hpp>
#include <losa/gemm/panel/tile.hpp>
#include <losa/gemm/target/avx512.hpp>
#include <losa/gemm/target/avx512_panels.hpp>
#include <losa/gemm/weights.hpp>

LOSA_AVX512_BEGIN

namespace losa::inline v0::detail::inline LOSA_ARCH::avx512 {

struct BitmaskKernels : private avx2::BitmaskKernels {
  static constexpr std::size_t most_panels = 8;  // such processors have a second-level cache of 1 MiB or more
  template <class WeightsType>
  using FewTokens =
      std::conditional_t<std::is_same_v<WeightsType, Int8Weights> || std::is_same_v<WeightsType, Int4Weights>,
                         integers::FewTokens, expand::FewTokens<std::is_same_v<WeightsType, FloatWeights<bf16>>>>;
  using avx2::BitmaskKernels::lanes;  // of which two make a vector; a panel of 8 tokens has half of one
  using avx2::BitmaskKernels::pack_panel;
  using avx2::BitmaskKernels::rounding;
  using avx2::BitmaskKernels::store_values;
  using avx2::BitmaskKernels::unpack_panel;

  /// sums[row] += value · panel[column]; Vectors of tokens per column and row.
  template <std::size_t Vectors>
  LOSA_AVX512 static void gather(const TileLists& lists, const float* panel, float* sums) noexcept {
    if constexpr (Vectors == 1) return avx2::BitmaskKernels::gather<1>(lists, panel, sums);
    for (std::size_t r = 0; r < lists.rows; ++r) {
      lists.prefetch_panel(r);
      const std::uint16_t* entry = lists.entries + lists.starts[r];
      const float* value = lists.values + lists.starts[r];
      const float* const end = lists.values + lists.ends[r];
      PanelSums<Vectors> acc;
      acc.load(sums + r * Vectors * lanes);
      for (; value < end; entry += 4, value += 4) {
        const __m512 weights = _mm512_broadcast_f32x4(_mm_loadu_ps(value));
        std::uint64_t four;  // loads are what this loop waits for
        std::memcpy(&four, entry, sizeof four);
        acc.template multiply_add<0>(weights, panel + 2 * (four & 0xffff));
        acc.template multiply_add<1>(weights, panel + 2 * (four >> 16 & 0xffff));
        acc.template multiply_add<2>(weights, panel + 2 * (four >> 32 & 0xffff));
        acc.template multiply_add<3>(weights, panel + 2 * (four >> 48));
      }
      acc.store(sums + r * Vectors * lanes);
    }
  }

  /// sums[column] += value · g[row].
  template <std::size_t Vectors>
  LOSA_AVX512 static void scatter(const TileLists& lists, const float* g, float* sums) noexcept {
    if constexpr (Vectors == 1) return avx2::BitmaskKernels::scatter<1>(lists, g, sums);
    constexpr std::size_t registers = std::max<std::size_t>(1, Vectors / 2);
    for (std::size_t r = 0; r < lists.rows; ++r) {
      __m512 row[registers];
#pragma GCC unroll 8
      for (std::size_t v = 0; v < registers; ++v) row[v] = _mm512_load_ps(g + (r * registers + v) * 16);
      for (std::uint32_t k = lists.starts[r]; k < lists.ends[r]; ++k) {
        const __m512 weight = _mm512_set1_ps(lists.values[k]);
        float* const column = sums + 2 * std::size_t{lists.entries[k]};
#pragma GCC unroll 8
        for (std::size_t v = 0; v < registers; ++v)
          _mm512_store_ps(column + v * 16, _mm512_fmadd_ps(weight, row[v], _mm512_load_ps(column + v * 16)));
      }
    }
  }

  /// dots ← [dots +] ⟨g[row], panel[column]⟩, beside the entries.
  template <std::size_t Vectors>
  LOSA_AVX512 static void sample(const TileLists& lists, const float* g, const float* panel, bool accumulate,
                                 float* dots) noexcept {
    if constexpr (Vectors == 1) return avx2::BitmaskKernels::sample<1>(lists, g, panel, accumulate, dots);
    constexpr std::size_t registers = std::max<std::size_t>(1, Vectors / 2);
    for (std::size_t r = 0; r < lists.rows; ++r) {
      lists.prefetch_panel(r);
      __m512 row[registers];
#pragma GCC unroll 8
      for (std::size_t v = 0; v < registers; ++v) row[v] = _mm512_load_ps(g + (r * registers + v) * 16);
      for (std::uint32_t k = lists.starts[r]; k < lists.ends[r]; k += 4) {
        const std::uint16_t* const entry = lists.entries + k;
        __m512 dot[4];
#pragma GCC unroll 4
        for (std::size_t j = 0; j < 4; ++j)
          dot[j] = _mm512_mul_ps(row[0], _mm512_load_ps(panel + 2 * std::size_t{entry[j]}));
#pragma GCC unroll 8
        for (std::size_t v = 1; v < registers; ++v)
#pragma GCC unroll 4
          for (std::size_t j = 0; j < 4; ++j)
            dot[j] = _mm512_fmadd_ps(row[v], _mm512_load_ps(panel + 2 * std::size_t{entry[j]} + v * 16), dot[j]);
        const __m128 sum = sum4(dot[0], dot[1], dot[2], dot[3]);
        _mm_storeu_ps(dots + k, accumulate ? _mm_add_ps(sum, _mm_loadu_ps(dots + k)) : sum);
      }
    }
  }

  /// Lists of a range: (64 · tile + bit) · scale for every set bit, and the values, as floats or as they are. `scale`
  /// is a power of 2.
  template <class WeightsType, class Element>
  LOSA_AVX512 static void decode(const PackedLayout& w, const WeightsType& weights, const TileRange& range,
                                 std::size_t scale, std::uint16_t* entries, Element* values, std::uint32_t* starts,
                                 std::uint32_t* ends) noexcept {
    alignas(64) static constexpr auto positions = [] {
      std::array<std::uint8_t, tile_cols> each{};
      for (std::size_t i = 0; i < tile_cols; ++i) each[i] = static_cast<std::uint8_t>(i);
      return each;
    }();
    const __m512i col_indices = _mm512_load_si512(positions.data());
    const __m128i shift = _mm_cvtsi32_si128(std::countr_zero(scale));
    const std::size_t tiles = range.last_tile - range.first_tile;
    std::size_t n = 0;
    std::size_t row = 0;
    for (std::size_t b = range.first_block; b < range.last_block; ++b) {
      const std::uint64_t* const words = w.words + (b * w.tiles + range.first_tile) * tile_rows;
      const std::uint64_t* const offsets = w.offsets + b * w.tiles + range.first_tile;
      typename WeightsType::Cursor cursors[TileSizes::most_tiles];
      typename WeightsType::Cursor next[TileSizes::most_tiles];  // where the tiles that follow have their values
      std::size_t vectors[TileSizes::most_tiles];
      for (std::size_t t = 0; t < tiles; ++t) {
        cursors[t] = weights.begin(w, b, range.first_tile + t);
        next[t] = weights.begin(w, b, std::min(range.last_tile + t, w.tiles - 1));
        // What is read past a row's values lies in those that follow, but for the last ones of the matrix.
        const bool last = w.kept() - offsets[t + 1] < tile_cols;
        vectors[t] = last ? 0 : usual_vectors(offsets[t + 1] - offsets[t], 64 / sizeof(Element));
      }
      for (std::size_t i = 0; i < tile_rows; ++i, ++row) {
        starts[row] = static_cast<std::uint32_t>(n);
        for (std::size_t t = 0; t < tiles; ++t) {
          const std::uint64_t word = words[t * tile_rows + i];
          avx2::prefetch(words + (tiles + t) * tile_rows + i);
          const auto count = static_cast<std::size_t>(_mm_popcnt_u64(word));
          if constexpr (!std::is_same_v<WeightsType, NoWeights>) {
            avx2::prefetch(next[t].p);
            if constexpr (sizeof(*next[t].p) == 4) avx2::prefetch(next[t].p + 16);  // a row takes more than a line
            copy(cursors[t], i, count, vectors[t], values + n);
            cursors[t].advance(count);
            next[t].advance(count);
          }
          const __m512i found = compress_bytes(word, col_indices);
          const __m512i base = _mm512_set1_epi16(static_cast<short>(t * tile_cols * scale));
          const __m512i low = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(found));
          const __m512i high = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(found, 1));
          _mm512_storeu_si512(entries + n, _mm512_add_epi16(_mm512_sll_epi16(low, shift), base));
          _mm512_storeu_si512(entries + n + 32, _mm512_add_epi16(_mm512_sll_epi16(high, shift), base));
          n += count;
        }
        ends[row] = static_cast<std::uint32_t>(n);
        const std::uint16_t last = n == 0 ? std::uint16_t{0} : entries[n - 1];
        _mm_storel_epi64(reinterpret_cast<__m128i*>(entries + n), _mm_set1_epi16(static_cast<short>(last)));
        std::memset(static_cast<void*>(values + n), 0, 4 * sizeof(Element));
        n = (n + 3) / 4 * 4;
      }
    }
  }

 private:
  /// Vectors that hold the values of all but a few rows of a tile with `kept` weights: 8 more than the mean.
  static std::size_t usual_vectors(std::size_t kept, std::size_t of) noexcept {
    return std::min((kept / tile_rows + 8) / of + 1, tile_cols / of);
  }

  /// to ← the `count` values of row i as they are; see below.
  LOSA_AVX512 static void copy(const FloatWeights<bf16>::Cursor& from, std::size_t, std::size_t count,
                               std::size_t vectors, bf16* to) noexcept {
    const std::size_t n = std::max(32 * vectors, count);
    for (std::size_t j = 0; j < n; j += 32) {
      __m512i v = _mm512_loadu_si512(from.p + j);
      __asm__("" : "+v"(v));
      _mm512_storeu_si512(to + j, v);
    }
  }
  /// to ← the `count` values of row i as floats; always `vectors` vectors, for the reason given at
  /// avx2::BitmaskKernels.
  template <class CursorType>
  LOSA_AVX512 static void copy(const CursorType& from, std::size_t i, std::size_t count, std::size_t vectors,
                               float* to) noexcept {
    const std::size_t n = std::max(16 * vectors, count);
    if constexpr (std::is_same_v<CursorType, Int8Weights::Cursor>) {
      const __m512 scale = _mm512_set1_ps(from.scales[i]);
      for (std::size_t j = 0; j < n; j += 16) _mm512_storeu_ps(to + j, _mm512_mul_ps(scale, load16(from.p + j)));
    } else if constexpr (std::is_same_v<CursorType, Int4Weights::Cursor>) {
      const __m512 scale = _mm512_set1_ps(widen(from.scales[i]));
      alignas(64) std::int8_t integers[tile_cols];
      _mm512_store_si512(integers, nibbles64(from.p));
      for (std::size_t j = 0; j < n; j += 16) _mm512_storeu_ps(to + j, _mm512_mul_ps(scale, load16(integers + j)));
    } else {
      for (std::size_t j = 0; j < n; j += 16) {
        __m512 v = load16(from.p + j);
        __asm__("" : "+v"(v));  // else GCC makes it a memcpy, and that a `rep movs`, which takes longer to start
        _mm512_storeu_ps(to + j, v);
      }
    }
  }
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx512
LOSA_AVX512_END

namespace losa::inline v0::detail {

template <class Arguments, BitmaskWeights WeightsType>
struct Kernel<avx512::Target, Arguments, WeightsType> : PanelSchedule<avx512::BitmaskKernels, Arguments, WeightsType> {
};

}  // namespace losa::inline v0::detail
#endif
