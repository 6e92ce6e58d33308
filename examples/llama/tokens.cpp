#include "tokens.hpp"

#include <fstream>
#include <iterator>
#include <string>

namespace llama {

using losa::detail::raise;

std::vector<Token> read_tokens(const std::filesystem::path& path, std::size_t vocabulary, std::size_t bits) {
  if (bits == 0) bits = default_token_bits(vocabulary);
  if (bits != 8 && bits != 16 && bits != 32)
    raise<losa::RangeError>("read_tokens: token bits must be 8, 16 or 32, got ", bits);
  if (path.empty()) raise<losa::FileError>("the name of the token file is empty");
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) raise<losa::FileError>(path.string(), ": is a directory");
  std::ifstream file(path, std::ios::binary);
  if (!file) raise<losa::FileError>(path.string(), ": cannot be opened");
  const std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (file.bad()) raise<losa::FileError>(path.string(), ": cannot be read");
  const std::size_t width = bits / 8;
  if (bytes.empty()) raise<losa::FileError>(path.string(), ": holds no tokens");
  if (bytes.size() % width != 0)
    raise<losa::FileError>(path.string(), ": ", bytes.size(), " bytes are no whole number of ", bits, "-bit tokens");
  std::vector<Token> tokens(bytes.size() / width);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    Token id = 0;
    for (std::size_t b = 0; b < width; ++b) id |= Token{static_cast<unsigned char>(bytes[i * width + b])} << (8 * b);
    if (id >= vocabulary)
      raise<losa::RangeError>(path.string(), ": token ", i, " is ", id, ", outside the vocabulary of ", vocabulary);
    tokens[i] = id;
  }
  return tokens;
}

}  // namespace llama
