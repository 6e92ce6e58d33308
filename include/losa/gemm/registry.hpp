#pragma once
// The backends, best first, and which one a product uses: the one named by its `backend` argument, else the one named
// by the environment variable LOSA_ISA (read once, at the first product), else the best that this machine supports.
//
//   for (const losa::Backend* b : losa::backends()) use(b->name);
//   losa::spmm(packed, x, y, pool, {.backend = &losa::find_backend("reference")});
//
// A unit that multiplies compiles the kernels of every backend, which takes g++ 12 fifteen seconds at -O3. A program of
// many units can compile them once: it defines LOSA_EXTERN_KERNELS for all, and has one more unit of two lines,
//
//   #define LOSA_DEFINE_KERNELS
//   #include <losa/gemm.hpp>

#if defined(LOSA_DEFINE_KERNELS) && !defined(LOSA_EXTERN_KERNELS)
#error "LOSA_DEFINE_KERNELS is for programs that define LOSA_EXTERN_KERNELS in every unit"
#endif

#include <array>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/gemm/arch.hpp>
#include <losa/gemm/backend.hpp>
#if !defined(LOSA_EXTERN_KERNELS) || defined(LOSA_DEFINE_KERNELS)
#include <losa/gemm/amx/backend.hpp>
#include <losa/gemm/avx2/backend.hpp>
#include <losa/gemm/avx512/backend.hpp>
#include <losa/gemm/avx512_bf16/backend.hpp>
#include <losa/gemm/portable/backend.hpp>
#include <losa/gemm/reference/backend.hpp>
#endif

namespace losa::inline v0 {

#if !defined(LOSA_EXTERN_KERNELS) || defined(LOSA_DEFINE_KERNELS)
namespace detail::inline LOSA_ARCH {

/// Every backend that this build knows, best first; but `amx`, which no processor has run yet, only when it is named.
inline auto known_backends() noexcept {
  return std::array {
#if defined(LOSA_AVX2)
    &avx512_bf16::backend(), &amx::backend(), &avx512::backend(), &avx2::backend(),
#endif
#if defined(LOSA_PORTABLE)
        &portable::backend(),
#endif
        &reference::backend(),
  };
}

}  // namespace detail::inline LOSA_ARCH
#endif

#if defined(LOSA_EXTERN_KERNELS)
namespace detail {
std::span<const Backend* const> extern_backends() noexcept;
#if defined(LOSA_DEFINE_KERNELS)
std::span<const Backend* const> extern_backends() noexcept {
  static const auto all = known_backends();
  return all;
}
#endif
}  // namespace detail
#endif

/// The backends that this machine can run, best first. The last is "reference".
inline std::vector<const Backend*> backends() {
#if defined(LOSA_EXTERN_KERNELS)
  const auto known = detail::extern_backends();
#else
  const auto known = detail::known_backends();
#endif
  std::vector<const Backend*> present;
  for (const Backend* backend : known)
    if (backend->supported()) present.push_back(backend);
  return present;
}

namespace detail {

inline const Backend& find_backend(std::string_view where, std::string_view name) {
  std::string names;
  for (const Backend* backend : backends()) {
    if (backend->name == name) return *backend;
    names += names.empty() ? "" : ", ";
    names += backend->name;
  }
  raise<UnsupportedError>(where, "backend \"", name, "\" is not available here; present: ", names);
}

inline const Backend& choose_backend(const char* isa) {
  return isa != nullptr && *isa != '\0' ? find_backend("LOSA_ISA: ", isa) : *backends().front();
}

}  // namespace detail

/// The backend called `name`. Throws UnsupportedError, which lists those present, if this machine lacks it.
inline const Backend& find_backend(std::string_view name) { return detail::find_backend("", name); }

/// The backend of products that name none. Throws UnsupportedError if LOSA_ISA names an absent one.
inline const Backend& default_backend() {
  static const Backend& chosen = detail::choose_backend(std::getenv("LOSA_ISA"));
  return chosen;
}

/// Name of default_backend().
inline std::string_view backend_name() { return default_backend().name; }

}  // namespace losa::inline v0
