#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "problem.hpp"

#include <losa/gemm.hpp>

namespace {

/// What this program prints for the test case "probe" with LOSA_ISA set to `isa`: products are chosen once per process.
std::string probe(const std::string& isa) {
  const std::string command = "LOSA_ISA='" + isa + "' LOSA_TEST_PROBE=1 /proc/" + std::to_string(::getpid()) +
                              "/exe -tc='probe: LOSA_ISA' 2>&1";
  std::FILE* pipe = ::popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string output;
  char buffer[256];
  while (std::fgets(buffer, sizeof buffer, pipe) != nullptr) output += buffer;
  ::pclose(pipe);
  return output;
}

}  // namespace

TEST_CASE("probe: LOSA_ISA") {
  if (std::getenv("LOSA_TEST_PROBE") == nullptr) return;
  const auto packed = test::random_packed<float>(3, 4, 0.5, 1);
  const test::Matrix x(2, 4, 1);
  test::Matrix y(2, 3, 1);
  try {
    losa::spmm(packed, x.view(), y.view());
    std::printf("[used %s]\n", std::string(losa::backend_name()).c_str());
  } catch (const losa::UnsupportedError& error) {
    std::printf("[refused: %s; y %s]\n", error.what(), y(0, 0) == test::Matrix(2, 3, 1)(0, 0) ? "kept" : "written");
  }
}

TEST_CASE("backends: best first, each supported, the reference always there and last") {
  const auto present = losa::backends();
  REQUIRE_FALSE(present.empty());
  CHECK(std::string_view(present.back()->name) == "reference");
  for (const losa::Backend* backend : present) {
    CHECK(backend->supported());
    CHECK(&losa::find_backend(backend->name) == backend);
  }
}

TEST_CASE("find_backend: an absent one is an error that lists those present") {
  std::string names;
  for (const losa::Backend* backend : losa::backends())
    names += (names.empty() ? "" : ", ") + std::string(backend->name);
  CHECK_THROWS_WITH_AS(losa::find_backend("sse9"),
                       ("backend \"sse9\" is not available here; present: " + names).c_str(), losa::UnsupportedError);
}

TEST_CASE("LOSA_ISA names the backend, empty means the best, an absent one is an error before any write") {
  std::string names;
  for (const losa::Backend* backend : losa::backends()) {
    CAPTURE(backend->name);
    CHECK(probe(backend->name).find("[used " + std::string(backend->name) + "]") != std::string::npos);
    names += (names.empty() ? "" : ", ") + std::string(backend->name);
  }
  CHECK(probe("").find("[used " + std::string(losa::backends().front()->name) + "]") != std::string::npos);
  CHECK(probe("avx9").find("[refused: LOSA_ISA: backend \"avx9\" is not available here; present: " + names +
                           "; y kept]") != std::string::npos);
}
