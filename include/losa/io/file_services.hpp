#pragma once
// What files may ask of the system, sorted by what it is for. File systems differ: FAT and SMB mounts keep no
// permissions, FUSE mounts may not map, network mounts may not set room aside, flush or lock. What no byte's safety
// hangs on (permissions, room in advance, mapping, hints) is done another way, or not at all, where it is missing; what
// makes a file safe (writing, renaming, a flush that was tried and failed) is an error where it fails.
//
//   const int error = losa::detail::flush_file(descriptor);
//   if (error != 0 && !losa::detail::is_missing_service(error)) ...          // EIO, ENOSPC: bytes are lost

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <initializer_list>
#include <string>
#include <system_error>
#include <utility>

namespace losa::inline v0::detail {

/// The operating system's words for an error number.
inline std::string errno_text(int error) { return std::generic_category().message(error); }

/// True for the error numbers with which a system says that it has no such service for this file, or does not allow it
/// to anybody; false for those of a service that is there and failed (EIO, ENOSPC, EDQUOT, EROFS, ENOMEM, ...). Meant
/// for calls on a file that is open for the purpose: there EINVAL, EPERM and EACCES mean nothing else.
constexpr bool is_missing_service(int error) noexcept {
  for (int missing : {ENOSYS, ENOTSUP, EOPNOTSUPP, EINVAL, EPERM, EACCES, ENODEV, ENOTTY})
    if (error == missing) return true;
  return false;
}

/// A system call that returns −1 on an error, made again as long as signals interrupt it.
template <class Call>
auto uninterrupted(Call&& call) {
  for (;;) {
    const auto result = call();
    if (result != -1 || errno != EINTR) return result;
  }
}

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
  /// Closes now; 0, or the error number. A signal that interrupts it comes too late to keep the file open.
  int close() noexcept { return ::close(std::exchange(descriptor_, -1)) == 0 || errno == EINTR ? 0 : errno; }

 private:
  int descriptor_ = -1;
};

/// Opens for reading, never waiting for the writer of a pipe. Empty on failure, with errno.
inline FileHandle open_to_read(const char* path) {
  FileHandle file(uninterrupted([&] { return ::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); }));
  if (file || (errno != EAGAIN && errno != EINVAL && errno != ENOTSUP)) return file;
  // A lease that a file server holds, or a file system that knows no such flag: a regular file is waited for.
  const int error = errno;
  struct stat status {};
  if (::stat(path, &status) == 0 && S_ISREG(status.st_mode))
    return FileHandle(uninterrupted([&] { return ::open(path, O_RDONLY | O_CLOEXEC); }));
  errno = error;
  return file;
}

/// Makes what was written to an open file survive a power cut. 0, or the error number.
inline int flush_file(int descriptor) noexcept {
  return uninterrupted([&] { return ::fsync(descriptor); }) == 0 ? 0 : errno;
}
/// … and the names in a directory. Directories that cannot be opened to be flushed count as a missing service.
inline int flush_directory(const char* path) noexcept {
  const FileHandle directory(uninterrupted([&] { return ::open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
  if (!directory) return errno == EIO ? EIO : ENOTSUP;
  const int error = flush_file(directory.get());
  return error == EBADF || error == EISDIR ? ENOTSUP : error;
}

}  // namespace losa::inline v0::detail
