#pragma once
// What a file is instead of what was asked for, told by its first bytes: the pointer that Git LFS leaves in place of a
// file, the HTML page of a failed download, an archive, a model of another format.
//
//   losa::io::refuse_other_content(file.bytes(), file.path(), losa::io::FileContent::safetensors);
//   // FileError "model.safetensors: is a Git LFS pointer, not a safetensors file: run `git lfs pull`"
//
// At most the first 4 KiB are looked at. What may well be what was asked for is never refused.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <losa/core/error.hpp>
#include <losa/io/json_events.hpp>

namespace losa::inline v0 {

namespace io {

/// What a reader wants a file to be. `tokens` are raw numbers of several bytes each; `text` is tokens of one byte,
/// where HTML and JSON are text like any other.
enum class FileContent { safetensors, json, tokens, text };

/// What a file is, and what to do about it.
struct FileKind {
  std::string what;         // "a Git LFS pointer"
  std::string_view advice;  // "run `git lfs pull`"; may be empty
};

}  // namespace io

namespace detail {

/// A signature of two or three bytes may stand at the beginning of raw numbers by chance.
enum class Signature { certain, brief };

struct KnownBytes {
  std::size_t offset;
  std::string_view bytes;
  std::string_view what;
  std::string_view advice;
  Signature signature = Signature::certain;
};

inline constexpr std::string_view unpack_it = "unpack it first";
inline constexpr std::string_view convert_it = "convert it first";
inline constexpr std::string_view download_it = "download the file again";

/// A literal that holds zero bytes.
template <std::size_t size>
constexpr std::string_view literal_bytes(const char (&literal)[size]) {
  return {literal, size - 1};
}

inline constexpr std::array known_bytes = {
    KnownBytes{0, "GGUF", "a GGUF model", convert_it},
    KnownBytes{0, "lmgg", "a GGML model", convert_it},
    KnownBytes{0, "fmgg", "a GGML model", convert_it},
    KnownBytes{0, "tjgg", "a GGML model", convert_it},
    KnownBytes{0, "\x89HDF\r\n\x1a\n", "an HDF5 file", convert_it},
    KnownBytes{0, "\x93NUMPY", "a NumPy array (.npy)", "write its values without a header"},
    KnownBytes{0, "\x80\x02\x8a\nl\xfc\x9c\x46\xf9 j\xa8P\x19", "a PyTorch checkpoint of the old form", convert_it},
    KnownBytes{0, "\x80\x04\x95", "a Python pickle", convert_it},
    KnownBytes{0, "\x80\x05\x95", "a Python pickle", convert_it},
    KnownBytes{0, "\x80\x02", "a Python pickle", convert_it, Signature::brief},
    KnownBytes{0, "\x80\x03", "a Python pickle", convert_it, Signature::brief},
    KnownBytes{4, "TFL3", "a TensorFlow Lite model", convert_it},
    KnownBytes{0, "PAR1", "a Parquet table", convert_it},
    KnownBytes{0, "ARROW1", "an Arrow table", convert_it},
    KnownBytes{0, "FEA1", "a Feather table", convert_it},
    KnownBytes{0, literal_bytes("SQLite format 3\0"), "an SQLite database", convert_it},
    KnownBytes{0, literal_bytes("MMIDIDX\0\0"), "the index of a Megatron data set", "give the file that it indexes"},
    KnownBytes{0, "%PDF-", "a PDF document", convert_it},
    KnownBytes{0, "\x89PNG\r\n\x1a\n", "a PNG picture", download_it},
    KnownBytes{0, "\x7f\x45LF", "a program or library (ELF)", download_it},
    KnownBytes{0, "PK\x05\x06", "an empty zip archive", download_it},
    KnownBytes{0, "PK\x03\x04", "a zip archive", unpack_it},
    KnownBytes{0, "\x28\xb5\x2f\xfd", "compressed with zstd", unpack_it},
    KnownBytes{0, literal_bytes("\xfd\x37zXZ\0"), "compressed with xz", unpack_it},
    KnownBytes{4, "1AY&SY", "compressed with bzip2", unpack_it},
    KnownBytes{0, "\x04\x22\x4d\x18", "compressed with lz4", unpack_it},
    KnownBytes{0, literal_bytes("\xff\x06\0\0sNaPpY"), "compressed with snappy", unpack_it},
    KnownBytes{0, "LZIP\x01", "compressed with lzip", unpack_it},
    KnownBytes{0, "\x1f\x9d", "compressed with compress", unpack_it, Signature::brief},
    KnownBytes{0, "7z\xbc\xaf\x27\x1c", "a 7z archive", unpack_it},
    KnownBytes{0, "Rar!\x1a\x07", "a rar archive", unpack_it},
    KnownBytes{0, "!<arch>\n", "an ar archive", unpack_it},
    KnownBytes{257, "ustar", "a tar archive", unpack_it},
};

inline bool is_space(char c) noexcept { return c == ' ' || (c >= '\t' && c <= '\r'); }

/// UTF-8 without control characters but those of text; it may end inside a character.
inline bool is_printable(std::string_view text) noexcept {
  std::size_t following = 0;  // bytes that the character still needs
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte & 0xc0) == 0x80) {
      if (following-- == 0) return false;
      continue;
    }
    if (following != 0 || byte == 0x7f || byte > 0xf4 || (byte < 0x20 && !is_space(c))) return false;
    following = byte < 0xc0 ? 0 : byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
  }
  return true;
}

inline bool is_letter(char c) noexcept { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

inline bool starts_with_any_case(std::string_view text, std::string_view lower) noexcept {
  return text.size() >= lower.size() && std::equal(lower.begin(), lower.end(), text.begin(), [](char want, char got) {
           return want == (got >= 'A' && got <= 'Z' ? static_cast<char>(got + ('a' - 'A')) : got);
         });
}

/// `text` from its first character that is neither a byte order mark nor white space.
inline std::string_view skip_blank(std::string_view text) noexcept {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  return text;
}

/// A small text file that stands for another file; `size` is that of the whole file.
inline std::optional<io::FileKind> find_pointer(std::string_view head, std::size_t size) {
  constexpr std::size_t most = 32768;  // of git-annex; a pointer of Git LFS is shorter than 1024 bytes
  const std::string_view rest = skip_blank(head);
  const std::string_view line = rest.substr(0, rest.find_first_of("\r\n"));
  const io::FileKind link{"the text of a symbolic link", "copy the file that the link leads to"};
  if (line == "XSym" || line.starts_with("!<symlink>")) return link;  // of SMB, of Cygwin
  if (size > most || line.empty() || !is_printable(line)) return std::nullopt;
  for (const char* first : {"version https://git-lfs.github.com/spec/", "version https://hawser.github.com/spec/",
                            "version http://git-media.io/v/", "# git-media"})
    if (line.starts_with(first)) return io::FileKind{"a Git LFS pointer", "run `git lfs pull`"};
  if (line.starts_with("# xet version")) return io::FileKind{"a Xet pointer", "download the file that it stands for"};
  const bool from_annex = line.starts_with('/') || line.starts_with('.');
  if (from_annex && (line.find("annex/objects/") != line.npos || line.find("annex\\objects\\") != line.npos))
    return io::FileKind{"a git-annex pointer", "run `git annex get`"};
  if (line.starts_with("../") && line.find_first_of(" <>\"") == line.npos && size <= line.size() + 2) return link;
  return std::nullopt;
}

/// Archives, compressed files, models and tables of other formats.
inline std::optional<io::FileKind> find_format(std::string_view head, bool brief_too) {
  if (head.size() >= 10 && head.starts_with("\x1f\x8b\x08") && static_cast<unsigned char>(head[3]) < 0x20)
    return io::FileKind{"compressed with gzip", unpack_it};
  for (const KnownBytes& known : known_bytes) {
    if (known.signature == Signature::brief && !brief_too) continue;
    if (head.size() < known.offset || !head.substr(known.offset).starts_with(known.bytes)) continue;
    if (known.bytes == "1AY&SY" && !head.starts_with("BZh")) continue;
    if (known.bytes == "PK\x03\x04") {  // the name of its first entry tells whose archive it is
      const std::string_view entry = head.substr(0, 200);
      if (entry.find("/data.pkl") != entry.npos) return io::FileKind{"a PyTorch checkpoint", convert_it};
      if (entry.find(".npy") != entry.npos) return io::FileKind{"a NumPy archive (.npz)", convert_it};
    }
    return io::FileKind{std::string(known.what), known.advice};
  }
  // The first fields of an ONNX file: ir_version, then producer_name.
  if (brief_too && head.size() > 8 && head[0] == 8 && head[1] > 2 && head[1] < 32 && head[2] == 0x12 && head[3] > 3 &&
      head[3] < 64 && is_printable(head.substr(4, 4)))
    return io::FileKind{"an ONNX model", convert_it};
  return std::nullopt;
}

/// Text: HTML, XML, JSON and any other; `any` = also where nothing tells which.
inline std::optional<io::FileKind> find_text(std::string_view head, bool any) {
  const bool little = head.starts_with("\xff\xfe"), big = head.starts_with("\xfe\xff");
  if ((little && head.size() > 3 && head[3] == 0) || (big && head.size() > 3 && head[2] == 0))
    return io::FileKind{"text in UTF-16", "save it in UTF-8"};
  const std::string_view text_of_it = skip_blank(head).substr(0, 64);
  if (text_of_it.size() < 2 || !is_printable(text_of_it)) return std::nullopt;
  for (const char* tag : {"<!doctype html", "<html", "<head", "<body", "<title", "<meta", "<script"})
    if (starts_with_any_case(text_of_it, tag))
      return io::FileKind{"an HTML page, of a login or an error perhaps", download_it};
  if (text_of_it[0] == '<' && (is_letter(text_of_it[1]) || text_of_it[1] == '?' || text_of_it[1] == '!'))
    return io::FileKind{"XML or HTML, of an error perhaps", download_it};
  std::string quoted(text_of_it.substr(0, text_of_it.find_first_of("\r\n")));
  for (char& c : quoted)
    if (static_cast<unsigned char>(c) > 0x7e) c = '?';  // a character may have been cut
  quoted = text("(", quote_name(quoted), ")");
  if (text_of_it[0] == '{' || text_of_it[0] == '[') return io::FileKind{"JSON " + quoted, download_it};
  if (any) return io::FileKind{"text " + quoted, ""};
  return std::nullopt;
}

/// A length that a header may have, and a header that begins as one.
inline bool may_be_safetensors(std::string_view head) noexcept {
  std::uint64_t length = 0;
  if (head.size() < 10) return false;
  std::memcpy(&length, head.data(), 8);
  return length > 1 && length <= 100'000'000 && (head[8] == '{' || is_space(head[8]));
}

/// After white space a value of JSON begins here.
inline bool may_be_json(std::string_view text) noexcept {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  return text.empty() || std::string_view("{[\"-0123456789").find(text.front()) != text.npos ||
         text.starts_with("true") || text.starts_with("false") || text.starts_with("null");
}

}  // namespace detail

namespace io {

/// What the first bytes of a file show it to be, if that is not `expected`.
inline std::optional<FileKind> find_other_content(std::span<const std::byte> bytes, FileContent expected) {
  const std::string_view head(reinterpret_cast<const char*>(bytes.data()), std::min<std::size_t>(bytes.size(), 4096));
  const bool numbers = expected == FileContent::tokens || expected == FileContent::text;
  if (detail::may_be_safetensors(head)) {
    if (expected == FileContent::safetensors) return std::nullopt;
    if (head.find("\"dtype\"") != head.npos || head.find("\"__metadata__\"") != head.npos)
      return FileKind{"a safetensors file", ""};
  }
  if (auto pointer = detail::find_pointer(head, bytes.size())) return pointer;
  // A text may begin with the letters of a signature; it goes on as text.
  const bool is_text = expected == FileContent::text && detail::is_printable(head.substr(0, 64));
  if (auto format = is_text ? std::nullopt : detail::find_format(head, !numbers)) return format;
  if (expected == FileContent::text) return std::nullopt;
  if (expected == FileContent::json && detail::may_be_json(head)) return std::nullopt;
  if (expected == FileContent::json && head.starts_with("\xef\xbb\xbf") && detail::may_be_json(head.substr(3)))
    return FileKind{"text behind a UTF-8 byte order mark", "save it without the mark"};
  if (auto text = detail::find_text(head, !numbers && (expected == FileContent::json || head.size() >= 8))) {
    if (expected == FileContent::tokens) text->advice = "turn it into token ids first";
    return text;
  }
  const auto zero = [](char c) { return c == 0; };
  if (!numbers && head.size() > 8 && std::all_of(head.begin(), head.end(), zero))
    return FileKind{"zeros from its beginning, as a download leaves that was never filled", detail::download_it};
  return std::nullopt;
}

/// Throws FileError, one sentence that says what the file is and what to do, where its first bytes show that it is not
/// `expected`; `path` opens the sentence. An empty file shows nothing.
inline void refuse_other_content(std::span<const std::byte> bytes, std::string_view path, FileContent expected) {
  const auto other = find_other_content(bytes, expected);
  if (!other) return;
  detail::raise<FileError>(path, ": is ", other->what, ", not ",
                           expected == FileContent::safetensors ? "a safetensors file"
                           : expected == FileContent::json      ? "JSON"
                                                                : "a file of tokens",
                           other->advice.empty() ? "" : ": ", other->advice);
}

}  // namespace io
}  // namespace losa::inline v0
