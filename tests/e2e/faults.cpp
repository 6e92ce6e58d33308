// Loaded before a program (LD_PRELOAD), stops it at a chosen change of the file system: before the n-th such call
// either the process is killed, or the call fails as on a full disk.
//
//   LD_PRELOAD=libfaults.so FAULT=kill FAULT_AT=17 losa-llama adapt ...     FAULT=count prints the number of calls
//
// Calls on standard streams do not count.

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

std::atomic<long> calls{0};

/// True if this call has to fail.
bool fault() {
  static const char* const kind = std::getenv("FAULT");
  static const char* const at = std::getenv("FAULT_AT");
  const long n = ++calls;
  if (kind == nullptr || at == nullptr || n < std::atol(at)) return false;
  if (std::strcmp(kind, "kill") == 0) kill(getpid(), SIGKILL);
  if (std::strcmp(kind, "full") != 0) return false;
  errno = ENOSPC;
  return true;
}

struct Count {
  ~Count() {
    const char* const kind = std::getenv("FAULT");
    if (kind != nullptr && std::strcmp(kind, "count") == 0) std::fprintf(stderr, "calls %ld\n", calls.load());
  }
} count;

template <class F>
F next(const char* name, F) {
  return reinterpret_cast<F>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

ssize_t write(int file, const void* bytes, size_t size) {
  static const auto real = next("write", &write);
  return file > STDERR_FILENO && fault() ? -1 : real(file, bytes, size);
}
ssize_t pwrite(int file, const void* bytes, size_t size, off_t offset) {
  static const auto real = next("pwrite", &pwrite);
  return fault() ? -1 : real(file, bytes, size, offset);
}
int posix_fallocate(int file, off_t offset, off_t size) {
  static const auto real = next("posix_fallocate", &posix_fallocate);
  return fault() ? ENOSPC : real(file, offset, size);
}
int fsync(int file) {
  static const auto real = next("fsync", &fsync);
  return fault() ? -1 : real(file);
}
int rename(const char* from, const char* to) noexcept {
  static const auto real = next("rename", &rename);
  return fault() ? -1 : real(from, to);
}
int mkdir(const char* path, mode_t mode) noexcept {
  static const auto real = next("mkdir", &mkdir);
  return fault() ? -1 : real(path, mode);
}
// A full disk does not keep files from being removed: these are only moments to be killed at.
int unlink(const char* path) noexcept {
  static const auto real = next("unlink", &unlink);
  fault();
  return real(path);
}
int unlinkat(int directory, const char* path, int flags) noexcept {
  static const auto real = next("unlinkat", &unlinkat);
  fault();
  return real(directory, path, flags);
}
int rmdir(const char* path) noexcept {
  static const auto real = next("rmdir", &rmdir);
  fault();
  return real(path);
}
int remove(const char* path) noexcept {
  static const auto real = next("remove", &remove);
  fault();
  return real(path);
}
}
