#pragma once
// A file mapped into memory, read-only. Pages are read when they are first touched, so opening a checkpoint of any size
// costs nothing until its tensors are read. On a file system that cannot map files the whole file is read into memory.
//
//   losa::io::MappedFile file("model.safetensors");
//   std::span<const std::byte> bytes = file.bytes();
//
// A file that another process shortens while it is mapped ends the program with SIGBUS, as every mapping does; files
// written by AtomicFile are replaced, never shortened.

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include <losa/core/error.hpp>
#include <losa/io/file_services.hpp>

namespace losa::inline v0 {

namespace detail {

/// `size` bytes of an open file in memory, read-only; null on failure, with errno. The memory is shared, so that
/// MADV_DONTNEED leaves its content alone: who releases pages need not know whether they are the file's.
inline const std::byte* read_into_memory(int descriptor, std::size_t size) {
  void* address = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) return nullptr;
  auto* const bytes = static_cast<std::byte*>(address);
  for (std::size_t done = 0; done < size;) {
    const ::ssize_t n = uninterrupted([&] {
      return ::pread(descriptor, bytes + done, std::min(size - done, std::size_t{1} << 30), static_cast<::off_t>(done));
    });
    if (n <= 0) {
      const int error = n < 0 ? errno : EIO;  // it has become shorter
      ::munmap(address, size);
      errno = error;
      return nullptr;
    }
    done += static_cast<std::size_t>(n);
  }
  ::mprotect(address, size, PROT_READ);
  return bytes;
}

}  // namespace detail

namespace io {

/// Lets go of the memory behind bytes of a MappedFile; they are read from the file again when they are next touched.
/// Without effect where the file could not be mapped.
inline void release_pages(std::span<const std::byte> bytes) noexcept {
  const long page_size = ::sysconf(_SC_PAGESIZE);
  if (page_size <= 0) return;
  const auto page = static_cast<std::uintptr_t>(page_size);
  const auto begin = (reinterpret_cast<std::uintptr_t>(bytes.data()) + page - 1) / page * page;
  const auto end = reinterpret_cast<std::uintptr_t>(bytes.data() + bytes.size()) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

/// The bytes of a regular file, mapped read-only for the lifetime of the object. Movable; the bytes stay where they
/// are.
class MappedFile {
 public:
  MappedFile() = default;
  /// Throws FileError with the path and the system's reason if the file cannot be opened or is not regular, or can be
  /// neither mapped nor read into memory.
  explicit MappedFile(std::string path) : path_(std::move(path)) {
    const detail::FileHandle file = detail::open_to_read(path_.c_str());
    if (!file) detail::raise<FileError>(path_, ": cannot open for reading: ", detail::errno_text(errno));
    struct stat status {};
    if (::fstat(file.get(), &status) != 0)
      detail::raise<FileError>(path_, ": cannot read its status: ", detail::errno_text(errno));
    if (!S_ISREG(status.st_mode))
      detail::raise<FileError>(path_, S_ISDIR(status.st_mode) ? ": is a directory" : ": is not a regular file");
    const auto size = static_cast<std::size_t>(status.st_size);
    if (size == 0) return;  // an empty mapping does not exist
    void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
    if (address != MAP_FAILED) {
      bytes_ = {static_cast<const std::byte*>(address), size};
      return;
    }
    const int error = errno;
    if (!detail::is_missing_service(error))
      detail::raise<FileError>(path_, ": cannot map into memory: ", detail::errno_text(error));
    const std::byte* copy = detail::read_into_memory(file.get(), size);
    const int why_not = errno;
    if (copy == nullptr)
      detail::raise<FileError>(path_, ": cannot map into memory: ", detail::errno_text(error), "; nor can its ", size,
                               " bytes be read into memory: ", detail::errno_text(why_not));
    bytes_ = {copy, size};
    mapped_ = false;
  }
  MappedFile(MappedFile&& other) noexcept
      : path_(std::move(other.path_)),
        bytes_(std::exchange(other.bytes_, std::span<const std::byte>{})),
        mapped_(other.mapped_) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(bytes_, other.bytes_);
    std::swap(mapped_, other.mapped_);
    return *this;
  }
  ~MappedFile() {
    if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }

  const std::string& path() const noexcept { return path_; }
  std::size_t size() const noexcept { return bytes_.size(); }
  std::span<const std::byte> bytes() const noexcept { return bytes_; }
  /// False where the file system cannot map files: then all size() bytes take memory from the start to the end.
  bool mapped() const noexcept { return mapped_; }

 private:
  std::string path_;
  std::span<const std::byte> bytes_;
  bool mapped_ = true;
};

}  // namespace io
}  // namespace losa::inline v0
