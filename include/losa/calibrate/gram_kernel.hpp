#pragma once
// The inner loop of XᵀX: G += AᵀB for two strips of columns, A and B (tokens, 24) in double, G (24, 24). Tokens are
// summed in order, for every instruction set; with fused multiply-add where the set has it.
//
// A block of rows of G stays in registers while all tokens pass: 8 × 24 numbers in 24 registers of AVX-512, 4 × 12 in
// 12 of AVX2, 4 × 6 in 12 of 128 bits. The path is chosen once at run time, by what the processor has.

#include <cstddef>

namespace losa::inline v0::detail {

/// Columns of a strip: the smallest common width of the register blocks above.
inline constexpr std::size_t gram_strip = 24;

/// G (24, 24) row-major += AᵀB; a and b (tokens, 24), contiguous.
using GramKernel = void (*)(const double* a, const double* b, std::size_t tokens, double* g);

#if defined(__GNUC__)

// Lanes numbers per vector, Vectors of them across, Rows down.
template <std::size_t Lanes, std::size_t Vectors, std::size_t Rows>
[[gnu::always_inline]] inline void gram_blocks(const double* a, const double* b, std::size_t tokens, double* g) {
  typedef double Vector __attribute__((vector_size(Lanes * sizeof(double)), aligned(alignof(double)), may_alias));
  static_assert(gram_strip % (Lanes * Vectors) == 0 && gram_strip % Rows == 0);
  for (std::size_t column = 0; column < gram_strip; column += Lanes * Vectors)
    for (std::size_t row = 0; row < gram_strip; row += Rows) {
      Vector sum[Rows][Vectors] = {};
      for (std::size_t t = 0; t < tokens; ++t) {
        const double* at = a + t * gram_strip + row;
        const double* bt = b + t * gram_strip + column;
        // Unrolled, so that `sum` lives in registers (g++ at -O2 keeps it in memory otherwise, a third of the speed).
#pragma GCC unroll 8
        for (std::size_t r = 0; r < Rows; ++r)
#pragma GCC unroll 8
          for (std::size_t v = 0; v < Vectors; ++v)
            sum[r][v] += at[r] * *reinterpret_cast<const Vector*>(bt + v * Lanes);
      }
#pragma GCC unroll 8
      for (std::size_t r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (std::size_t v = 0; v < Vectors; ++v)
          *reinterpret_cast<Vector*>(g + (row + r) * gram_strip + column + v * Lanes) += sum[r][v];
    }
}

inline void gram_portable(const double* a, const double* b, std::size_t tokens, double* g) {
  gram_blocks<2, 3, 4>(a, b, tokens, g);
}

#if defined(__x86_64__)

__attribute__((target("avx2,fma"))) inline void gram_avx2(const double* a, const double* b, std::size_t tokens,
                                                          double* g) {
  gram_blocks<4, 3, 4>(a, b, tokens, g);
}

__attribute__((target("avx512f,fma"))) inline void gram_avx512(const double* a, const double* b, std::size_t tokens,
                                                               double* g) {
  gram_blocks<8, 3, 8>(a, b, tokens, g);
}

inline bool has_avx2() noexcept { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
inline bool has_avx512() noexcept { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("fma"); }

inline GramKernel gram_kernel() noexcept {
  static const GramKernel chosen = has_avx512() ? &gram_avx512 : has_avx2() ? &gram_avx2 : &gram_portable;
  return chosen;
}

#else

inline GramKernel gram_kernel() noexcept { return &gram_portable; }

#endif
#else

inline void gram_portable(const double* a, const double* b, std::size_t tokens, double* g) {
  for (std::size_t i = 0; i < gram_strip; ++i)
    for (std::size_t j = 0; j < gram_strip; ++j) {
      double sum = 0;
      for (std::size_t t = 0; t < tokens; ++t) sum += a[t * gram_strip + i] * b[t * gram_strip + j];
      g[i * gram_strip + j] += sum;
    }
}

inline GramKernel gram_kernel() noexcept { return &gram_portable; }

#endif

}  // namespace losa::inline v0::detail
