#pragma once
// A file mapped into memory, read-only. Pages are read when they are first touched, so opening a checkpoint of any size
// costs nothing until its tensors are read.
//
//   losa::io::MappedFile file("model.safetensors");
//   std::span<const std::byte> bytes = file.bytes();
//
// A file that another process shortens while it is mapped ends the program with SIGBUS, as every mapping does; files
// written by AtomicFile are replaced, never shortened.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include <losa/core/error.hpp>

namespace losa::inline v0 {

namespace detail {

/// The operating system's words for an error number.
inline std::string errno_text(int error) { return std::generic_category().message(error); }

/// Owns a file descriptor.
class FileHandle {
 public:
  FileHandle() = default;
  explicit FileHandle(int descriptor) noexcept : descriptor_(descriptor) {}
  FileHandle(FileHandle&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  FileHandle& operator=(FileHandle&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~FileHandle() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  int get() const noexcept { return descriptor_; }
  explicit operator bool() const noexcept { return descriptor_ >= 0; }
  /// Closes now; 0, or the error number.
  int close() noexcept { return ::close(std::exchange(descriptor_, -1)) == 0 ? 0 : errno; }

 private:
  int descriptor_ = -1;
};

}  // namespace detail

namespace io {

/// Lets go of the memory behind bytes of a MappedFile; they are read from the file again when they are next touched.
inline void release_pages(std::span<const std::byte> bytes) noexcept {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<std::uintptr_t>(bytes.data()) + page - 1) / page * page;
  const auto end = reinterpret_cast<std::uintptr_t>(bytes.data() + bytes.size()) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

/// The bytes of a regular file, mapped read-only for the lifetime of the object. Movable; the bytes stay where they
/// are.
class MappedFile {
 public:
  MappedFile() = default;
  /// Throws FileError with the path and the system's reason if the file cannot be opened or mapped or is not regular.
  explicit MappedFile(std::string path) : path_(std::move(path)) {
    // Without O_NONBLOCK, opening a pipe would wait for its writer instead of being refused.
    detail::FileHandle file(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!file) detail::raise<FileError>(path_, ": cannot open for reading: ", detail::errno_text(errno));
    struct stat status {};
    if (::fstat(file.get(), &status) != 0)
      detail::raise<FileError>(path_, ": cannot read its status: ", detail::errno_text(errno));
    if (!S_ISREG(status.st_mode))
      detail::raise<FileError>(path_, S_ISDIR(status.st_mode) ? ": is a directory" : ": is not a regular file");
    const auto size = static_cast<std::size_t>(status.st_size);
    if (size == 0) return;  // an empty mapping does not exist
    void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
    if (address == MAP_FAILED) detail::raise<FileError>(path_, ": cannot map into memory: ", detail::errno_text(errno));
    bytes_ = {static_cast<const std::byte*>(address), size};
  }
  MappedFile(MappedFile&& other) noexcept
      : path_(std::move(other.path_)), bytes_(std::exchange(other.bytes_, std::span<const std::byte>{})) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~MappedFile() {
    if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }

  const std::string& path() const noexcept { return path_; }
  std::size_t size() const noexcept { return bytes_.size(); }
  std::span<const std::byte> bytes() const noexcept { return bytes_; }

 private:
  std::string path_;
  std::span<const std::byte> bytes_;
};

}  // namespace io
}  // namespace losa::inline v0
