#include "loops.hpp"

// Two versions of a function, of which the machine's is taken. The sanitizers' run-time libraries are not ready when
// the choice is made, and clang 14 has no more than the base version here.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define LLAMA_ALSO_AVX2 __attribute__((target_clones("avx2", "default")))
#else
#define LLAMA_ALSO_AVX2
#endif

namespace llama {

LLAMA_ALSO_AVX2 float exponentials(float* score, std::size_t n, float& top) noexcept {
  const float t = detail::largest(score, n);
  top = t;
  for (std::size_t i = 0; i < n; ++i) score[i] = exponential(score[i] - t);
  return detail::sum_of(n, [score](std::size_t i) { return score[i]; });
}

LLAMA_ALSO_AVX2 void scale_row(float* x, std::size_t n, float factor) noexcept {
  for (std::size_t i = 0; i < n; ++i) x[i] *= factor;
}

LLAMA_ALSO_AVX2 void softmax_backward_row(float* score, float* gradient, std::size_t n, float shift,
                                          float along) noexcept {
  for (std::size_t i = 0; i < n; ++i) {
    const float p = exponential(score[i] - shift);
    score[i] = p;
    gradient[i] = p * (gradient[i] - along);
  }
}

LLAMA_ALSO_AVX2 void swiglu_row(const float* gate, const float* up, float* y, std::size_t n) noexcept {
  for (std::size_t i = 0; i < n; ++i) y[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
}

LLAMA_ALSO_AVX2 void swiglu_backward_row(const float* gate, const float* up, const float* grad_y, float* grad_gate,
                                         float* grad_up, std::size_t n) noexcept {
  for (std::size_t i = 0; i < n; ++i) {
    const float sigma = 1.0f / (1.0f + exponential(-gate[i]));
    const float d = grad_y[i];
    grad_up[i] = d * (gate[i] * sigma);
    grad_gate[i] = d * up[i] * (sigma * (1.0f + gate[i] * (1.0f - sigma)));
  }
}

}  // namespace llama
