#include "token_kind.hpp"

#include <algorithm>
#include <array>
#include <bitset>
#include <cstdint>
#include <initializer_list>
#include <losa/core/error.hpp>
#include <losa/io/file_kind.hpp>
#include <string_view>
#include <utility>
#include <vector>

#include "text_bytes.hpp"

namespace llama {

namespace {

using losa::detail::text;

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// A file format that its first bytes name; empty for none of these.
std::string_view format_of(std::span<const std::byte> bytes) {
  using namespace std::string_view_literals;
  static constexpr std::pair<std::string_view, std::string_view> formats[] = {
      {"\x93NUMPY"sv, "a NumPy .npy file"},
      {"PK\x03\x04"sv, "a zip archive (as .npz and PyTorch's .pt are)"},
      {"\x1f\x8b\x08"sv, "a gzip file"},
      {"\x28\xb5\x2f\xfd"sv, "a zstd file"},
      {"\xfd"
       "7zXZ\0"sv,
       "an xz file"},
      {"7z\xbc\xaf\x27\x1c"sv, "a 7z archive"},
      {"ARROW1\0\0"sv, "an Arrow file"},
      {"\x89HDF\r\n\x1a\n"sv, "an HDF5 file"},
      {"MMIDIDX\0"sv, "a Megatron index; the tokens are in the .bin beside it"},
      {"SQLite format 3\0"sv, "an SQLite database"},
      {"%PDF-"sv, "a PDF document"},
      {"\x89PNG\r\n"sv, "a PNG picture"}};
  const std::string_view head = text_of(bytes.first(std::min<std::size_t>(bytes.size(), 512)));
  for (const auto& [magic, name] : formats)
    if (head.starts_with(magic)) return name;
  // Letters alone may begin a text.
  const auto at = [&](std::size_t i, std::string_view what) {
    return head.size() > i && head.substr(i).starts_with(what);
  };
  if (at(0, "BZh") && at(4, "1AY&SY")) return "a bzip2 file";
  if (at(0, "PAR1") && text_of(bytes).ends_with("PAR1")) return "a Parquet file";
  if (at(0, "GGUF") && at(5, "\0\0\0"sv)) return "a GGUF file";
  if (at(4, "\0\0\0\0{\""sv)) return "a safetensors file";
  if (at(257, "ustar") && head.substr(0, 100).find('\0') != head.npos) return "a tar archive";
  // A pickle of protocol 2 to 5 ends with a full stop.
  if (head.size() > 2 && head[0] == '\x80' && head[1] >= 2 && head[1] <= 5 && bytes.back() == std::byte{'.'} &&
      (head[2] == '\x95' || head[2] == ']' || head[2] == '}' || head[2] == 'c'))
    return "a Python pickle";
  return {};
}

/// Windows of the bytes, from the first to the last, each at a multiple of 8 bytes.
std::vector<std::span<const std::byte>> sample(std::span<const std::byte> bytes) {
  constexpr std::size_t windows = 16, size = 4096;
  if (bytes.size() <= windows * size) return {bytes};
  std::vector<std::span<const std::byte>> out;
  for (std::size_t i = 0; i < windows; ++i)
    out.push_back(bytes.subspan((bytes.size() - size) / 8 * i / (windows - 1) * 8, size));
  return out;
}

struct ByteCounts : TextCounts {
  std::array<std::size_t, 8> zero_at{}, control_at{}, all_at{};  // by position modulo 8
  std::array<std::size_t, 2> space_at{};                         // modulo 2
  std::bitset<256> seen;
};

ByteCounts count_bytes(const std::vector<std::span<const std::byte>>& windows) {
  ByteCounts counts;
  for (const auto& window : windows) {
    counts += count_text(window, &window == windows.data());
    for (std::size_t i = 0; i < window.size(); ++i) {
      const auto c = std::to_integer<unsigned char>(window[i]);
      ++counts.all_at[i % 8];
      counts.seen[c] = true;
      counts.zero_at[i % 8] += c == 0;
      counts.space_at[i % 2] += c == ' ';
      counts.control_at[i % 8] += is_control(c);
    }
  }
  return counts;
}

/// Words with spaces between them, at even and at odd places: letters of any encoding of one byte for each. Where ids
/// hold that byte, it is the upper one of many, or the lower.
bool has_words(const ByteCounts& n) {
  const std::size_t even = n.space_at[0], odd = n.space_at[1];
  return n.bytes >= 64 && n.seen.count() >= 12 && (even + odd) * 20 >= n.bytes && (even + odd) * 5 <= n.bytes * 2 &&
         std::min(even, odd) * 50 >= n.bytes;
}

/// Text in UTF-8 or another encoding that keeps ASCII, or almost all of it.
bool is_text(const ByteCounts& n) {
  if (n.printable * 100 >= n.bytes * 95 && n.control * 200 <= n.bytes) return true;
  if (n.control * 500 > n.bytes) return false;
  // Among the ids of a file, one byte in twenty or more is a control character: the low one of any, the high one of
  // all below 8192.
  return n.broken * 500 <= n.bytes || has_words(n) ||
         (n.bytes >= 1024 && n.control * 1000 <= n.bytes && n.seen.count() >= 20);
}

/// Of 16-bit units, those that a rule takes.
template <class Rule>
double share_of_units(const std::vector<std::span<const std::byte>>& windows, Rule&& rule) {
  std::size_t all = 0, taken = 0;
  for (const auto& window : windows)
    for (std::size_t i = 0; i + 1 < window.size(); i += 2) {
      ++all;
      taken += rule(std::to_integer<unsigned char>(window[i]), std::to_integer<unsigned char>(window[i + 1]));
    }
  return all == 0 ? 0.0 : static_cast<double>(taken) / static_cast<double>(all);
}

/// Little-endian number of `width` bytes, or big-endian.
std::uint32_t number(std::span<const std::byte> bytes, std::size_t at, std::size_t width, bool swapped) {
  std::uint32_t value = 0;
  for (std::size_t b = 0; b < width; ++b)
    value |= std::to_integer<std::uint32_t>(bytes[at + b]) << (8 * (swapped ? width - 1 - b : b));
  return value;
}

/// Text in units of 2 or 4 bytes (UTF-16, UTF-32): with a byte-order mark, of ASCII, of one script with spaces, or
/// Chinese and Japanese with their punctuation.
bool is_wide_text(const std::vector<std::span<const std::byte>>& windows, std::size_t width, bool swapped) {
  std::size_t all = 0, ascii = 0, latin = 0, spaces = 0, zeros = 0, east = 0, stops = 0;
  std::vector<std::size_t> pages(0x1100);
  for (const auto& window : windows)
    for (std::size_t i = 0; i + width <= window.size(); i += width) {
      const std::uint32_t c = number(window, i, width, swapped);
      ++all;
      zeros += c == 0;
      ascii += c < 0x7f && is_printable(static_cast<unsigned char>(c));
      spaces += c < 0x7f && is_space(static_cast<unsigned char>(c));
      latin += c >= 0xa0 && c < 0x250;
      east += (c >= 0x3000 && c < 0xa000) || (c >= 0xac00 && c < 0xd800) || (c >= 0xff00 && c < 0xfff0);
      stops += c == 0x3001 || c == 0x3002 || c == 0xff0c;
      if (c >= 0x250 && c < 0x110000) ++pages[c >> 8];
    }
  const auto most = [&](std::size_t count, std::size_t percent) { return count * 100 >= all * percent; };
  if (all == 0 || zeros * 100 > all) return false;
  if (most(ascii, 98)) return true;
  if (windows[0].size() >= width && number(windows[0], 0, width, swapped) == 0xfeff &&
      (most(ascii, 5) || most(east, 50)))
    return true;
  const std::size_t script = *std::ranges::max_element(pages);
  return (most(spaces, 5) && (most(ascii + latin, 98) || most(ascii + script, 98))) ||
         (most(stops, 2) && most(ascii + east, 95));
}

/// "UTF-16" or "UTF-32", or neither.
std::string_view wide_text(const std::vector<std::span<const std::byte>>& windows) {
  for (const bool swapped : {false, true}) {
    if (is_wide_text(windows, 4, swapped)) return "UTF-32";
    if (is_wide_text(windows, 2, swapped)) return "UTF-16";
  }
  return {};
}

/// Floating-point numbers of that size, of usual magnitudes: their upper 16 bits are then of a few kinds, and the lower
/// ones are not, while two ids are alike. Ids of 32 or 64 bits would be very small numbers.
template <class Float>
bool is_floating(const std::vector<std::span<const std::byte>>& windows, const ByteCounts& n) {
  const auto usual = [](std::uint32_t upper) {
    const std::uint32_t least = sizeof(Float) == 4 ? 0x3586 : 0x3eb0, largest = sizeof(Float) == 4 ? 0x4cbe : 0x4197;
    upper &= 0x7fff;  // 1e-6 to 1e8 with either sign
    return upper >= least && upper <= largest;
  };
  std::size_t some = 0, taken = 0, alike = 0;
  for (const auto& window : windows)
    for (std::size_t i = 0; i + sizeof(Float) <= window.size(); i += sizeof(Float)) {
      const auto number_at = window.subspan(i, sizeof(Float));
      if (std::ranges::all_of(number_at, [](std::byte b) { return b == std::byte{0}; })) continue;
      ++some;
      taken += usual(number(window, i + sizeof(Float) - 2, 2, false));
      alike += usual(number(window, i + sizeof(Float) - 4, 2, false));
    }
  return some >= 16 && n.seen.count() >= 16 && taken * 50 >= some * 49 && alike * 2 <= some;
}

/// Bytes per number, if there are more than `bits` and all but few of the upper ones are zero; else 0.
std::size_t padded_width(const ByteCounts& n, std::size_t bits) {
  const auto zero = [&](std::initializer_list<std::size_t> positions) {
    return std::ranges::all_of(positions, [&](std::size_t at) { return n.zero_at[at] * 50 >= n.all_at[at] * 49; });
  };
  const auto filled = [&](std::initializer_list<std::size_t> positions) {
    return std::ranges::all_of(positions, [&](std::size_t at) { return n.zero_at[at] * 2 <= n.all_at[at]; });
  };
  if (n.bytes < 32) return 0;
  if (filled({0}) && zero({4, 5, 6, 7})) return 8;
  if (bits < 32 && filled({0, 4}) && zero({2, 3, 6, 7})) return 4;
  if (bits < 16 && filled({0, 2, 4, 6}) && zero({1, 3, 5, 7})) return 2;
  return 0;
}

/// Share of the numbers that lie outside the vocabulary.
double share_outside(const std::vector<std::span<const std::byte>>& windows, std::size_t width, bool swapped,
                     std::size_t vocabulary) {
  std::size_t all = 0, outside = 0;
  for (const auto& window : windows)
    for (std::size_t i = 0; i + width <= window.size(); i += width) {
      ++all;
      outside += number(window, i, width, swapped) >= vocabulary;
    }
  return all == 0 ? 0.0 : static_cast<double>(outside) / static_cast<double>(all);
}

/// Ids are small more often than not: of their bytes, the last is.
bool is_big_endian(const std::vector<std::span<const std::byte>>& windows, const ByteCounts& n, std::size_t bits,
                   std::size_t vocabulary) {
  const std::size_t width = bits / 8;
  if (n.bytes < 64 * width || share_outside(windows, width, true, vocabulary) > 0) return false;
  if (share_outside(windows, width, false, vocabulary) > 0.02) return true;
  const double first = share_of_units(windows, [](unsigned char low, unsigned char) { return low < 32; });
  return bits == 16 && n.bytes >= 2048 && first >= 0.5 &&
         share_of_units(windows, [](unsigned char, unsigned char high) { return high < 32; }) <= first / 2;
}

}  // namespace

std::string what_else(std::span<const std::byte> bytes, std::size_t bits, std::size_t vocabulary) {
  const std::string tokens = text("not like ", bits, "-bit tokens of a vocabulary of ", vocabulary);
  if (const auto pointer =
          losa::detail::find_pointer(text_of(bytes.first(std::min<std::size_t>(bytes.size(), 512))), bytes.size()))
    return text("looks like ", pointer->what, ", ", tokens, ": ", pointer->advice);
  if (const std::string_view format = format_of(bytes); !format.empty())
    return text("looks like ", format, ", ", tokens, ": write the bare numbers, little-endian, one after the other");
  const auto windows = sample(bytes);
  const ByteCounts n = count_bytes(windows);
  const bool odd = bytes.size() % (bits / 8) != 0;  // refused anyway: fewer bytes are enough to name it

  if (bits != 8 && (n.bytes >= 32 || odd) && is_text(n))
    return text("looks like text, ", tokens, ": make tokens of it first (examples/llama/tools/text.py encode)");
  // A vocabulary of a few hundred may be that of bytes, stored in more bits each.
  if (n.bytes >= 64 && (bits == 8 || vocabulary >= 1024))
    if (const std::string_view wide = wide_text(windows); !wide.empty())
      return text("looks like ", wide, " text, ", tokens, ": ",
                  bits == 8 ? "convert it to UTF-8" : "make tokens of it first (examples/llama/tools/text.py encode)");
  if (is_floating<float>(windows, n) || is_floating<double>(windows, n))
    return text("looks like floating-point numbers of ", is_floating<float>(windows, n) ? 32 : 64, " bits, ", tokens,
                ": write the ids as whole numbers");
  if (const std::size_t width = padded_width(n, bits); width == 8)
    return text("looks like 64-bit numbers, ", tokens, ": write them with 8, 16 or 32 bits");
  else if (width != 0)
    return text("looks like ", 8 * width, "-bit numbers, ", tokens, ": --token-bits ", 8 * width, " reads those");
  if (bits != 8 && is_big_endian(windows, n, bits, vocabulary))
    return text("looks like big-endian numbers, ", tokens, ": swap their bytes");
  if (bits == 32 && n.bytes >= 256 && share_outside(windows, 4, false, vocabulary) >= 0.5 &&
      share_outside(windows, 2, false, vocabulary) == 0) {
    if (n.control * 50 < n.bytes)  // as in no file of ids
      return text("looks like no numbers, ", tokens, ": make tokens of it first (examples/llama/tools/text.py encode)");
    return text("looks like 16-bit numbers, ", tokens, ": --token-bits 16 reads those");
  }
  if (bits == 8 && n.bytes >= 1024) {
    std::size_t low = 0, high = 0;
    for (std::size_t at = 0; at < 8; ++at) (at % 2 == 0 ? low : high) += n.control_at[at];
    if (std::max(low, high) * 5 >= n.bytes && std::min(low, high) * 2 <= std::max(low, high))
      return text("looks like 16-bit numbers, ", tokens,
                  ": they belong to another vocabulary, or --token-bits 16 reads them");
  }
  return {};
}

}  // namespace llama
