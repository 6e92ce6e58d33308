#pragma once
// Pieces of a block of memory, one after another, each aligned to 64 bytes. Needs nothing at the end.
//
//   detail::Arena arena(memory);                   // aligned to 64
//   auto* panel = arena.take<float>(n);            // uninitialised

#include <cstddef>

#include <losa/gemm/scratch.hpp>

namespace losa::inline v0::detail {

class Arena {
 public:
  explicit Arena(std::byte* memory) noexcept : next_(memory) {}

  /// Bytes that n elements take of a block.
  template <class Element>
  static constexpr std::size_t need(std::size_t n) noexcept {
    return round_up(n * sizeof(Element), cache_line);
  }
  /// The next n elements, uninitialised.
  template <class Element>
  Element* take(std::size_t n) noexcept {
    std::byte* const piece = next_;
    next_ += need<Element>(n);
    return reinterpret_cast<Element*>(piece);
  }

 private:
  std::byte* next_;
};

}  // namespace losa::inline v0::detail
