#pragma once
// What an implementation of the products provides: a name, whether this machine can run it, and an operation for every
// product and format. Operands are plain pointers, sizes and strides, checked by the caller; no type depends on compile
// flags.
//
// A new backend is a Target (kernel.hpp) and one line in known_backends.hpp. It may use any blocking, scratch space and
// cut into tasks, as long as the result does not depend on the number of threads: give every output one order of
// additions.

#include <cstddef>
#include <tuple>
#include <type_traits>

#include <losa/gemm/formats.hpp>
#include <losa/gemm/operation.hpp>

namespace losa::inline v0 {

namespace detail {

template <class Arguments, class WeightsType>
struct Entry {
  Operation<Arguments> operation;
};

template <class List, class... Products>
struct EntriesOf;
template <class... Members, class Product>
struct EntriesOf<TypeList<Members...>, Product> {
  using type = std::tuple<Entry<Product, Members>...>;
};
template <class List, class Product, class... Rest>
struct EntriesOf<List, Product, Rest...> {
  using type =
      decltype(std::tuple_cat(typename EntriesOf<List, Product>::type{}, typename EntriesOf<List, Rest...>::type{}));
};

}  // namespace detail

struct Backend {
  const char* name;
  /// True if the CPU and the operating system support every instruction the operations may execute.
  bool (*supported)() noexcept;
  detail::EntriesOf<detail::Formats, Multiply>::type multiply;
  detail::EntriesOf<detail::TrainableFormats, MultiplyTransposed, Sample>::type training;

  /// The operation of a product (Multiply, MultiplyTransposed, Sample) with weights of a type.
  template <class Arguments, class WeightsType>
  const detail::Operation<Arguments>& operation() const noexcept {
    using Wanted = detail::Entry<Arguments, WeightsType>;
    if constexpr (std::is_same_v<Arguments, Multiply>) {
      return std::get<Wanted>(multiply).operation;
    } else {
      return std::get<Wanted>(training).operation;
    }
  }
};

}  // namespace losa::inline v0
