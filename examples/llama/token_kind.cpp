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
  std::size_t spaces = 0;
  std::bitset<256> seen;
};

ByteCounts count_bytes(const std::vector<std::span<const std::byte>>& windows) {
  ByteCounts counts;
  for (const auto& window : windows) {
    counts += count_text(window, &window == windows.data());
    for (std::size_t i = 0; i < window.size(); ++i) {
      const auto c = std::to_integer<unsigned char>(window[i]);
      ++counts.all_at[i % 8];
      counts.spaces += c == ' ';
      counts.seen[c] = true;
      counts.zero_at[i % 8] += c == 0;
      counts.control_at[i % 8] += is_control(c);
    }
  }
  return counts;
}

/// Text in UTF-8 or another encoding that keeps ASCII, or almost all of it.
bool is_text(const ByteCounts& n) {
  if (n.printable * 100 >= n.bytes * 95 && n.control * 200 <= n.bytes) return true;
  if (n.control * 500 > n.bytes) return false;
  if (n.control == 0 && n.bytes >= 64 && n.spaces * 100 >= 8 * n.bytes) return true;  // words of any 8-bit encoding
  // Among the ids of a file, one byte in twenty or more is a control character: the low one of any, the high one of
  // all below 8192.
  return n.broken * 500 <= n.bytes || (n.bytes >= 1024 && n.control * 1000 <= n.bytes && n.seen.count() >= 20);
}

/// Little-endian number of `width` bytes, or big-endian.
std::uint32_t number(std::span<const std::byte> bytes, std::size_t at, std::size_t width, bool swapped) {
  std::uint32_t value = 0;
  for (std::size_t b = 0; b < width; ++b)
    value |= std::to_integer<std::uint32_t>(bytes[at + b]) << (8 * (swapped ? width - 1 - b : b));
  return value;
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

/// UTF-16, which has a byte-order mark, or consists of ASCII or of one script with spaces.
bool is_utf16(std::span<const std::byte> bytes, const std::vector<std::span<const std::byte>>& windows) {
  const auto ascii = [](unsigned char c, unsigned char zero) { return zero == 0 && is_printable(c); };
  const auto little = [&](unsigned char low, unsigned char high) { return ascii(low, high); };
  const auto big = [&](unsigned char low, unsigned char high) { return ascii(high, low); };
  const double most = std::max(share_of_units(windows, little), share_of_units(windows, big));
  if (most >= 0.98) return true;
  const std::string_view mark = text_of(bytes.first(2));
  const auto ideograph = [&](unsigned char low, unsigned char high) {
    const unsigned char page = mark == "\xfe\xff" ? low : high;
    return page >= 0x30 && page < 0xd8;
  };
  if ((mark == "\xff\xfe" || mark == "\xfe\xff") && (most >= 0.05 || share_of_units(windows, ideograph) >= 0.5))
    return true;
  const auto one_script = [&](auto&& order) {
    std::array<std::size_t, 256> pages{};
    share_of_units(windows, [&](unsigned char a, unsigned char b) { return ++pages[order(a, b)] != 0; });
    pages[0] = 0;
    const auto page = static_cast<unsigned char>(std::ranges::max_element(pages) - pages.begin());
    if (pages[page] == 0) return false;
    const auto space = [&](unsigned char a, unsigned char b) { return order(a, b) == 0 && is_space(order(b, a)); };
    const auto belongs = [&](unsigned char a, unsigned char b) {
      return order(a, b) == page || (order(a, b) == 0 && is_printable(order(b, a)));
    };
    return share_of_units(windows, space) >= 0.05 && share_of_units(windows, belongs) >= 0.98;
  };
  return one_script([](unsigned char, unsigned char high) { return high; }) ||
         one_script([](unsigned char high, unsigned char) { return high; });
}

/// Share of the 32-bit units, in either byte order, that a rule takes.
template <class Rule>
double share_of_words(const std::vector<std::span<const std::byte>>& windows, bool swapped, Rule&& rule) {
  std::size_t all = 0, taken = 0;
  for (const auto& window : windows)
    for (std::size_t i = 0; i + 4 <= window.size(); i += 4) {
      ++all;
      taken += rule(number(window, i, 4, swapped));
    }
  return all == 0 ? 0.0 : static_cast<double>(taken) / static_cast<double>(all);
}

/// UTF-32 with words: characters, of which one in twenty or more is a space.
bool is_utf32(const std::vector<std::span<const std::byte>>& windows) {
  for (bool swapped : {false, true}) {
    const double spaces = share_of_words(windows, swapped, [](std::uint32_t c) { return c == ' '; });
    const double characters = share_of_words(windows, swapped, [](std::uint32_t c) {
      return c < 0x80 ? is_printable(static_cast<unsigned char>(c)) : c >= 0xa0 && c < 0x2fa20 && c >> 11 != 0x1b;
    });
    if (spaces >= 0.05 && characters >= 0.98) return true;
  }
  return false;
}

/// Floating-point numbers of 32 bits, of usual size: of ids of 16 or 32 bits few look like one.
bool is_float32(const std::vector<std::span<const std::byte>>& windows) {
  const double usual = share_of_words(windows, false, [](std::uint32_t bits) {
    const std::uint32_t exponent = bits >> 23 & 0xff;
    return exponent >= 127 - 24 && exponent <= 127 + 24;
  });
  const double zeros = share_of_words(windows, false, [](std::uint32_t bits) { return bits << 1 == 0; });
  return usual >= 0.25 && usual + zeros >= 0.99;
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
  // A vocabulary of a few hundred may be that of bytes, stored in 16 bits each.
  const auto encoded = [&](const char* name) {
    return text("looks like ", name, " text, ", tokens, ": ",
                bits == 8 ? "convert it to UTF-8" : "make tokens of it first (examples/llama/tools/text.py encode)");
  };
  if (n.bytes >= 128 && is_utf32(windows)) return encoded("UTF-32");
  if (n.bytes >= 64 && (bits != 16 || vocabulary >= 1024) && is_utf16(bytes, windows)) return encoded("UTF-16");
  if (n.bytes >= 256 && !is_text(n) && is_float32(windows))
    return text("looks like floating-point numbers of 32 bits, ", tokens, ": write whole numbers of 8, 16 or 32 bits");
  if (const std::size_t width = padded_width(n, bits); width == 8)
    return text("looks like 64-bit numbers, ", tokens, ": write them with 8, 16 or 32 bits");
  else if (width != 0)
    return text("looks like ", 8 * width, "-bit numbers, ", tokens, ": --token-bits ", 8 * width, " reads those");
  if (bits != 8 && is_big_endian(windows, n, bits, vocabulary))
    return text("looks like big-endian numbers, ", tokens, ": swap their bytes");
  if (bits == 32 && n.bytes >= 256 && share_outside(windows, 4, false, vocabulary) >= 0.5 &&
      share_outside(windows, 2, false, vocabulary) == 0)
    return text("looks like 16-bit numbers, ", tokens, ": --token-bits 16 reads those");
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
