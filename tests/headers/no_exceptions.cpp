// core and gemm without exceptions and RTTI: they compile, they compute, and an error reaches the handler; with an
// argument, that of threads which the system refuses.
#if defined(__cpp_exceptions) || defined(__cpp_rtti)
#error "compile this with -fno-exceptions -fno-rtti"
#endif
#include <losa/core.hpp>
#include <losa/gemm.hpp>

#include <sys/resource.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <vector>

namespace {
void on_error(const char* message) {
  const std::string_view text = message;
  const bool right = text == "zeros_target: sparsity must be in [0, 1), got 1.5" ||
                     (text.starts_with("ThreadPool: ") && text.ends_with("; ask for fewer"));
  std::_Exit(right ? 0 : 2);  // the handler must not return
}

int refused_threads() {
  const rlimit limit{std::size_t{1} << 29, RLIM_INFINITY};
  if (setrlimit(RLIMIT_AS, &limit) != 0) return 0;
  constexpr std::size_t many = 100000;
  {
    losa::ThreadPool pool(losa::AtMost{many});
    std::atomic<std::size_t> sum{0};
    pool.parallel_for(100, [&](std::size_t i) { sum += i; });
    if (pool.concurrency() >= many || sum != 4950) return 4;
  }
  losa::set_error_handler(&on_error);
  losa::ThreadPool pool(many);
  return 5;
}
}  // namespace

int main(int argc, char**) {
  if (argc > 1) return refused_threads();
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
