#pragma once
// AVX2 + FMA + F16C kernels: the inner loops of the shared panel driver, with up to eight 8-lane accumulators, and the
// expand kernel for one to four tokens.

#include <losa/gemm/avx2/vector.hpp>
#if defined(LOSA_AVX2)

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <losa/gemm/arch.hpp>
#include <losa/gemm/backend.hpp>
#include <losa/gemm/panel/driver.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH::avx2 {

struct Kernels {
  static constexpr std::size_t lanes = 8;
  static constexpr std::size_t few_tokens = 4;

  /// dst[c · width + t] ← src[t · stride + c], zero for tokens ≤ t < width.
  LOSA_AVX2 static void pack_panel(const float* src, std::size_t stride, std::size_t tokens, std::size_t cols,
                                   float* dst, std::size_t width) noexcept {
    // 128 columns at a time: the 32 KiB that they take of a wide panel are written in pieces of 32 bytes.
    for (std::size_t c0 = 0; c0 < cols; c0 += 128) {
      const std::size_t c1 = std::min(c0 + 128, cols);
      for (std::size_t t = 0; t < width; t += 8) {
        const std::size_t n = tokens > t ? std::min<std::size_t>(8, tokens - t) : 0;
        std::size_t c = c0;
        for (; c + 8 <= c1; c += 8) {
          __m256 r[8];
          if (n == 8) {
#pragma GCC unroll 8
            for (std::size_t i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(src + (t + i) * stride + c);
          } else {
#pragma GCC unroll 8
            for (std::size_t i = 0; i < 8; ++i)
              r[i] = i < n ? _mm256_loadu_ps(src + (t + i) * stride + c) : _mm256_setzero_ps();
          }
          transpose8(r);
#pragma GCC unroll 8
          for (std::size_t i = 0; i < 8; ++i) _mm256_storeu_ps(dst + (c + i) * width + t, r[i]);
        }
        for (; c < c1; ++c)
          for (std::size_t i = 0; i < 8; ++i) dst[c * width + t + i] = i < n ? src[(t + i) * stride + c] : 0.0f;
      }
    }
  }

  /// dst[t · stride + c] ← [dst +] src[c · width + t] [+ bias[c]].
  LOSA_AVX2 static void unpack_panel(const float* src, std::size_t width, std::size_t tokens, std::size_t cols,
                                     float* dst, std::size_t stride, const float* bias, bool accumulate) noexcept {
    for (std::size_t t = 0; t < tokens; t += 8) {
      const std::size_t n = std::min<std::size_t>(8, tokens - t);
      std::size_t c = 0;
      for (; c + 8 <= cols; c += 8) {
        __m256 r[8];
#pragma GCC unroll 8
        for (std::size_t i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(src + (c + i) * width + t);
        transpose8(r);
        const __m256 b = bias != nullptr ? _mm256_loadu_ps(bias + c) : _mm256_setzero_ps();
#pragma GCC unroll 8
        for (std::size_t i = 0; i < 8; ++i)
          if (i < n) {
            float* out = dst + (t + i) * stride + c;
            __m256 v = _mm256_add_ps(r[i], b);
            if (accumulate) v = _mm256_add_ps(v, _mm256_loadu_ps(out));
            _mm256_storeu_ps(out, v);
          }
      }
      for (; c < cols; ++c)
        for (std::size_t i = 0; i < n; ++i) {
          float& out = dst[(t + i) * stride + c];
          const float v = src[c * width + t + i] + (bias != nullptr ? bias[c] : 0.0f);
          out = accumulate ? v + out : v;
        }
    }
  }

  /// sums[row] += value · panel[column] for the kept weights of the tile; V vectors of tokens per column and row.
  template <std::size_t V, class T>
  LOSA_AVX2 static void gather(const TileLists& lists, const T* values, const float* panel, float* sums) noexcept {
    // Narrow panels take 2 or 4 weights at once in accumulators of their own: an addition takes 4 cycles, and two start
    // in every one.
    constexpr std::size_t chains = V >= 8 ? 1 : V == 4 ? 2 : 4;
    for (std::size_t r = 0; r < lists.rows; ++r) {
      lists.prefetch_panel(r);
      const std::uint16_t* entry = lists.entries + lists.starts[r];
      const std::uint16_t* const end = lists.entries + lists.ends[r];
      const T* value = values + lists.offsets[r];
      const T* soon = lists.soon(values, r);
      float* const out = sums + r * V * lanes;
      __m256 acc[chains][V];
#pragma GCC unroll 8
      for (std::size_t v = 0; v < V; ++v) acc[0][v] = _mm256_load_ps(out + v * lanes);
#pragma GCC unroll 4
      for (std::size_t k = 1; k < chains; ++k)
#pragma GCC unroll 8
        for (std::size_t v = 0; v < V; ++v) acc[k][v] = _mm256_setzero_ps();
      for (; end - entry >= 4; entry += 4, value += 4, soon += 4) {
        prefetch(soon);
        const __m256 weights = twice(load4(value));
        multiply_add<V, 0>(acc, splat<0>(weights), panel + 2 * std::size_t{entry[0]});
        multiply_add<V, 1>(acc, splat<1>(weights), panel + 2 * std::size_t{entry[1]});
        multiply_add<V, 2>(acc, splat<2>(weights), panel + 2 * std::size_t{entry[2]});
        multiply_add<V, 3>(acc, splat<3>(weights), panel + 2 * std::size_t{entry[3]});
      }
      for (; entry != end; ++entry, ++value)
        multiply_add<V, 0>(acc, _mm256_set1_ps(static_cast<float>(widen(*value))), panel + 2 * std::size_t{entry[0]});
#pragma GCC unroll 4
      for (std::size_t k = 1; k < chains; ++k)
#pragma GCC unroll 8
        for (std::size_t v = 0; v < V; ++v) acc[0][v] = _mm256_add_ps(acc[0][v], acc[k][v]);
#pragma GCC unroll 8
      for (std::size_t v = 0; v < V; ++v) _mm256_store_ps(out + v * lanes, acc[0][v]);
    }
  }

  /// sums[column] += value · g[row].
  template <std::size_t V>
  LOSA_AVX2 static void scatter(const TileLists& lists, const float* values, const float* g, float* sums) noexcept {
    for (std::size_t r = 0; r < lists.rows; ++r) {
      lists.prefetch_panel(r);
      const std::uint16_t* entry = lists.entries + lists.starts[r];
      const std::uint16_t* const end = lists.entries + lists.ends[r];
      const float* value = values + lists.offsets[r];
      const float* soon = lists.soon(values, r);
      __m256 row[V];
#pragma GCC unroll 8
      for (std::size_t v = 0; v < V; ++v) row[v] = _mm256_load_ps(g + (r * V + v) * lanes);
      for (; end - entry >= 4; entry += 4, value += 4, soon += 4) {
        prefetch(soon);
        const __m256 weights = twice(load4(value));
        add_to<V>(sums + 2 * std::size_t{entry[0]}, splat<0>(weights), row);
        add_to<V>(sums + 2 * std::size_t{entry[1]}, splat<1>(weights), row);
        add_to<V>(sums + 2 * std::size_t{entry[2]}, splat<2>(weights), row);
        add_to<V>(sums + 2 * std::size_t{entry[3]}, splat<3>(weights), row);
      }
      for (; entry != end; ++entry, ++value) add_to<V>(sums + 2 * std::size_t{*entry}, _mm256_set1_ps(*value), row);
    }
  }

  /// values ← base + scale · ⟨g[row], panel[column]⟩, base 0 where null.
  template <std::size_t V>
  LOSA_AVX2 static void sample(const TileLists& lists, const float* base, float scale, const float* g,
                               const float* panel, float* values) noexcept {
    const __m128 factor = _mm_set1_ps(scale);
    for (std::size_t r = 0; r < lists.rows; ++r) {
      lists.prefetch_panel(r);
      const std::uint16_t* entry = lists.entries + lists.starts[r];
      const std::uint16_t* const end = lists.entries + lists.ends[r];
      std::size_t k = lists.offsets[r];
      const float* soon = lists.soon(values, r);
      __m256 row[V];
#pragma GCC unroll 8
      for (std::size_t v = 0; v < V; ++v) row[v] = _mm256_load_ps(g + (r * V + v) * lanes);
      for (; end - entry >= 4; entry += 4, k += 4, soon += 4) {
        prefetch(soon);
        const __m128 b = base != nullptr ? _mm_loadu_ps(base + k) : _mm_setzero_ps();
        _mm_storeu_ps(values + k, _mm_fmadd_ps(factor, dot4<V>(entry, row, panel), b));
      }
      if (entry != end) {
        const __m128i left = first_lanes(static_cast<std::size_t>(end - entry));
        const __m128 b = base != nullptr ? _mm_maskload_ps(base + k, left) : _mm_setzero_ps();
        _mm_maskstore_ps(values + k, left, _mm_fmadd_ps(factor, dot4<V>(entry, row, panel), b));
      }
    }
  }

  /// Writes (64 · i + b) · scale for every set bit b of words[i]; returns the end of the list.
  LOSA_AVX2 static std::uint16_t* decode(const std::uint64_t* words, std::size_t n, std::size_t scale,
                                         std::uint16_t* out) noexcept {
    const __m128i factor = _mm_set1_epi16(static_cast<short>(scale));
    const __m128i step = _mm_set1_epi16(static_cast<short>(8 * scale));
    __m128i base = _mm_setzero_si128();
    for (std::size_t i = 0; i < n; ++i) {
      std::uint64_t word = words[i];
#pragma GCC unroll 8
      for (int byte = 0; byte < 8; ++byte) {
        const auto* positions = reinterpret_cast<const __m128i*>(decode_table.positions[word & 255u].data());
        const __m128i entries = _mm_add_epi16(_mm_mullo_epi16(_mm_load_si128(positions), factor), base);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), entries);
        out += decode_table.count[word & 255u];
        base = _mm_add_epi16(base, step);
        word >>= 8;
      }
    }
    return out;
  }

  /// cursors[r − r0] ← index of row r's first value at or after column 64 · word.
  LOSA_AVX2 static void seek(const PackedLayout& w, std::size_t r0, std::size_t r1, std::size_t word,
                             std::size_t* cursors) noexcept {
    for (std::size_t r = r0; r < r1; ++r) {
      std::size_t at = w.offsets[r];
      for (std::size_t i = 0; i < word; ++i)
        at += static_cast<std::size_t>(_mm_popcnt_u64(w.words[r * w.words_per_row + i]));
      cursors[r - r0] = at;
    }
  }

  /// y[t, r] ← [y +] ⟨W[r], x[t]⟩ [+ bias[r]] for rows [first, last) and 1 to 4 tokens.
  template <class T>
  LOSA_AVX2 static void multiply_few(const PackedLayout& w, const T* values, std::size_t first, std::size_t last,
                                     const float* x, std::size_t x_stride, std::size_t tokens, float* y,
                                     std::size_t y_stride, const float* bias, bool accumulate) noexcept {
    switch (tokens) {
      case 1:
        return expand<1>(w, values, first, last, x, x_stride, y, y_stride, bias, accumulate);
      case 2:
        return expand<2>(w, values, first, last, x, x_stride, y, y_stride, bias, accumulate);
      case 3:
        return expand<3>(w, values, first, last, x, x_stride, y, y_stride, bias, accumulate);
      case 4:
        return expand<4>(w, values, first, last, x, x_stride, y, y_stride, bias, accumulate);
      default:
        return;
    }
  }

 private:
  /// Brings the line to L2.
  LOSA_AVX2 static void prefetch(const void* line) noexcept {
    _mm_prefetch(static_cast<const char*>(line), _MM_HINT_T1);
  }

  template <std::size_t V, std::size_t K, std::size_t Chains>
  LOSA_AVX2 static void multiply_add(__m256 (&acc)[Chains][V], __m256 weight, const float* column) noexcept {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < V; ++v)
      acc[K % Chains][v] = _mm256_fmadd_ps(weight, _mm256_load_ps(column + v * lanes), acc[K % Chains][v]);
  }

  template <std::size_t V>
  LOSA_AVX2 static void add_to(float* column, __m256 weight, const __m256 (&row)[V]) noexcept {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < V; ++v)
      _mm256_store_ps(column + v * lanes, _mm256_fmadd_ps(weight, row[v], _mm256_load_ps(column + v * lanes)));
  }

  template <std::size_t V>
  LOSA_AVX2 static __m128 dot4(const std::uint16_t* entry, const __m256 (&row)[V], const float* panel) noexcept {
    __m256 dot[4];
#pragma GCC unroll 4
    for (std::size_t j = 0; j < 4; ++j)
      dot[j] = _mm256_mul_ps(row[0], _mm256_load_ps(panel + 2 * std::size_t{entry[j]}));
#pragma GCC unroll 8
    for (std::size_t v = 1; v < V; ++v)
#pragma GCC unroll 4
      for (std::size_t j = 0; j < 4; ++j)
        dot[j] = _mm256_fmadd_ps(row[v], _mm256_load_ps(panel + 2 * std::size_t{entry[j]} + v * lanes), dot[j]);
    return sum4(dot[0], dot[1], dot[2], dot[3]);
  }

  /// Expands 8 positions at a time to registers. x is loaded under the mask: a pruned position contributes 0 · weight,
  /// whatever x holds there, and nothing is read past the last column.
  template <std::size_t N, class T>
  LOSA_AVX2 static void expand(const PackedLayout& w, const T* values, std::size_t first, std::size_t last,
                               const float* x, std::size_t x_stride, float* y, std::size_t y_stride, const float* bias,
                               bool accumulate) noexcept {
    constexpr std::size_t chains = N == 1 ? 4 : N == 2 ? 2 : 1;
    for (std::size_t r = first; r < last; ++r) {
      const std::uint64_t* const words = w.words + r * w.words_per_row;
      const T* value = values + w.offsets[r];
      __m256 acc[N][chains];
#pragma GCC unroll 4
      for (std::size_t t = 0; t < N; ++t)
#pragma GCC unroll 4
        for (std::size_t k = 0; k < chains; ++k) acc[t][k] = _mm256_setzero_ps();
      for (std::size_t i = 0; i < w.words_per_row; ++i) {
        const std::uint64_t word = words[i];
        // 4 KiB ahead of the values and 1 KiB of the mask: 13 % at one token against none on Zen 3.
        _mm_prefetch(reinterpret_cast<const char*>(value) + 4096, _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(words + i) + 1024, _MM_HINT_T0);
        const float* column = x + i * 64;
        if (word == ~std::uint64_t{0}) {
#pragma GCC unroll 8
          for (std::size_t g = 0; g < 8; ++g) {
            const __m256 weight = load8(value + 8 * g);
#pragma GCC unroll 4
            for (std::size_t t = 0; t < N; ++t)
              acc[t][g % chains] =
                  _mm256_fmadd_ps(weight, _mm256_loadu_ps(column + t * x_stride + 8 * g), acc[t][g % chains]);
          }
          value += 64;
          continue;
        }
#pragma GCC unroll 8
        for (std::size_t g = 0; g < 8; ++g) {
          // Each group finds its values from the word, not from the group before it: no serial chain.
          const std::size_t before = g == 0 ? 0 : static_cast<std::size_t>(_mm_popcnt_u64(word << (64 - 8 * g) % 64));
          const __m256i row =
              _mm256_load_si256(reinterpret_cast<const __m256i*>(expand_table.rows[(word >> 8 * g) & 255u].data()));
          const __m256 weight = _mm256_permutevar8x32_ps(load8(value + before), row);
#pragma GCC unroll 4
          for (std::size_t t = 0; t < N; ++t)
            acc[t][g % chains] =
                _mm256_fmadd_ps(weight, _mm256_maskload_ps(column + t * x_stride + 8 * g, row), acc[t][g % chains]);
        }
        value += _mm_popcnt_u64(word);
      }
#pragma GCC unroll 4
      for (std::size_t t = 0; t < N; ++t) {
        __m256 total = acc[t][0];
        if constexpr (chains == 2) total = _mm256_add_ps(total, acc[t][1]);
        if constexpr (chains == 4)
          total = _mm256_add_ps(_mm256_add_ps(total, acc[t][1]), _mm256_add_ps(acc[t][2], acc[t][3]));
        float& out = y[t * y_stride + r];
        const float result = sum(total) + (bias != nullptr ? bias[r] : 0.0f);
        out = accumulate ? result + out : result;
      }
    }
  }
};

}  // namespace losa::inline v0::detail::inline LOSA_ARCH::avx2
#endif
