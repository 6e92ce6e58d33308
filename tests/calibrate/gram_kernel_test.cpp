#include <losa/calibrate/gram_kernel.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <losa/core/random.hpp>

using losa::detail::gram_strip;
using losa::detail::GramKernel;

namespace {

// Every path that this machine can run.
std::vector<std::pair<std::string, GramKernel>> kernels() {
  std::vector<std::pair<std::string, GramKernel>> all{{"portable", &losa::detail::gram_portable},
                                                      {"chosen", losa::detail::gram_kernel()}};
#if defined(__GNUC__) && defined(__x86_64__)
  if (losa::detail::has_avx2()) all.emplace_back("avx2", &losa::detail::gram_avx2);
  if (losa::detail::has_avx512()) all.emplace_back("avx512", &losa::detail::gram_avx512);
#endif
  return all;
}

}  // namespace

TEST_CASE("gram kernel: every instruction set adds AᵀB, whatever the number of tokens and the alignment") {
  const losa::Random random{.seed = 1};
  for (std::size_t tokens : {0u, 1u, 2u, 7u, 65u})
    for (std::size_t shift : {0u, 1u, 3u}) {
      std::vector<double> a(tokens * gram_strip + shift);
      std::vector<double> b(tokens * gram_strip + shift);
      for (std::size_t i = 0; i < a.size(); ++i) {
        a[i] = random.normal(2 * i);
        b[i] = random.normal(2 * i + 1);
      }
      for (const auto& [label, kernel] : kernels()) {
        const std::string name = label;  // a structured binding cannot be captured
        CAPTURE(name);
        std::vector<double> g(gram_strip * gram_strip + shift + 1, 0.5);
        kernel(a.data() + shift, b.data() + shift, tokens, g.data() + shift);
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < gram_strip; ++i)
          for (std::size_t j = 0; j < gram_strip; ++j) {
            double sum = 0;
            double size = 0.5;
            for (std::size_t t = 0; t < tokens; ++t) {
              const double product = a[shift + t * gram_strip + i] * b[shift + t * gram_strip + j];
              sum += product;
              size += std::abs(product);
            }
            const double got = g[shift + i * gram_strip + j] - 0.5;
            wrong += !(std::abs(got - sum) <= static_cast<double>(tokens + 1) * 0x1p-52 * size);
          }
        CHECK(wrong == 0);
        for (std::size_t i = 0; i < shift; ++i) CHECK(g[i] == 0.5);
        CHECK(g.back() == 0.5);
      }
    }
}
