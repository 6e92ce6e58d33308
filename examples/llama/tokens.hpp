#pragma once
// Token files: raw little-endian integers of 8, 16 or 32 bits, one per token. For a byte-level model that is plain
// text.
//
//   auto tokens = llama::read_tokens("train.txt", config.vocabulary);
//   auto row = llama::spread_window(tokens, 64, i, 256);       // sequence i of 64, spread evenly

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <losa/core/error.hpp>
#include <span>
#include <vector>

namespace llama {

using Token = std::uint32_t;

/// Bits per token where none are given: 8 up to a vocabulary of 256, 16 up to 65,536, else 32.
constexpr std::size_t default_token_bits(std::size_t vocabulary) {
  return vocabulary <= 256 ? 8 : vocabulary <= 65536 ? 16 : 32;
}

/// Reads a whole token file; bits = 0 means default_token_bits(vocabulary).
/// Throws losa::FileError (unreadable, empty, a size that is no whole number of tokens), losa::RangeError (bits that
/// are not 0, 8, 16 or 32; an id outside the vocabulary, with its position).
std::vector<Token> read_tokens(const std::filesystem::path& path, std::size_t vocabulary, std::size_t bits = 0);

/// The window of `context` tokens of sequence i of n, which starts at token i·⌊tokens/n⌋.
/// Throws losa::RangeError unless i < n and the window lies inside the tokens.
inline std::span<const Token> spread_window(std::span<const Token> tokens, std::size_t n, std::size_t i,
                                            std::size_t context) {
  if (i >= n) losa::detail::raise<losa::RangeError>("spread_window: sequence ", i, " of ", n);
  const std::size_t start = i * (tokens.size() / n);
  if (context > tokens.size() || start > tokens.size() - context)
    losa::detail::raise<losa::RangeError>("spread_window: ", n, " sequences of ", context, " tokens do not fit into ",
                                          tokens.size(), " tokens");
  return tokens.subspan(start, context);
}

}  // namespace llama
