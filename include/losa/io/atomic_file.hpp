#pragma once
// A file that appears whole or not at all. Bytes go to a temporary beside the target; commit() flushes them to the
// disk, renames the temporary over the target and flushes the directory. Without commit() the target stays what it was
// and the temporary is removed.
//
// What the file system lacks and no byte hangs on is done without: a file that is replaced keeps its permissions where
// there are any to keep; where nothing can be flushed, the replacement is whole for every reader, but a power cut soon
// after may take it back (flushed() tells).
//
// Only regular and new files are replaced (through symbolic links: what the link names is replaced, the link stays).
// Devices, pipes and "-", the standard output, are written directly, as are /dev/stdout and the other /dev/fd/N.
// Whatever fails, a flush or close included, is a FileError. Writing into a pipe that nobody reads raises SIGPIPE as
// everywhere; with the signal ignored it is a FileError too.
//
//   losa::io::AtomicFile file("report.json");
//   file.write(text);
//   file.commit();

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/io/file_services.hpp>

namespace losa::inline v0 {

namespace detail {

/// N if the path names the open descriptor N ("-" is 1), −1 otherwise.
inline int named_descriptor(std::string_view path) {
  if (path == "-" || path == "/dev/stdout") return STDOUT_FILENO;
  if (path == "/dev/stderr") return STDERR_FILENO;
  for (std::string_view folder : {"/dev/fd/", "/proc/self/fd/"}) {
    if (!path.starts_with(folder)) continue;
    int number = -1;
    const auto [end, error] = std::from_chars(path.data() + folder.size(), path.data() + path.size(), number);
    if (error == std::errc() && end == path.data() + path.size()) return number;
  }
  return -1;
}

/// Where a chain of symbolic links ends, whether or not something is there. Throws FileError on a loop.
inline std::filesystem::path follow_links(const std::string& path) {
  std::filesystem::path target = path;
  for (int links = 0; links < 40; ++links) {  // the kernel's own limit
    std::error_code error;
    const std::filesystem::path next = std::filesystem::read_symlink(target, error);
    if (error) return target;
    target = target.parent_path() / next;  // an absolute `next` replaces the whole
  }
  raise<FileError>(path, ": cannot open for writing: ", errno_text(ELOOP));
}

}  // namespace detail

namespace io {

class AtomicFile {
 public:
  /// Opens the temporary, or the device. Throws FileError with the path and the system's reason.
  explicit AtomicFile(std::string path) : path_(std::move(path)) {
    if (const int descriptor = detail::named_descriptor(path_); descriptor >= 0) {
      file_ = detail::FileHandle(::fcntl(descriptor, F_DUPFD_CLOEXEC, 0));
      if (!file_) fail("cannot open for writing", errno);
      return;
    }
    if (path_.empty()) fail("cannot open for writing", ENOENT);
    target_ = detail::follow_links(path_);
    struct stat status {};
    const bool exists = ::stat(target_.c_str(), &status) == 0;
    if (!exists && errno != ENOENT) fail("cannot open for writing", errno);
    if (exists && S_ISDIR(status.st_mode)) fail("cannot open for writing", EISDIR);
    if (exists && !S_ISREG(status.st_mode)) {
      file_ = detail::FileHandle(
          detail::uninterrupted([&] { return ::open(target_.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY); }));
      if (!file_) fail("cannot open for writing", errno);
      return;
    }
    // A rename needs no permission on the file it replaces; a file that is write-protected stays so.
    if (exists && ::access(target_.c_str(), W_OK) != 0 && (errno == EACCES || errno == EPERM || errno == EROFS))
      fail("cannot open for writing", errno);
    open_temporary(exists ? status.st_mode & 0777 : 0666);
    // Some file systems have no permissions, or none that could be changed. The temporary has been made with no more
    // than the file that it replaces, so that going on shows its content to nobody else.
    if (exists) static_cast<void>(::fchmod(file_.get(), status.st_mode & 07777));
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile() { discard(); }

  const std::string& path() const noexcept { return path_; }
  /// After commit(): false where there is no way to flush the file or its directory, as for a pipe.
  bool flushed() const noexcept { return flushed_; }
  /// True for devices, pipes and "-": nothing is written aside.
  bool in_place() const noexcept { return temporary_.empty() && !committed_; }

  /// Appends. Throws FileError.
  void write(std::span<const std::byte> bytes) {
    if (committed_) detail::raise<FileError>(path_, ": written after commit");
    if (buffer_.size() + bytes.size() > buffer_limit) flush();
    if (bytes.size() >= buffer_limit) {
      write_through(bytes);
    } else {
      buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
    }
  }
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }

  /// Writes at an offset, which may lie behind all that was written so far; what is never written reads as zeros.
  /// Throws FileError, also for a device or pipe.
  void write_at(std::size_t offset, std::span<const std::byte> bytes) {
    if (committed_) detail::raise<FileError>(path_, ": written after commit");
    if (temporary_.empty()) fail("cannot write in any order", ESPIPE);
    flush();
    while (!bytes.empty()) {
      const ::ssize_t written = detail::uninterrupted(
          [&] { return ::pwrite(file_.get(), bytes.data(), bytes.size(), static_cast<::off_t>(offset)); });
      if (written < 0) fail("cannot write", errno);
      bytes = bytes.subspan(static_cast<std::size_t>(written));
      offset += static_cast<std::size_t>(written);
    }
  }

  /// Makes everything written so far the content of the file, on the disk. Throws FileError; then the target is what it
  /// was before, unless it is the last step, the flush of the directory, that failed. Nothing can be written
  /// afterwards.
  void commit() {
    if (committed_) detail::raise<FileError>(path_, ": committed twice");
    flush();
    // Pipes, terminals and some devices have nothing that could be flushed; a file on a disk that has become read-only
    // has lost what was written.
    if (const int error = detail::flush_file(file_.get())) {
      if (!detail::is_missing_service(error) && !(temporary_.empty() && error == EROFS)) fail("cannot flush", error);
      flushed_ = false;
    }
    if (const int error = file_.close()) fail("cannot close", error);
    if (!temporary_.empty()) {
      if (::rename(temporary_.c_str(), target_.c_str()) != 0) fail("cannot be replaced", errno);
      temporary_.clear();
      flush_directory();
    }
    committed_ = true;
  }

 private:
  // Header and tensors of a checkpoint come in pieces of a few bytes to many megabytes; larger pieces go through.
  static constexpr std::size_t buffer_limit = std::size_t{1} << 16;

  [[__noreturn__]] void fail(std::string_view what, int error) const {
    detail::raise<FileError>(path_, ": ", what, ": ", detail::errno_text(error));
  }
  std::filesystem::path folder() const {
    return target_.has_parent_path() ? target_.parent_path() : std::filesystem::path(".");
  }
  void open_temporary(::mode_t mode) {
    static std::atomic<std::uint64_t> counter{0};
    for (int names = 1;; ++names) {
      // The number tells apart the files of one process, O_EXCL those of several.
      temporary_ = folder() / detail::text(".losa-", ::getpid(), "-", counter.fetch_add(1), ".tmp");
      file_ = detail::FileHandle(detail::uninterrupted(
          [&] { return ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode); }));
      if (file_) return;
      if (errno == EEXIST && names < 10'000) continue;
      const int error = errno;
      temporary_.clear();
      fail("cannot open for writing", error);
    }
  }
  void flush() {
    write_through(buffer_);
    buffer_.clear();
  }
  void write_through(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ::ssize_t written = detail::uninterrupted([&] { return ::write(file_.get(), bytes.data(), bytes.size()); });
      if (written < 0) fail("cannot write", errno);
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
  }
  void flush_directory() {
    const int error = detail::flush_directory(folder().c_str());
    if (error != 0 && !detail::is_missing_service(error)) fail("cannot flush its directory", error);
    flushed_ = flushed_ && error == 0;
  }
  void discard() noexcept {
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
    temporary_.clear();
  }

  std::string path_;
  std::filesystem::path target_;
  std::filesystem::path temporary_;
  detail::FileHandle file_;
  std::vector<std::byte> buffer_;
  bool committed_ = false;
  bool flushed_ = true;
};

/// The whole of a small file at once. Throws FileError.
inline void write_file(const std::string& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

}  // namespace io
}  // namespace losa::inline v0
