// core and gemm without exceptions and RTTI: they compile, they compute, and an error reaches the handler.
#if defined(__cpp_exceptions) || defined(__cpp_rtti)
#error "compile this with -fno-exceptions -fno-rtti"
#endif
#include <losa/core.hpp>
#include <losa/gemm.hpp>

#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <vector>

namespace {
void on_error(const char* message) {
  const bool right = std::string_view{message} == "zeros_target: sparsity must be in [0, 1), got 1.5";
  std::_Exit(right ? 0 : 2);  // the handler must not return
}
}  // namespace

int main() {
  const std::vector<float> weight{1, 2, 3, 4, 5, 6};  // (2, 3)
  losa::Mask mask(2, 3);
  mask.set(0, 1, true);
  mask.set(1, 2, true);
  const auto packed = losa::pack(losa::view(weight.data(), 2, 3), mask);
  const std::vector<float> x{1, 10, 100};  // (1, 3)
  std::vector<float> y(2);                 // (1, 2)
  losa::spmm(packed, losa::view(x.data(), 1, 3), losa::view(y.data(), 1, 2));
  if (y[0] != 20.0f || y[1] != 600.0f) return 1;

  losa::set_error_handler(&on_error);
  losa::kept_target(6, 1.5);
  return 3;
}
