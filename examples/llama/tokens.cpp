#include "tokens.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <losa/io/file_services.hpp>
#include <losa/io/mapped_file.hpp>
#include <string>

#include "token_kind.hpp"

namespace llama {

using losa::detail::raise;

namespace {

/// A pipe to its end. Nobody knows how long its writer takes: `waiting` is asked before each wait.
std::vector<std::byte> read_pipe(const std::string& path, const std::function<void()>& waiting) {
  const auto waited = [&](auto&& call) {
    for (;;) {
      if (waiting) waiting();
      const auto result = call();
      if (result != -1 || errno != EINTR) return result;
    }
  };
  const losa::detail::FileHandle file(waited([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); }));
  if (!file) raise<losa::FileError>(path, ": cannot open for reading: ", losa::detail::errno_text(errno));
  std::vector<std::byte> bytes;
  for (std::size_t room = std::size_t{1} << 16;; room = bytes.size()) {
    const std::size_t had = bytes.size();
    bytes.resize(had + room);
    std::size_t filled = had;
    while (filled < bytes.size()) {
      const ssize_t n = waited([&] { return ::read(file.get(), bytes.data() + filled, bytes.size() - filled); });
      if (n < 0) raise<losa::FileError>(path, ": cannot be read: ", losa::detail::errno_text(errno));
      filled += static_cast<std::size_t>(n);
      if (n != 0) continue;
      bytes.resize(filled);
      return bytes;
    }
  }
}

template <class Stored>
void widen(std::span<const std::byte> bytes, std::span<Token> out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    Stored id = 0;  // little-endian, as the machine is
    std::memcpy(&id, bytes.data() + i * sizeof id, sizeof id);
    out[i] = id;
  }
}

}  // namespace

struct Tokens::Source {
  std::vector<Token> ids;  // of tokens in memory

  losa::io::MappedFile file;
  std::vector<std::byte> pipe;  // of one, in its place
  std::string path;             // of either
  std::size_t width = 0;        // bytes per token; 0 without a file
  std::size_t vocabulary = 0;   // of a file

  std::span<const std::byte> bytes() const { return pipe.empty() ? file.bytes() : std::span<const std::byte>(pipe); }

  /// Pages that were read leave the memory, and with them those that the system has mapped around them.
  void release(std::size_t begin, std::size_t end) const {
    constexpr std::size_t around = std::size_t{1} << 16;
    if (!pipe.empty()) return;
    begin = begin / around * around;
    end = std::min((end + around - 1) / around * around, file.size());
    losa::io::release_pages(file.bytes().subspan(begin, end - begin));
  }
};

Tokens::Tokens(std::vector<Token> ids) : size_(ids.size()) {
  auto source = std::make_shared<Source>();
  source->ids = std::move(ids);
  source_ = std::move(source);
}
Tokens::Tokens(std::span<const Token> ids) : Tokens(std::vector<Token>(ids.begin(), ids.end())) {}

Tokens Tokens::part(std::size_t first, std::size_t count) const {
  if (first > size_ || count > size_ - first)
    raise<losa::RangeError>("Tokens: part [", first, ", ", first, " + ", count, ") of ", size_, " tokens");
  Tokens some = *this;
  some.begin_ += first;
  some.size_ = count;
  return some;
}

void Tokens::read(std::size_t first, std::span<Token> out) const {
  if (first > size_ || out.size() > size_ - first)
    raise<losa::RangeError>("Tokens: asked for tokens [", first, ", ", first, " + ", out.size(), ") of ", size_);
  if (out.empty()) return;
  const std::size_t at = begin_ + first;
  if (source_->width == 0) {
    std::copy_n(source_->ids.begin() + static_cast<std::ptrdiff_t>(at), out.size(), out.begin());
    return;
  }
  const std::size_t width = source_->width;
  const auto bytes = source_->bytes().subspan(at * width, out.size() * width);
  if (width == 1) widen<std::uint8_t>(bytes, out);
  if (width == 2) widen<std::uint16_t>(bytes, out);
  if (width == 4) widen<std::uint32_t>(bytes, out);
  source_->release(at * width, (at + out.size()) * width);
  check_piece(first, out, source_->vocabulary);
}

std::vector<Token> Tokens::read(std::size_t first, std::size_t count) const {
  std::vector<Token> ids(count);
  read(first, ids);
  return ids;
}

void Tokens::check_piece(std::size_t first, std::span<const Token> ids, std::size_t vocabulary) const {
  const auto wrong = std::ranges::find_if(ids, [&](Token id) { return id >= vocabulary; });
  if (wrong == ids.end()) return;
  const std::size_t at = begin_ + first + static_cast<std::size_t>(wrong - ids.begin());
  raise<losa::RangeError>(source_->path, source_->path.empty() ? "" : ": ", "token ", at, " is ", *wrong,
                          ", outside the vocabulary of ", vocabulary);
}

void Tokens::check(std::size_t vocabulary) const {
  std::size_t at = 0;
  for_each_piece([&](std::span<const Token> ids) {
    check_piece(at, ids, vocabulary);
    at += ids.size();
  });
}

Tokens open_tokens(const std::filesystem::path& path, std::size_t vocabulary, std::size_t bits,
                   const std::function<void()>& waiting) {
  const bool given = bits != 0;
  if (!given) bits = default_token_bits(vocabulary);
  if (bits != 8 && bits != 16 && bits != 32)
    raise<losa::RangeError>("open_tokens: token bits must be 8, 16 or 32, got ", bits);
  if (path.empty()) raise<losa::FileError>("the name of the token file is empty");
  auto source = std::make_shared<Tokens::Source>();
  source->width = bits / 8;
  source->vocabulary = vocabulary;
  source->path = path.string();
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0 && (S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode)))
    source->pipe = read_pipe(path.string(), waiting);
  else
    source->file = losa::io::MappedFile(path.string());
  const std::span<const std::byte> bytes = source->bytes();
  if (bytes.empty()) raise<losa::FileError>(path.string(), ": holds no tokens");
  const std::string kind = given ? std::string() : what_else(bytes, bits, vocabulary);
  if (bytes.size() % source->width != 0)
    raise<losa::FileError>(path.string(), ": ", bytes.size(), " bytes are no whole number of ", bits, "-bit tokens",
                           kind.empty() ? "" : "; the file ", kind);
  if (!kind.empty())
    raise<losa::FileError>(path.string(), ": ", kind, "; --token-bits ", bits, " reads it as tokens all the same");
  source->release(0, bytes.size());
  Tokens tokens;
  tokens.size_ = bytes.size() / source->width;
  tokens.source_ = std::move(source);
  return tokens;
}

std::vector<Token> read_tokens(const std::filesystem::path& path, std::size_t vocabulary, std::size_t bits) {
  const Tokens tokens = open_tokens(path, vocabulary, bits);
  return tokens.read(0, tokens.size());
}

}  // namespace llama
