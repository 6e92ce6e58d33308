#pragma once
// Token files: raw little-endian integers of 8, 16 or 32 bits, one per token. For a byte-level model that is plain
// text. A file stays on the disk: what is asked for is read, and nothing else takes memory.
//
//   llama::Tokens tokens = llama::open_tokens("train.txt", config.vocabulary);
//   std::vector<llama::Token> some = tokens.read(1000, 256);                     // tokens 1000 to 1255
//   std::size_t start = llama::spread_start(tokens.size(), 64, i, 256);          // sequence i of 64, spread evenly

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <losa/core/error.hpp>
#include <memory>
#include <span>
#include <vector>

namespace llama {

using Token = std::uint32_t;

/// Bits per token where none are given: 8 up to a vocabulary of 256, 16 up to 65,536, else 32.
constexpr std::size_t default_token_bits(std::size_t vocabulary) {
  return vocabulary <= 256 ? 8 : vocabulary <= 65536 ? 16 : 32;
}

/// A sequence of token ids, in memory or in a file. Copies and parts share what they come from.
class Tokens {
 public:
  Tokens() = default;
  Tokens(std::vector<Token> ids);
  Tokens(std::span<const Token> ids);

  std::size_t size() const noexcept { return size_; }
  /// Throws losa::RangeError unless the part lies inside.
  Tokens part(std::size_t first, std::size_t count) const;
  /// Tokens `first` and following into `out`. Throws losa::RangeError unless they lie inside, and for an id of a file
  /// that is outside its vocabulary, with the position in the file.
  void read(std::size_t first, std::span<Token> out) const;
  std::vector<Token> read(std::size_t first, std::size_t count) const;
  /// Throws losa::RangeError for the first id outside the vocabulary. Takes no memory that grows with the file.
  void check(std::size_t vocabulary) const;
  /// True if both are the same part of the same file or memory.
  bool same_as(const Tokens& other) const noexcept {
    return source_ == other.source_ && begin_ == other.begin_ && size_ == other.size_;
  }
  /// Calls visit(std::span<const Token>) for all tokens in pieces, in order. Throws as read() does.
  template <class Visit>
  void for_each_piece(Visit&& visit) const {
    constexpr std::size_t most = std::size_t{1} << 16;
    std::vector<Token> piece;
    for (std::size_t at = 0; at < size_; at += piece.size()) {
      piece.resize(size_ - at < most ? size_ - at : most);
      read(at, piece);
      visit(std::span<const Token>(piece));
    }
  }

 private:
  friend Tokens open_tokens(const std::filesystem::path& path, std::size_t vocabulary, std::size_t bits,
                            const std::function<void()>& waiting);
  struct Source;

  void check_piece(std::size_t first, std::span<const Token> ids, std::size_t vocabulary) const;

  std::shared_ptr<const Source> source_;
  std::size_t begin_ = 0;
  std::size_t size_ = 0;
};

/// Opens a token file (or reads a pipe to its end); bits = 0 means default_token_bits(vocabulary), and that the file is
/// looked at in a few places: what is plainly something else is refused. Ids are looked at when they are read.
/// Throws losa::FileError (unreadable, empty, a size that is no whole number of tokens, something else than tokens),
/// losa::RangeError (bits that are not 0, 8, 16 or 32). `waiting` is called before a pipe is waited for, and again
/// whenever a signal interrupts that; it may throw to give the pipe up.
Tokens open_tokens(const std::filesystem::path& path, std::size_t vocabulary, std::size_t bits = 0,
                   const std::function<void()>& waiting = {});

/// All tokens of a small file at once. Throws as open_tokens() and Tokens::read() do.
std::vector<Token> read_tokens(const std::filesystem::path& path, std::size_t vocabulary, std::size_t bits = 0);

/// Where sequence i of n with `context` tokens each starts: at token i·⌊tokens/n⌋.
/// Throws losa::RangeError unless i < n and the sequence lies inside the tokens.
inline std::size_t spread_start(std::size_t tokens, std::size_t n, std::size_t i, std::size_t context) {
  if (i >= n) losa::detail::raise<losa::RangeError>("spread_window: sequence ", i, " of ", n);
  const std::size_t start = i * (tokens / n);
  if (context > tokens || start > tokens - context)
    losa::detail::raise<losa::RangeError>("spread_window: ", n, " sequences of ", context, " tokens do not fit into ",
                                          tokens, " tokens");
  return start;
}
/// … and its tokens.
inline std::span<const Token> spread_window(std::span<const Token> tokens, std::size_t n, std::size_t i,
                                            std::size_t context) {
  return tokens.subspan(spread_start(tokens.size(), n, i, context), context);
}

}  // namespace llama
