#pragma once
// Element types of safetensors files: names, sizes, and the C++ type that holds each.
//
//   losa::io::name(losa::io::Dtype::bf16);         // "BF16"

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include <losa/core/types.hpp>

namespace losa::inline v0 {

namespace detail {

struct DtypeRow {
  std::string_view name;
  std::size_t size;
};
inline constexpr std::array<DtypeRow, 14> safetensors_dtypes{{{"F64", 8},
                                                              {"F32", 4},
                                                              {"F16", 2},
                                                              {"BF16", 2},
                                                              {"I64", 8},
                                                              {"I32", 4},
                                                              {"I16", 2},
                                                              {"I8", 1},
                                                              {"U64", 8},
                                                              {"U32", 4},
                                                              {"U16", 2},
                                                              {"U8", 1},
                                                              {"BOOL", 1},
                                                              {"other", 0}}};

}  // namespace detail

namespace io {

/// `other`: a type that this library does not read (8-bit floats, say); its bytes can still be copied.
enum class Dtype : std::uint8_t { f64, f32, f16, bf16, i64, i32, i16, i8, u64, u32, u16, u8, boolean, other };

/// As the file spells it.
constexpr std::string_view name(Dtype dtype) noexcept {
  return detail::safetensors_dtypes[static_cast<std::size_t>(dtype)].name;
}
/// Bytes of one element; 0 for `other`.
constexpr std::size_t size_of(Dtype dtype) noexcept {
  return detail::safetensors_dtypes[static_cast<std::size_t>(dtype)].size;
}
/// `other` for a name that is not in the list.
constexpr Dtype parse_dtype(std::string_view text) noexcept {
  for (std::size_t i = 0; i + 1 < detail::safetensors_dtypes.size(); ++i)
    if (detail::safetensors_dtypes[i].name == text) return static_cast<Dtype>(i);
  return Dtype::other;
}

/// The Dtype that holds values of type Element.
template <class Element>
constexpr Dtype dtype_of() noexcept {
  if constexpr (std::same_as<Element, double>) return Dtype::f64;
  if constexpr (std::same_as<Element, float>) return Dtype::f32;
  if constexpr (std::same_as<Element, f16>) return Dtype::f16;
  if constexpr (std::same_as<Element, bf16>) return Dtype::bf16;
  if constexpr (std::same_as<Element, bool>) return Dtype::boolean;
  if constexpr (std::is_integral_v<Element> && !std::same_as<Element, bool>) {
    constexpr std::size_t log2 = sizeof(Element) == 8 ? 0 : sizeof(Element) == 4 ? 1 : sizeof(Element) == 2 ? 2 : 3;
    return static_cast<Dtype>(
        (std::is_signed_v<Element> ? static_cast<std::size_t>(Dtype::i64) : static_cast<std::size_t>(Dtype::u64)) +
        log2);
  }
  return Dtype::other;
}

}  // namespace io
}  // namespace losa::inline v0
