#include "token_kind.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "toy_model.hpp"

using llama::what_else;

namespace {

std::string told(std::string_view bytes, std::size_t bits = 16, std::size_t vocabulary = 32'000) {
  return what_else(std::as_bytes(std::span(bytes)), bits, vocabulary);
}
bool looks_like(std::string_view what, std::string_view bytes, std::size_t bits = 16, std::size_t vocabulary = 32'000) {
  const std::string kind = told(bytes, bits, vocabulary);
  const bool found = kind.starts_with("looks like " + std::string(what));
  if (!found) MESSAGE("told: ", kind);
  return found;
}

template <class Number>
std::string stored(const std::vector<std::uint64_t>& ids, bool swapped = false) {
  std::string out;
  for (std::uint64_t id : ids)
    for (std::size_t b = 0; b < sizeof(Number); ++b)
      out += static_cast<char>(id >> (8 * (swapped ? sizeof(Number) - 1 - b : b)) & 0xff);
  return out;
}

/// Ids as tokenisers give them: the n-th is drawn about as often as 1/n, or all alike.
std::vector<std::uint64_t> ids(std::size_t n, std::size_t vocabulary, bool even, std::size_t lowest = 0,
                               std::uint64_t seed = 1) {
  std::vector<std::uint64_t> out(n);
  const auto range = static_cast<double>(vocabulary - lowest);
  for (std::size_t i = 0; i < n; ++i) {
    const double u = losa::Random{.seed = seed}.uniform(i);
    out[i] =
        lowest + std::min(static_cast<std::size_t>(even ? u * range : std::pow(range, u) - 1), vocabulary - lowest - 1);
  }
  return out;
}

std::string repeated(std::string_view part, std::size_t bytes) {
  std::string out;
  while (out.size() < bytes) out += part;
  out.resize(bytes / part.size() * part.size());
  return out;
}

std::string utf16(std::u16string_view text, bool big, bool mark) {
  std::string out = !mark ? "" : big ? "\xfe\xff" : "\xff\xfe";
  for (char16_t c : text) {
    const char low = static_cast<char>(c & 0xff), high = static_cast<char>(c >> 8);
    out += big ? high : low;
    out += big ? low : high;
  }
  return out;
}
std::u16string repeated16(std::u16string_view part, std::size_t n) {
  std::u16string out;
  while (out.size() < n) out += part;
  return out;
}

const std::string_view english = "She had been there, twice; \"no\", she said.\r\nAnd then? 1984.\n\t";
const std::string_view russian = "Все счастливые семьи похожи друг на друга.\n";
const std::string_view chinese = "天地玄黃，宇宙洪荒。日月盈昃，辰宿列張。\n";
const std::string_view emoji = "\U0001F600\U0001F680 ok \U0001F44D\n";

}  // namespace

TEST_CASE("token kind: files of ids are never mistaken") {
  for (std::size_t vocabulary : {257u, 300u, 1000u, 5000u, 32'000u, 49'152u, 50'257u, 65'535u, 65'536u})
    for (std::size_t n : {1u, 2u, 3u, 8u, 16u, 20u, 64u, 300u, 5000u, 200'000u})
      for (std::uint64_t seed : {1u, 2u, 3u, 4u, 5u})
        for (bool even : {false, true}) {
          CAPTURE(vocabulary);
          CAPTURE(n);
          CHECK(told(stored<std::uint16_t>(ids(n, vocabulary, even, 0, seed)), 16, vocabulary) == "");
        }
  for (std::size_t vocabulary : {65'537u, 128'256u, 256'000u, 1'000'000u})
    for (std::size_t n : {1u, 16u, 300u, 5000u, 100'000u})
      for (bool even : {false, true})
        CHECK(told(stored<std::uint32_t>(ids(n, vocabulary, even)), 32, vocabulary) == "");
  // Where all ids are large, as those of one script in a vocabulary that was enlarged for it, or of pictures.
  for (std::size_t lowest : {8'192u, 16'000u, 32'000u, 40'000u})
    for (std::size_t n : {16u, 64u, 300u, 5000u, 100'000u})
      CHECK(told(stored<std::uint16_t>(ids(n, 49'953, true, lowest)), 16, 49'953) == "");
  // Few different ids.
  for (std::uint64_t id : {0u, 1u, 2u, 256u, 31'999u})
    CHECK(told(stored<std::uint16_t>(std::vector<std::uint64_t>(3000, id))) == "");
  // Bytes of a model that numbers them, stored in 16 bits each.
  std::vector<std::uint64_t> letters;
  for (char c : repeated(english, 4000)) letters.push_back(static_cast<unsigned char>(c));
  CHECK(told(stored<std::uint16_t>(letters), 16, 260) == "");
  // For bytes, anything that is no number.
  for (std::string_view text : {english, russian, chinese, emoji}) CHECK(told(repeated(text, 20'000), 8, 256) == "");
  CHECK(told(stored<std::uint8_t>(ids(20'000, 256, true)), 8, 256) == "");
  CHECK(told(stored<std::uint8_t>(ids(20'000, 200, false)), 8, 200) == "");
  CHECK(told(std::string(5000, '\0'), 8, 256) == "");
  CHECK(told("GGUF is a format; PAR1 another. ", 8, 256) == "");
}

TEST_CASE("token kind: text in any script and encoding that keeps ASCII, short and long, is told from ids") {
  for (std::string_view text : {english, russian, chinese, emoji})
    for (std::size_t bytes : {100u, 1000u, 20'000u, 300'000u})
      for (std::size_t bits : {16u, 32u}) {
        CAPTURE(text);
        CHECK(looks_like("text", repeated(text, bytes), bits, bits == 16 ? 32'000 : 128'256));
        CHECK(looks_like("text", "\xef\xbb\xbf" + repeated(text, bytes), bits, bits == 16 ? 65'536 : 128'256));
      }
  CHECK(looks_like("text", "a,b\r\n1,2\r\n3,4\r\n5,6\r\n7,8\r\n9,0\r\n1,1\r\n"));
  CHECK(looks_like("text", repeated("{\"text\": \"It was a dark night.\"}\n", 5000)));
  CHECK(looks_like("text", "<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>"));
  CHECK(looks_like("text", repeated("Gr\xfc\xdf"
                                    "e aus K\xf6ln, sch\xf6n war's gestern; 7 Tage. ",
                                    5000)));  // Latin-1
  CHECK(looks_like(
      "text",
      repeated("\xcc\xec\xb5\xd8\xd0\xfe\xbb\xc6\xa3\xac\xd3\xee\xd6\xe6\xba\xe9\xbb\xc4\xa1\xa3\xc8\xd5\xd4\xc2\n",
               5000)));  // GBK
  CHECK(looks_like("text", repeated("A line with \x1b[1mcolours\x1b[0m in it.\n", 5000)));
  std::string damaged = repeated(english, 50'000);
  for (std::size_t i = 0; i < damaged.size(); i += 1000) damaged[i] = '\0';
  CHECK(looks_like("text", damaged));
  CHECK(looks_like("text", "abc"));  // no whole number of tokens: refused anyway
  CHECK(told("abcd") == "");         // two tokens of a prompt
  CHECK(told(repeated(english, 3000)).find("text.py encode") != std::string::npos);
}

TEST_CASE("token kind: UTF-16 and UTF-32") {
  const std::u16string_view texts[] = {
      u"She had been there, twice.\r\n", u"Все счастливые семьи похожи друг на друга.\r\n",
      u"天地玄黃，宇宙洪荒。日月盈昃，辰宿列張。\r\n", u"Ça été déjà vu à l'étage où naît l'été.\r\n"};
  for (std::u16string_view text : texts)
    for (bool big : {false, true})
      for (bool mark : {true, false})
        for (std::size_t bits : {8u, 16u, 32u}) {
          CAPTURE(big);
          CAPTURE(mark);
          CAPTURE(bits);
          const std::size_t vocabulary = bits == 8 ? 256 : bits == 16 ? 65'536 : 128'256;
          const std::u16string long_text = repeated16(text, 3000);
          CHECK(looks_like("UTF-16 text", utf16(long_text, big, mark), bits, vocabulary));
          std::vector<std::uint64_t> points(mark ? 1 : 0, 0xfeff);
          points.insert(points.end(), long_text.begin(), long_text.end());
          CHECK(looks_like("UTF-32 text", stored<std::uint32_t>(points, big), bits, vocabulary));
        }
}

TEST_CASE("token kind: text with one byte for a letter, of few letters") {
  for (std::string_view text :
       {"\xcf\xf0\xe8\xe2\xe5\xf2 \xea\xe0\xea \xe4\xe5\xeb\xe0 \xf3 \xf2\xe5\xe1\xff? ",  // Windows-1251
        "\xc7"
        "a \xe9t\xe9 d\xe9j\xe0 vu \xe0 l'\xe9tage. "})  // Latin-1
    for (std::size_t bytes : {100u, 1000u, 20'000u})
      for (std::size_t bits : {16u, 32u}) {
        const std::string long_text = repeated(text, bytes);
        CHECK(looks_like("text", long_text.substr(0, long_text.size() / 4 * 4), bits, bits == 16 ? 32'000 : 128'256));
      }
}

TEST_CASE("token kind: floating-point numbers") {
  std::string of_ids, normal, doubles;
  for (std::uint64_t id : ids(5000, 32'000, false)) {
    const auto whole = static_cast<float>(id);
    const double drawn = losa::Random{.seed = 3}.normal(of_ids.size());
    const auto single = static_cast<float>(drawn);
    of_ids.append(reinterpret_cast<const char*>(&whole), 4);
    normal.append(reinterpret_cast<const char*>(&single), 4);
    doubles.append(reinterpret_cast<const char*>(&drawn), 8);
  }
  for (std::size_t bits : {8u, 16u, 32u}) {
    CAPTURE(bits);
    const std::size_t vocabulary = bits == 8 ? 256 : bits == 16 ? 32'000 : 128'256;
    CHECK(looks_like("floating-point numbers of 32 bits", of_ids, bits, vocabulary));
    CHECK(looks_like("floating-point numbers of 32 bits", normal, bits, vocabulary));
    CHECK(looks_like("floating-point numbers of 64 bits", doubles, bits, vocabulary));
  }
  // Ids that would be such numbers two by two.
  for (std::size_t n : {16u, 300u, 5000u})
    CHECK(told(stored<std::uint16_t>(ids(n, 19'646, true, 13'702)), 16, 32'000) == "");
}

TEST_CASE("token kind: no advice to read as numbers what is none") {
  // Shift-JIS without spaces, of few characters: nothing is known of it but that no ids are so.
  const std::string kana = repeated("\x82\xb1\x82\xea\x82\xcd\x83\x65\x83\x58\x83\x67", 6000);
  CHECK(told(kana, 32, 128'256).find("--token-bits") == std::string::npos);
}

TEST_CASE("token kind: numbers of another width or byte order") {
  for (bool even : {false, true}) {
    const auto some = ids(5000, 32'000, even), many = ids(5000, 128'256, even), few = ids(5000, 256, even);
    CHECK(looks_like("32-bit numbers", stored<std::uint32_t>(some)));
    CHECK(looks_like("64-bit numbers", stored<std::uint64_t>(some)));
    CHECK(looks_like("64-bit numbers", stored<std::uint64_t>(many), 32, 128'256));
    CHECK(looks_like("16-bit numbers", stored<std::uint16_t>(some), 32, 128'256));
    CHECK(looks_like("big-endian numbers", stored<std::uint16_t>(some, true)));
    CHECK(looks_like("big-endian numbers", stored<std::uint32_t>(many, true), 32, 128'256));
    CHECK(looks_like("16-bit numbers", stored<std::uint16_t>(few), 8, 256));
    CHECK(looks_like("32-bit numbers", stored<std::uint32_t>(few), 8, 256));
    CHECK(looks_like("64-bit numbers", stored<std::uint64_t>(few), 8, 256));
  }
  CHECK(looks_like("16-bit numbers", stored<std::uint16_t>(ids(5000, 32'000, false)), 8, 256));
  CHECK(looks_like("big-endian numbers", stored<std::uint16_t>(ids(5000, 50'257, false), true), 16, 65'536));
  CHECK(told(stored<std::uint32_t>(ids(5000, 32'000, true))).find("--token-bits 32 reads those") != std::string::npos);
}

TEST_CASE("token kind: formats that their first bytes name") {
  using namespace std::string_view_literals;
  const std::string rest = stored<std::uint16_t>(ids(3000, 32'000, false));
  for (std::size_t bits : {8u, 16u, 32u})
    for (const auto& [name, head] :
         {std::pair("a NumPy"sv, "\x93NUMPY\1\0v\0"sv), std::pair("a zip"sv, "PK\3\4\x14\0"sv),
          std::pair("a gzip"sv, "\x1f\x8b\x08\0"sv), std::pair("a zstd"sv, "\x28\xb5\x2f\xfd"sv),
          std::pair("an xz"sv,
                    "\xfd"
                    "7zXZ\0"sv),
          std::pair("a bzip2"sv, "BZh91AY&SY"sv), std::pair("a GGUF"sv, "GGUF\3\0\0\0"sv),
          std::pair("an Arrow"sv, "ARROW1\0\0"sv), std::pair("a safetensors"sv, "\x60\1\0\0\0\0\0\0{\"a\""sv),
          std::pair("a Megatron index"sv, "MMIDIDX\0\0"sv)}) {
      CHECK(looks_like(name, std::string(head) + rest, bits, bits == 8 ? 256 : bits == 16 ? 65'536 : 128'256));
    }
  CHECK(looks_like("a Parquet", "PAR1" + rest + "PAR1"));
  CHECK(looks_like("a Python pickle", "\x80\x04\x95" + rest + "."));
}
