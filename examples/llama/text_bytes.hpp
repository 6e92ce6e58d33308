#pragma once
// What bytes count as, taken as text in UTF-8 or another encoding that keeps ASCII.

#include <cstddef>
#include <span>

namespace llama {

struct TextCounts {
  std::size_t bytes = 0;
  std::size_t printable = 0;  // ASCII, with white space
  std::size_t control = 0;    // control characters that text does not hold
  std::size_t broken = 0;     // bytes that are no UTF-8

  TextCounts& operator+=(const TextCounts& other) {
    bytes += other.bytes;
    printable += other.printable;
    control += other.control;
    broken += other.broken;
    return *this;
  }
};

constexpr bool is_space(unsigned char c) { return c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == ' '; }
constexpr bool is_printable(unsigned char c) { return is_space(c) || (c > 0x20 && c < 0x7f); }
/// Escape, with which terminals are coloured, stands in some texts.
constexpr bool is_control(unsigned char c) { return (c < 0x20 && !is_space(c) && c != 0x1b) || c == 0x7f; }

/// `from_start` is false for bytes out of the middle of a text, which may begin inside a character. One that the end
/// cuts off is not broken.
TextCounts count_text(std::span<const std::byte> bytes, bool from_start = true);

}  // namespace llama
