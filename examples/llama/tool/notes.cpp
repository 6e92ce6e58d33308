#include "notes.hpp"

#include <cstdio>

namespace tool {

std::string one_line(std::string message) {
  for (std::size_t i = 0; i < message.size(); ++i) {
    const auto c = static_cast<unsigned char>(message[i]);
    // U+0080 to U+009F, which UTF-8 writes as C2 80 to C2 9F, steer as bytes below the space do.
    if (c == 0xc2 && i + 1 < message.size() && static_cast<unsigned char>(message[i + 1]) < 0xa0)
      message[i] = message[i + 1] = ' ';
    if (c < ' ' || c == 127) message[i] = ' ';
  }
  return message;
}

void note(const std::string& message) { std::fprintf(stderr, "losa-llama: note: %s\n", one_line(message).c_str()); }

}  // namespace tool
