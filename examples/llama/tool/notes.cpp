#include "notes.hpp"

#include <cstddef>
#include <cstdio>

namespace tool {

namespace {

/// put(c) for every byte of the message, spaces for those that steer a terminal.
template <class Put>
void for_each_plain(std::string_view message, Put&& put) {
  for (std::size_t i = 0; i < message.size(); ++i) {
    const auto c = static_cast<unsigned char>(message[i]);
    // U+0080 to U+009F, which UTF-8 writes as C2 80 to C2 9F, steer as bytes below the space do.
    if (c == 0xc2 && i + 1 < message.size() && static_cast<unsigned char>(message[i + 1]) < 0xa0) {
      put(' ');
      put(' ');
      ++i;
    } else {
      put(c < ' ' || c == 127 ? ' ' : message[i]);
    }
  }
}

}  // namespace

std::string one_line(std::string_view message) {
  std::string line;
  for_each_plain(message, [&](char c) { line += c; });
  return line;
}

void tell(std::string_view prefix, std::string_view message) noexcept {
  char line[1024];
  std::size_t n = 0;
  const auto put = [&](char c) {
    if (n == sizeof line) {
      std::fwrite(line, 1, n, stderr);
      n = 0;
    }
    line[n++] = c;
  };
  for (const char c : prefix) put(c);
  for_each_plain(message, put);
  put('\n');
  std::fwrite(line, 1, n, stderr);
}

void note(std::string_view message) noexcept { tell("losa-llama: note: ", message); }

}  // namespace tool
