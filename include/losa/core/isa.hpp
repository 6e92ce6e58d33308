#pragma once
// LOSA_ISA, the environment variable that names the instruction set to use ("avx2", "reference", …) where a program
// names none. Asked by the products (gemm/registry.hpp, which refuses a name it does not know) and by product_f64.hpp.

#include <cstdlib>
#include <string_view>

namespace losa::inline v0::detail {

/// Its value, empty if it is not set. Read once.
inline std::string_view wanted_isa() noexcept {
  static const char* const value = std::getenv("LOSA_ISA");
  return value == nullptr ? std::string_view{} : std::string_view{value};
}

}  // namespace losa::inline v0::detail
