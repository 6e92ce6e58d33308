#pragma once
// Words for what a path or a directory holds where a model was looked for and not found: they close the sentence of an
// error and never raise one of their own.
//
//   losa::detail::kind_in_words("model.gguf");      // "a GGUF model: convert it first"
//   losa::detail::largest_file_in_words("folder");  // "; its largest file is \"pytorch_model.bin\", a PyTorch
//   checkpoint: …"

#include <cstdint>
#include <filesystem>
#include <string>
#include <system_error>

#include <losa/core/error.hpp>
#include <losa/io/file_kind.hpp>
#include <losa/io/json_events.hpp>
#include <losa/io/mapped_file.hpp>

namespace losa::inline v0::detail {

/// What a file is and what to do about it, as in FileKind; empty where its first bytes do not tell.
inline std::string kind_in_words(const std::filesystem::path& path) {
  try {
    const io::MappedFile file(path.string());
    const auto kind = io::find_other_content(file.bytes(), io::FileContent::json);
    if (!kind) return {};
    return text(kind->what, kind->advice.empty() ? "" : ": ", kind->advice);
  } catch (const Error&) {
    return {};
  }
}

/// "; its largest file is NAME, KIND", or empty where there is no file.
inline std::string largest_file_in_words(const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::path largest;
  std::uintmax_t most = 0;
  std::filesystem::directory_iterator entries(directory, error);
  for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
    std::error_code unreadable;
    if (!entries->is_regular_file(unreadable) || unreadable) continue;
    const std::uintmax_t size = entries->file_size(unreadable);
    // Of equal ones the first name: a directory has no order.
    if (unreadable || size < most || (size == most && !largest.empty() && largest < entries->path())) continue;
    most = size;
    largest = entries->path();
  }
  if (largest.empty()) return {};
  const std::string kind = kind_in_words(largest);
  return text("; its largest file is ", quote_name(largest.filename().string()), kind.empty() ? "" : ", ", kind);
}

/// Throws FileError if `path` is no directory; says what the file is that lies there, and which directory is meant.
inline void expect_directory(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return;
  const std::string kind = kind_in_words(path);
  const bool beside_config = std::filesystem::exists(path.parent_path() / "config.json", error);
  raise<FileError>(
      path.string(), ": is not a directory", kind.empty() ? "" : " but ", kind,
      beside_config && std::filesystem::is_regular_file(path, error) ? "; give the directory that holds it" : "");
}

}  // namespace losa::inline v0::detail
