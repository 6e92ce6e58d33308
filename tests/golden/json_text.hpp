#pragma once
// The text of a JSON file, looked at byte by byte, because a parser forgives: it rounds a 17th digit away, takes 1E5
// for 1e5, and keeps the last of two equal keys. Here every number must be written as Python writes it (the shortest
// digits that give the value back), and keys are counted.

#include <charconv>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

namespace golden {

/// repr(float) of Python: shortest digits; exponent form below 1e-4 and from 1e16.
inline std::string python_repr(double value) {
  char buffer[64];
  const char* end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  const std::string_view text(buffer, static_cast<std::size_t>(end - buffer));
  const std::size_t e = text.find('e');
  int exponent = 0;
  std::from_chars(text.data() + e + (text[e + 1] == '+' ? 2 : 1), text.data() + text.size(), exponent);
  if (exponent < -4 || exponent >= 16) return std::string(text);
  char fixed[64];
  const char* fixed_end = std::to_chars(fixed, fixed + sizeof fixed, value, std::chars_format::fixed).ptr;
  std::string result(fixed, static_cast<std::size_t>(fixed_end - fixed));
  return result.find('.') == std::string::npos ? result + ".0" : result;
}

struct JsonText {
  std::string compact;   // without white space between the tokens
  std::size_t keys = 0;  // colons outside strings
};

/// Throws std::runtime_error at a number that is not in its shortest form.
inline JsonText scan_json(std::string_view text) {
  JsonText result;
  result.compact.reserve(text.size());
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      result.compact += c;
      if (c == '\\' && i + 1 < text.size()) result.compact += text[++i];
      in_string = c != '"';
      continue;
    }
    if (c == ' ' || c == '\n' || c == '\r' || c == '\t') continue;
    if (c == '-' || (c >= '0' && c <= '9')) {
      const std::size_t end = text.find_first_of(",]} \n\r\t", i);
      const std::string_view number = text.substr(i, end == std::string_view::npos ? end : end - i);
      double value = 0;
      const auto parsed = std::from_chars(number.data(), number.data() + number.size(), value);
      const bool whole = number.find_first_not_of("-0123456789") == std::string_view::npos;
      const std::string expected = whole ? std::to_string(static_cast<long long>(value)) : python_repr(value);
      if (parsed.ec != std::errc{} || number != expected)
        throw std::runtime_error("number " + std::string(number) + " at byte " + std::to_string(i) +
                                 " is not in its shortest form");
      result.compact += number;
      i += number.size() - 1;
      continue;
    }
    in_string = c == '"';
    result.keys += c == ':';
    result.compact += c;
  }
  return result;
}

}  // namespace golden
