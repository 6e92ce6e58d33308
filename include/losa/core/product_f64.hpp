#pragma once
// The inner loops of dense linear algebra in double, on strips: 24 columns of a matrix side by side, row after row, so
// that whatever runs along a strip is contiguous. XᵀX, the factorisation of the Hessian and SparseGPT's updates are
// made of them.
//   multiply   C += scale·AᵀB    strips A and B (depth, 24), tile C (24, 24)
//   subtract   Y −= u·xᵀ         u (rows), x (24), strip Y (rows, 24)
//
// Terms are added in rising order of depth, chunk by chunk, for every instruction set; with fused multiply-add where
// the set has it. A block of C stays in registers while the strips pass: 8 × 24 numbers in 24 registers of AVX-512, 4 ×
// 12 in 12 of AVX2, 4 × 6 in 12 of 128 bits. The path is chosen once at run time, by what the processor has and
// LOSA_ISA says.

#include <cstddef>
#include <string_view>

#include <losa/core/cpu.hpp>
#include <losa/core/isa.hpp>

namespace losa::inline v0::detail {

/// Columns of a strip: the smallest common width of the register blocks above.
inline constexpr std::size_t strip_width = 24;
inline constexpr std::size_t tile_size = strip_width * strip_width;
/// Depth that `multiply` adds up before it goes to C: that much of two strips and the tile fit a first-level cache of
/// 32 KiB (AVX2, depth 192: 37 GFlop/s of 47; without chunks 30).
inline constexpr std::size_t chunk_depth = 64;

struct StripKernels {
  /// c (24, 24) row-major += scale·AᵀB; a and b (depth, 24), contiguous.
  void (*multiply)(const double* a, const double* b, std::size_t depth, double scale, double* c);
  /// y (rows, 24) contiguous −= u (rows) · xᵀ (24).
  void (*subtract)(const double* u, std::size_t rows, const double* x, double* y);
};

#if defined(__GNUC__)

template <std::size_t Lanes>
struct VectorOf {
  typedef double type __attribute__((vector_size(Lanes * sizeof(double)), aligned(alignof(double)), may_alias));
};

// Lanes numbers per vector, Vectors of them across, Rows down.
template <std::size_t Lanes, std::size_t Vectors, std::size_t Rows>
[[gnu::always_inline]] inline void multiply_chunk(const double* a, const double* b, std::size_t depth, double scale,
                                                  double* c) {
  using Vector = typename VectorOf<Lanes>::type;
  static_assert(strip_width % (Lanes * Vectors) == 0 && strip_width % Rows == 0);
  for (std::size_t column = 0; column < strip_width; column += Lanes * Vectors)
    for (std::size_t row = 0; row < strip_width; row += Rows) {
      Vector sum[Rows][Vectors] = {};
      for (std::size_t t = 0; t < depth; ++t) {
        const double* at = a + t * strip_width + row;
        const double* bt = b + t * strip_width + column;
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
          *reinterpret_cast<Vector*>(c + (row + r) * strip_width + column + v * Lanes) += scale * sum[r][v];
    }
}

template <std::size_t Lanes, std::size_t Vectors, std::size_t Rows>
[[gnu::always_inline]] inline void multiply_blocks(const double* a, const double* b, std::size_t depth, double scale,
                                                   double* c) {
  for (std::size_t i = 0; i < tile_size; i += 8) __builtin_prefetch(c + i, 1);
  for (std::size_t t = 0; t < depth; t += chunk_depth)
    multiply_chunk<Lanes, Vectors, Rows>(a + t * strip_width, b + t * strip_width,
                                         depth - t < chunk_depth ? depth - t : chunk_depth, scale, c);
}

template <std::size_t Lanes>
[[gnu::always_inline]] inline void subtract_rows(const double* u, std::size_t rows, const double* x, double* y) {
  using Vector = typename VectorOf<Lanes>::type;
  constexpr std::size_t vectors = strip_width / Lanes;
  Vector held[vectors];
#pragma GCC unroll 12
  for (std::size_t v = 0; v < vectors; ++v) held[v] = *reinterpret_cast<const Vector*>(x + v * Lanes);
  for (std::size_t r = 0; r < rows; ++r)
#pragma GCC unroll 12
    for (std::size_t v = 0; v < vectors; ++v)
      *reinterpret_cast<Vector*>(y + r * strip_width + v * Lanes) -= u[r] * held[v];
}

inline void multiply_portable(const double* a, const double* b, std::size_t depth, double scale, double* c) {
  multiply_blocks<2, 3, 4>(a, b, depth, scale, c);
}
inline void subtract_portable(const double* u, std::size_t rows, const double* x, double* y) {
  subtract_rows<2>(u, rows, x, y);
}

#else

inline void multiply_portable(const double* a, const double* b, std::size_t depth, double scale, double* c) {
  for (std::size_t i = 0; i < strip_width; ++i)
    for (std::size_t j = 0; j < strip_width; ++j) {
      double sum = 0;
      for (std::size_t t = 0; t < depth; ++t) sum += a[t * strip_width + i] * b[t * strip_width + j];
      c[i * strip_width + j] += scale * sum;
    }
}
inline void subtract_portable(const double* u, std::size_t rows, const double* x, double* y) {
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t i = 0; i < strip_width; ++i) y[r * strip_width + i] -= u[r] * x[i];
}

#endif

inline constexpr StripKernels strip_kernels_portable{&multiply_portable, &subtract_portable};

#if defined(__GNUC__) && defined(__x86_64__)

__attribute__((target("avx2,fma"))) inline void multiply_avx2(const double* a, const double* b, std::size_t depth,
                                                              double scale, double* c) {
  multiply_blocks<4, 3, 4>(a, b, depth, scale, c);
}
__attribute__((target("avx2,fma"))) inline void subtract_avx2(const double* u, std::size_t rows, const double* x,
                                                              double* y) {
  subtract_rows<4>(u, rows, x, y);
}
__attribute__((target("avx512f,fma"))) inline void multiply_avx512(const double* a, const double* b, std::size_t depth,
                                                                   double scale, double* c) {
  multiply_blocks<8, 3, 8>(a, b, depth, scale, c);
}
__attribute__((target("avx512f,fma"))) inline void subtract_avx512(const double* u, std::size_t rows, const double* x,
                                                                   double* y) {
  subtract_rows<8>(u, rows, x, y);
}

inline constexpr StripKernels strip_kernels_avx2{&multiply_avx2, &subtract_avx2};
inline constexpr StripKernels strip_kernels_avx512{&multiply_avx512, &subtract_avx512};

inline bool has_avx2() noexcept { return cpu().avx2 && cpu().fma; }
inline bool has_avx512() noexcept { return cpu().avx512f && cpu().fma; }

/// Of an instruction set, or of one that has it; of all that there is for a name that means none of these.
inline const StripKernels& strip_kernels_for(std::string_view isa) noexcept {
  if (isa == "reference" || isa == "portable") return strip_kernels_portable;
  if (has_avx512() && isa != "avx2") return strip_kernels_avx512;
  return has_avx2() ? strip_kernels_avx2 : strip_kernels_portable;
}

inline const StripKernels& strip_kernels() noexcept {
  static const StripKernels& chosen = strip_kernels_for(wanted_isa());
  return chosen;
}

#else

inline const StripKernels& strip_kernels() noexcept { return strip_kernels_portable; }

#endif

}  // namespace losa::inline v0::detail
