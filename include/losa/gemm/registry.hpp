#pragma once
// The backends, best first, and which one a product uses: the one named by its `backend` argument, else the one named
// by the environment variable LOSA_ISA (read once, at the first product), else the best that this machine supports.
//
//   for (const losa::Backend* b : losa::backends()) use(b->name);
//   losa::spmm(packed, x, y, pool, {.backend = &losa::find_backend("reference")});
//
// A unit that multiplies compiles the kernels of every backend, which takes g++ 12 about fifteen seconds at -O3. A
// program of many units can compile them once: it defines LOSA_EXTERN_KERNELS, for all of its units, and one of them
// includes losa/gemm/kernels.hpp.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/core/isa.hpp>
#include <losa/gemm/backend.hpp>
#if defined(LOSA_EXTERN_KERNELS)
namespace losa::inline v0::detail {
std::span<const Backend* const> extern_backends() noexcept;
}
#else
#include <losa/gemm/known_backends.hpp>
#endif

namespace losa::inline v0 {

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

inline const Backend& choose_backend(std::string_view isa) {
  return isa.empty() ? *backends().front() : find_backend("LOSA_ISA: ", isa);
}

}  // namespace detail

/// The backend called `name`. Throws UnsupportedError, which lists those present, if this machine lacks it.
inline const Backend& find_backend(std::string_view name) { return detail::find_backend("", name); }

/// The backend of products that name none. Throws UnsupportedError if LOSA_ISA names an absent one.
inline const Backend& default_backend() {
  static const Backend& chosen = detail::choose_backend(detail::wanted_isa());
  return chosen;
}

/// Name of default_backend().
inline std::string_view backend_name() { return default_backend().name; }

}  // namespace losa::inline v0
