#pragma once
// AVX2 + FMA + F16C kernels: the inner loops of the shared panel driver, with up to eight 8-lane accumulators; for one
// to four tokens those of expand.hpp, for five to eight of int8 and int4 those of integers.hpp.

#include <losa/gemm/target/avx2_vector.hpp>
#if defined(LOSA_AVX2)

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <losa/core/view.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/bitmask/avx2_expand.hpp>
#include <losa/gemm/bitmask/avx2_integers.hpp>
#include <losa/gemm/kernel.hpp>
#include <losa/gemm/operation.hpp>
#include <losa/gemm/panel/decode.hpp>
#include <losa/gemm/panel/kernel_set.hpp>
#include <losa/gemm/panel/schedules.hpp>
#include <losa/gemm/panel/tile.hpp>
#include <losa/gemm/target/avx2.hpp>
#include <losa/gemm/target/avx2_panels.hpp>
#include <losa/gemm/weights.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH::avx2 {

struct BitmaskKernels : PanelMoves {
  static constexpr std::size_t most_panels = 4;
  template <class WeightsType>
  using FewTokens =
      std::conditional_t<std::is_same_v<WeightsType, Int8Weights> || std::is_same_v<WeightsType, Int4Weights>,
                         integers::FewTokens, expand::FewTokens>;
  template <class WeightsType>
  static Rounding rounding(std::size_t) noexcept {
    return {};
  }

  /// sums[row] += value · panel[column]; Vectors of tokens per column and row.
  template <std::size_t Vectors>
  LOSA_AVX2 static void gather(const TileLists& lists, const float* panel, float* sums) noexcept {
    // Narrow panels take 2 or 4 weights at once in accumulators of their own: an addition takes 4 cycles, and two start
    // in every one.
    constexpr std::size_t chains = Vectors >= 8 ? 1 : Vectors == 4 ? 2 : 4;
    for (std::size_t r = 0; r < lists.rows; ++r) {
      lists.prefetch_panel(r);
      const std::uint16_t* entry = lists.entries + lists.starts[r];
      const std::uint16_t* const end = lists.entries + lists.ends[r];
      const float* value = lists.values + lists.starts[r];
      float* const out = sums + r * Vectors * lanes;
      __m256 acc[chains][Vectors];
#pragma GCC unroll 8
      for (std::size_t v = 0; v < Vectors; ++v) acc[0][v] = _mm256_load_ps(out + v * lanes);
#pragma GCC unroll 4
      for (std::size_t k = 1; k < chains; ++k)
#pragma GCC unroll 8
        for (std::size_t v = 0; v < Vectors; ++v) acc[k][v] = _mm256_setzero_ps();
      for (; entry < end; entry += 4, value += 4) {
        const __m256 weights = twice(_mm_loadu_ps(value));
        multiply_add<Vectors, 0>(acc, splat<0>(weights), panel + 2 * std::size_t{entry[0]});
        multiply_add<Vectors, 1>(acc, splat<1>(weights), panel + 2 * std::size_t{entry[1]});
        multiply_add<Vectors, 2>(acc, splat<2>(weights), panel + 2 * std::size_t{entry[2]});
        multiply_add<Vectors, 3>(acc, splat<3>(weights), panel + 2 * std::size_t{entry[3]});
      }
#pragma GCC unroll 4
      for (std::size_t k = 1; k < chains; ++k)
#pragma GCC unroll 8
        for (std::size_t v = 0; v < Vectors; ++v) acc[0][v] = _mm256_add_ps(acc[0][v], acc[k][v]);
#pragma GCC unroll 8
      for (std::size_t v = 0; v < Vectors; ++v) _mm256_store_ps(out + v * lanes, acc[0][v]);
    }
  }

  /// sums[column] += value · g[row].
  template <std::size_t Vectors>
  LOSA_AVX2 static void scatter(const TileLists& lists, const float* g, float* sums) noexcept {
    for (std::size_t r = 0; r < lists.rows; ++r) {
      __m256 row[Vectors];
#pragma GCC unroll 8
      for (std::size_t v = 0; v < Vectors; ++v) row[v] = _mm256_load_ps(g + (r * Vectors + v) * lanes);
      for (std::uint32_t k = lists.starts[r]; k < lists.ends[r]; k += 4) {
        const std::uint16_t* entry = lists.entries + k;
        const __m256 weights = twice(_mm_loadu_ps(lists.values + k));
        add_to<Vectors>(sums + 2 * std::size_t{entry[0]}, splat<0>(weights), row);
        add_to<Vectors>(sums + 2 * std::size_t{entry[1]}, splat<1>(weights), row);
        add_to<Vectors>(sums + 2 * std::size_t{entry[2]}, splat<2>(weights), row);
        add_to<Vectors>(sums + 2 * std::size_t{entry[3]}, splat<3>(weights), row);
      }
    }
  }

  /// dots ← [dots +] ⟨g[row], panel[column]⟩, beside the entries.
  template <std::size_t Vectors>
  LOSA_AVX2 static void sample(const TileLists& lists, const float* g, const float* panel, bool accumulate,
                               float* dots) noexcept {
    for (std::size_t r = 0; r < lists.rows; ++r) {
      lists.prefetch_panel(r);
      __m256 row[Vectors];
#pragma GCC unroll 8
      for (std::size_t v = 0; v < Vectors; ++v) row[v] = _mm256_load_ps(g + (r * Vectors + v) * lanes);
      for (std::uint32_t k = lists.starts[r]; k < lists.ends[r]; k += 4) {
        const __m128 dot = dot4<Vectors>(lists.entries + k, row, panel);
        _mm_storeu_ps(dots + k, accumulate ? _mm_add_ps(dot, _mm_loadu_ps(dots + k)) : dot);
      }
    }
  }

  /// values ← [base +] scale · dots, from the order of the lists to that of the matrix.
  LOSA_AVX2 static void store_values(const PackedLayout& w, const TileRange& range, const TileLists& lists,
                                     const float* base, float scale, float* values) noexcept {
    const __m256 factor = _mm256_set1_ps(scale);
    alignas(64) float flat[tile_rows * tile_cols + decode_overrun];
    std::size_t row = 0;
    for (std::size_t b = range.first_block; b < range.last_block; ++b) {
      const std::uint64_t* const offsets = w.offsets + b * w.tiles;
      const std::uint64_t* const words = w.words + b * w.tiles * tile_rows;
      const std::size_t rows = std::min(tile_rows, lists.rows - row);
      std::uint32_t starts[tile_rows];
      std::copy_n(lists.starts + row, rows, starts);
      for (std::size_t t = range.first_tile; t < range.last_tile; ++t) {
        const std::size_t first = offsets[t];
        const std::size_t kept = offsets[t + 1] - first;
        const std::size_t vectors = usual_vectors(kept);
        std::size_t at = 0;
        for (std::size_t i = 0; i < rows; ++i) {
          const auto count = static_cast<std::size_t>(_mm_popcnt_u64(words[t * tile_rows + i]));
          copy(FloatWeights<float>::Cursor{lists.values + starts[i]}, 0, count, vectors, flat + at);
          starts[i] += static_cast<std::uint32_t>(count);
          at += count;
        }
        for (std::size_t k = 0; k < kept; k += 8) {
          const __m256 dots = _mm256_loadu_ps(flat + k);
          if (k + 8 <= kept) {
            const __m256 from = base != nullptr ? _mm256_loadu_ps(base + first + k) : _mm256_setzero_ps();
            _mm256_storeu_ps(values + first + k, _mm256_fmadd_ps(factor, dots, from));
          } else {
            const __m256i inside = first_lanes8(kept - k);
            const __m256 from = base != nullptr ? _mm256_maskload_ps(base + first + k, inside) : _mm256_setzero_ps();
            _mm256_maskstore_ps(values + first + k, inside, _mm256_fmadd_ps(factor, dots, from));
          }
        }
      }
      row += rows;
    }
  }

  /// Lists of a range: (64 · tile + bit) · scale for every set bit, and the values as floats.
  template <class WeightsType>
  LOSA_AVX2 static void decode(const PackedLayout& w, const WeightsType& weights, const TileRange& range,
                               std::size_t scale, std::uint16_t* entries, float* floats, std::uint32_t* starts,
                               std::uint32_t* ends) noexcept {
    const __m128i factor = _mm_set1_epi16(static_cast<short>(scale));
    const __m128i step = _mm_set1_epi16(static_cast<short>(8 * scale));
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
        vectors[t] = last ? 0 : usual_vectors(offsets[t + 1] - offsets[t]);
      }
      for (std::size_t i = 0; i < tile_rows; ++i, ++row) {
        starts[row] = static_cast<std::uint32_t>(n);
        __m128i base = _mm_setzero_si128();
        for (std::size_t t = 0; t < tiles; ++t) {
          std::uint64_t word = words[t * tile_rows + i];
          prefetch(words + (tiles + t) * tile_rows + i);
          const auto count = static_cast<std::size_t>(_mm_popcnt_u64(word));
          if constexpr (!std::is_same_v<WeightsType, NoWeights>) {
            prefetch(next[t].p);
            if constexpr (sizeof(*next[t].p) == 4) prefetch(next[t].p + 16);  // a row takes more than a line
            copy(cursors[t], i, count, vectors[t], floats + n);
            cursors[t].advance(count);
            next[t].advance(count);
          }
          std::uint16_t* out = entries + n;
#pragma GCC unroll 8
          for (int byte = 0; byte < 8; ++byte) {
            const auto* positions = reinterpret_cast<const __m128i*>(decode_table.positions[word & 255u].data());
            const __m128i found = _mm_add_epi16(_mm_mullo_epi16(_mm_load_si128(positions), factor), base);
            _mm_storeu_si128(reinterpret_cast<__m128i*>(out), found);
            out += decode_table.count[word & 255u];
            base = _mm_add_epi16(base, step);
            word >>= 8;
          }
          n += count;
        }
        ends[row] = static_cast<std::uint32_t>(n);
        const std::uint16_t last = n == 0 ? std::uint16_t{0} : entries[n - 1];
        _mm_storel_epi64(reinterpret_cast<__m128i*>(entries + n), _mm_set1_epi16(static_cast<short>(last)));
        _mm_storeu_ps(floats + n, _mm_setzero_ps());
        n = (n + 3) / 4 * 4;
      }
    }
  }

 private:
  /// Vectors that hold the values of all but a few rows of a tile with `kept` weights: 8 more than the mean.
  static std::size_t usual_vectors(std::size_t kept) noexcept {
    return std::min(kept / tile_rows / 8 + 2, tile_cols / 8);
  }

  /// to ← the `count` values of row i as floats. Always `vectors` vectors, so that the processor need not guess how
  /// many (which it cannot: 20 cycles a row); what is written past the last is junk.
  template <class Element>
  LOSA_AVX2 static void copy(const typename FloatWeights<Element>::Cursor& from, std::size_t count, std::size_t vectors,
                             float* to) noexcept {
    const std::size_t n = std::max(8 * vectors, count);
    for (std::size_t j = 0; j < n; j += 8) {
      __m256 v = load8(from.p + j);
      __asm__("" : "+x"(v));  // else GCC makes it a memcpy, and that a `rep movs`, which takes longer to start
      _mm256_storeu_ps(to + j, v);
    }
  }
  LOSA_AVX2 static void copy(const FloatWeights<float>::Cursor& from, std::size_t, std::size_t count,
                             std::size_t vectors, float* to) noexcept {
    copy<float>(from, count, vectors, to);
  }
  LOSA_AVX2 static void copy(const FloatWeights<bf16>::Cursor& from, std::size_t, std::size_t count,
                             std::size_t vectors, float* to) noexcept {
    copy<bf16>(from, count, vectors, to);
  }
  LOSA_AVX2 static void copy(const FloatWeights<f16>::Cursor& from, std::size_t, std::size_t count, std::size_t vectors,
                             float* to) noexcept {
    copy<f16>(from, count, vectors, to);
  }
  LOSA_AVX2 static void copy(const Int8Weights::Cursor& from, std::size_t i, std::size_t count, std::size_t vectors,
                             float* to) noexcept {
    const __m256 scale = _mm256_set1_ps(from.scales[i]);
    const std::size_t n = std::max(8 * vectors, count);
    for (std::size_t j = 0; j < n; j += 8) _mm256_storeu_ps(to + j, _mm256_mul_ps(scale, integers8(from.p + j)));
  }
  LOSA_AVX2 static void copy(const Int4Weights::Cursor& from, std::size_t i, std::size_t count, std::size_t vectors,
                             float* to) noexcept {
    const __m256 scale = _mm256_set1_ps(widen(from.scales[i]));
    alignas(32) std::int8_t integers[tile_cols];
    const std::size_t n = std::max(8 * vectors, count);
    for (std::size_t j = 0; j < n; j += 32) nibbles32(from.p + j / 2, integers + j);
    for (std::size_t j = 0; j < n; j += 8) _mm256_storeu_ps(to + j, _mm256_mul_ps(scale, integers8(integers + j)));
  }

  template <std::size_t Vectors>
  LOSA_AVX2 static void add_to(float* column, __m256 weight, const __m256 (&row)[Vectors]) noexcept {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < Vectors; ++v)
      _mm256_store_ps(column + v * lanes, _mm256_fmadd_ps(weight, row[v], _mm256_load_ps(column + v * lanes)));
  }

  template <std::size_t Vectors>
  LOSA_AVX2 static __m128 dot4(const std::uint16_t* entry, const __m256 (&row)[Vectors], const float* panel) noexcept {
    __m256 dot[4];
#pragma GCC unroll 4
    for (std::size_t j = 0; j < 4; ++j)
      dot[j] = _mm256_mul_ps(row[0], _mm256_load_ps(panel + 2 * std::size_t{entry[j]}));
#pragma GCC unroll 8
    for (std::size_t v = 1; v < Vectors; ++v)
#pragma GCC unroll 4
      for (std::size_t j = 0; j < 4; ++j)
        dot[j] = _mm256_fmadd_ps(row[v], _mm256_load_ps(panel + 2 * std::size_t{entry[j]} + v * lanes), dot[j]);
    return sum4(dot[0], dot[1], dot[2], dot[3]);
  }
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx2

namespace losa::inline v0::detail {

template <class Arguments, BitmaskWeights WeightsType>
struct Kernel<avx2::Target, Arguments, WeightsType> : PanelSchedule<avx2::BitmaskKernels, Arguments, WeightsType> {};

}  // namespace losa::inline v0::detail
#endif
