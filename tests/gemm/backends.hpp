#pragma once
// The backends under test: those of this machine, and AMX in software where its other instructions are there.

#include <type_traits>
#include <vector>

#include "amx_model.hpp"

#include <losa/gemm.hpp>

namespace test {

inline std::vector<const losa::Backend*> backends() {
  std::vector<const losa::Backend*> all = losa::backends();
#if defined(LOSA_AVX512)
  if (amx_model().supported()) all.insert(all.begin(), &amx_model());
#endif
  return all;
}

/// Those that have a product of their own for weights of type T in the bitmask format.
template <class T>
std::vector<const losa::Backend*> backends_for() {
  if constexpr (std::is_same_v<T, losa::bf16> || std::is_same_v<T, losa::Int8>) return backends();
  return losa::backends();
}

}  // namespace test
