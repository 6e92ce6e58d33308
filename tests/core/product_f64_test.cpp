#include <losa/core/product_f64.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <losa/core/random.hpp>

using losa::detail::strip_width;
using losa::detail::StripKernels;

namespace {

// Every path that this machine can run.
std::vector<std::pair<std::string, StripKernels>> kernels() {
  std::vector<std::pair<std::string, StripKernels>> all{{"portable", losa::detail::strip_kernels_portable},
                                                        {"chosen", losa::detail::strip_kernels()}};
#if defined(__GNUC__) && defined(__x86_64__)
  if (losa::detail::has_avx2()) all.emplace_back("avx2", losa::detail::strip_kernels_avx2);
  if (losa::detail::has_avx512()) all.emplace_back("avx512", losa::detail::strip_kernels_avx512);
#endif
  return all;
}

std::vector<double> normal(std::size_t n, std::uint64_t stream) {
  std::vector<double> values(n);
  for (std::size_t i = 0; i < n; ++i) values[i] = losa::Random{.seed = 1, .stream = stream}.normal(i);
  return values;
}

}  // namespace

TEST_CASE("product f64: every instruction set adds scale·AᵀB, whatever the depth and the alignment") {
  for (std::size_t depth : {0u, 1u, 2u, 7u, 63u, 64u, 65u, 200u})
    for (std::size_t shift : {0u, 1u, 3u})
      for (double scale : {1.0, -1.0, 0.25}) {
        const std::vector<double> a = normal(depth * strip_width + shift, 0);
        const std::vector<double> b = normal(depth * strip_width + shift, 1);
        for (const auto& [label, kernel] : kernels()) {
          const std::string name = label;  // a structured binding cannot be captured
          CAPTURE(name);
          std::vector<double> c(strip_width * strip_width + shift + 1, 0.5);
          kernel.multiply(a.data() + shift, b.data() + shift, depth, scale, c.data() + shift);
          std::size_t wrong = 0;
          for (std::size_t i = 0; i < strip_width; ++i)
            for (std::size_t j = 0; j < strip_width; ++j) {
              double sum = 0;
              double size = 0.5;
              for (std::size_t t = 0; t < depth; ++t) {
                const double product = scale * a[shift + t * strip_width + i] * b[shift + t * strip_width + j];
                sum += product;
                size += std::abs(product);
              }
              const double got = c[shift + i * strip_width + j] - 0.5;
              wrong += !(std::abs(got - sum) <= static_cast<double>(depth + 1) * 0x1p-52 * size);
            }
          CHECK(wrong == 0);
          for (std::size_t i = 0; i < shift; ++i) CHECK(c[i] == 0.5);
          CHECK(c.back() == 0.5);
        }
      }
}

TEST_CASE("product f64: every instruction set subtracts an outer product, and nothing beside it") {
  for (std::size_t rows : {0u, 1u, 5u, 24u, 31u})
    for (std::size_t shift : {0u, 1u}) {
      const std::vector<double> u = normal(rows + shift, 2);
      const std::vector<double> x = normal(strip_width + shift, 3);
      for (const auto& [label, kernel] : kernels()) {
        const std::string name = label;
        CAPTURE(name);
        std::vector<double> y(rows * strip_width + shift + 1, 0.5);
        kernel.subtract(u.data() + shift, rows, x.data() + shift, y.data() + shift);
        std::size_t wrong = 0;
        for (std::size_t r = 0; r < rows; ++r)
          for (std::size_t i = 0; i < strip_width; ++i) {
            const double product = u[shift + r] * x[shift + i];
            wrong +=
                !(std::abs(y[shift + r * strip_width + i] - (0.5 - product)) <= 0x1p-52 * (0.5 + std::abs(product)));
          }
        CHECK(wrong == 0);
        for (std::size_t i = 0; i < shift; ++i) CHECK(y[i] == 0.5);
        CHECK(y.back() == 0.5);
      }
    }
}

#if defined(__GNUC__) && defined(__x86_64__)
TEST_CASE("product f64: LOSA_ISA bounds the instruction set, and another name means the best") {
  using losa::detail::strip_kernels_for;
  const StripKernels* const avx2 =
      losa::detail::has_avx2() ? &losa::detail::strip_kernels_avx2 : &losa::detail::strip_kernels_portable;
  const StripKernels* const best = losa::detail::has_avx512() ? &losa::detail::strip_kernels_avx512 : avx2;
  for (const char* isa : {"reference", "portable"})
    CHECK(&strip_kernels_for(isa) == &losa::detail::strip_kernels_portable);
  CHECK(&strip_kernels_for("avx2") == avx2);
  for (const char* isa : {"", "avx512", "avx512_bf16", "amx", "sse9"}) CHECK(&strip_kernels_for(isa) == best);
}
#endif
