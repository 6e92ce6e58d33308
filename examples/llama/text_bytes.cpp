#include "text_bytes.hpp"

#include <algorithm>

namespace llama {

namespace {

/// Bytes of the character that begins so; 0 if none does.
std::size_t utf8_length(unsigned lead) {
  if (lead < 0x80) return 1;
  if (lead < 0xc2) return 0;
  if (lead < 0xe0) return 2;
  if (lead < 0xf0) return 3;
  return lead < 0xf5 ? 4 : 0;
}

std::size_t broken_utf8(std::span<const std::byte> bytes, bool from_start) {
  const auto follows = [&](std::size_t i) { return (std::to_integer<unsigned>(bytes[i]) & 0xc0) == 0x80; };
  std::size_t broken = 0, i = 0;
  while (!from_start && i < std::min<std::size_t>(3, bytes.size()) && follows(i)) ++i;
  while (i < bytes.size()) {
    const std::size_t length = utf8_length(std::to_integer<unsigned>(bytes[i]));
    std::size_t have = 1;
    while (have < length && i + have < bytes.size() && follows(i + have)) ++have;
    if (length == 0 || (have < length && i + have < bytes.size())) {
      ++broken;
      have = 1;
    }
    i += have;
  }
  return broken;
}

}  // namespace

TextCounts count_text(std::span<const std::byte> bytes, bool from_start) {
  TextCounts counts{.bytes = bytes.size(), .broken = broken_utf8(bytes, from_start)};
  for (const std::byte b : bytes) {
    const auto c = std::to_integer<unsigned char>(b);
    counts.printable += is_printable(c);
    counts.control += is_control(c);
  }
  return counts;
}

}  // namespace llama
