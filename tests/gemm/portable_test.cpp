#include <doctest/doctest.h>

#include <string>
#include <string_view>
#include <xsimd/xsimd.hpp>

#include <losa/gemm.hpp>

#if defined(__x86_64__) || (defined(__aarch64__) && !defined(__ARM_FEATURE_SVE))

TEST_CASE("portable: is there, with vectors of the architecture it is compiled for") {
  const std::string arch = xsimd::default_arch::name();
  CAPTURE(arch);
  CHECK(std::string_view(losa::find_backend("portable").name) == "portable");
#if defined(__aarch64__)
  CHECK(arch.find("neon") != std::string::npos);
  CHECK(xsimd::batch<float>::size == 4);
  CHECK(std::string_view(losa::backends().front()->name) == "portable");
#else
  CHECK((arch.find("sse") != std::string::npos || arch.find("avx") != std::string::npos));
  CHECK(xsimd::batch<float>::size >= 4);
#endif
}

#endif
