#pragma once
// Mask words to lists of columns: 64 columns of a row become the 16-bit offsets of the kept ones, in rising order. One
// table row of 8 positions per mask byte, always stored whole, the end advanced by the number of ones: no branch
// depends on the mask. About 19 cycles per 64 columns, whatever the density; plain integer code, the same everywhere.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <losa/gemm/arch.hpp>

namespace losa::inline v0::detail::inline LOSA_ARCH {

/// Elements that kernels may write past the end of a list.
inline constexpr std::size_t decode_overrun = 64;

struct DecodeTable {
  // Positions of the ones of each byte as eight 16-bit numbers, four to a word.
  alignas(64) std::array<std::array<std::uint64_t, 2>, 256> positions{};
  std::array<std::uint8_t, 256> count{};
};

inline constexpr DecodeTable decode_table = [] {
  DecodeTable table;
  for (unsigned byte = 0; byte < 256; ++byte) {
    unsigned n = 0;
    for (unsigned bit = 0; bit < 8; ++bit)
      if ((byte >> bit & 1u) != 0) {
        table.positions[byte][n / 4] |= std::uint64_t{bit} << (n % 4 * 16);
        ++n;
      }
    table.count[byte] = static_cast<std::uint8_t>(n);
  }
  return table;
}();

/// Writes (base + i) · scale for every set bit i of `word`; returns the end of the list. (base + 64) · scale < 2¹⁶.
inline std::uint16_t* decode_word(std::uint64_t word, std::size_t base, std::size_t scale,
                                  std::uint16_t* out) noexcept {
  constexpr std::uint64_t each = 0x0001000100010001u;
  std::uint64_t first = base * scale * each;
  for (int byte = 0; byte < 8; ++byte) {
    const auto& positions = decode_table.positions[word & 255u];
    const std::array<std::uint64_t, 2> entries{positions[0] * scale + first, positions[1] * scale + first};
    std::memcpy(out, entries.data(), sizeof entries);
    out += decode_table.count[word & 255u];
    word >>= 8;
    first += 8 * scale * each;
  }
  return out;
}

}  // namespace losa::inline v0::detail::inline LOSA_ARCH
