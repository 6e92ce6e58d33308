// Loaded before a program (LD_PRELOAD), stops it at a chosen change of the file system: before the n-th such call
// either the process is killed, or the call fails as on a full disk.
//
//   LD_PRELOAD=libfaults.so FAULT=kill FAULT_AT=17 losa-llama adapt ...     FAULT=count prints the number of calls
//
// Or it plays a file system that lacks something: every call of one name fails with one error number. FAULT_PATH
// narrows that to files whose path holds a text, FAULT_TIMES to the first calls.
//
//   LD_PRELOAD=libfaults.so FAULT_CALL=flock FAULT_ERRNO=38 losa-llama adapt ...
//
// Names: access close fallocate fchmod flock fsync fsync_directory madvise mkdir mkostemp mmap mmap_shared open
// posix_fallocate pwrite rename rename_directory rmdir unlink unlinkat write; and inode, which gives every look at a
// file another inode number. Calls on standard streams do not count, nor do mappings of no file.

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

std::atomic<long> calls{0};
std::atomic<long> lacking{0};

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

/// True if the file system has no such call; then errno says so. `path` may be null.
bool lacks(const char* name, const char* path) {
  static const char* const call = std::getenv("FAULT_CALL");
  static const char* const error = std::getenv("FAULT_ERRNO");
  static const char* const part = std::getenv("FAULT_PATH");
  static const char* const times = std::getenv("FAULT_TIMES");
  if (call == nullptr || std::strcmp(call, name) != 0) return false;
  if (part != nullptr && (path == nullptr || std::strstr(path, part) == nullptr)) return false;
  if (times != nullptr && lacking.fetch_add(1) >= std::atol(times)) return false;
  if (error != nullptr) errno = std::atoi(error);
  return true;
}
/// … of an open file.
bool lacks(const char* name, int file) {
  char link[32], path[PATH_MAX + 1];
  std::snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  const ssize_t size = readlink(link, path, PATH_MAX);
  path[size < 0 ? 0 : size] = '\0';
  return lacks(name, path);
}

bool is_directory(int file) {
  struct stat status {};
  return fstat(file, &status) == 0 && S_ISDIR(status.st_mode);
}

struct Count {
  ~Count() {
    const char* const kind = std::getenv("FAULT");
    if (kind != nullptr && std::strcmp(kind, "count") == 0) std::fprintf(stderr, "calls %ld\n", calls.load());
  }
} count;

template <class Function>
Function next(const char* name, Function) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

ssize_t write(int file, const void* bytes, size_t size) {
  static const auto real = next("write", &write);
  return file > STDERR_FILENO && (lacks("write", file) || fault()) ? -1 : real(file, bytes, size);
}
ssize_t pwrite(int file, const void* bytes, size_t size, off_t offset) {
  static const auto real = next("pwrite", &pwrite);
  return lacks("pwrite", file) || fault() ? -1 : real(file, bytes, size, offset);
}
int posix_fallocate(int file, off_t offset, off_t size) {
  static const auto real = next("posix_fallocate", &posix_fallocate);
  return lacks("posix_fallocate", file) || fault() ? errno : real(file, offset, size);
}
int fsync(int file) {
  static const auto real = next("fsync", &fsync);
  return lacks(is_directory(file) ? "fsync_directory" : "fsync", file) || fault() ? -1 : real(file);
}
int rename(const char* from, const char* to) noexcept {
  static const auto real = next("rename", &rename);
  struct stat status {};
  const bool directory = stat(from, &status) == 0 && S_ISDIR(status.st_mode);
  return lacks("rename", to) || (directory && lacks("rename_directory", to)) || fault() ? -1 : real(from, to);
}
int mkdir(const char* path, mode_t mode) noexcept {
  static const auto real = next("mkdir", &mkdir);
  return lacks("mkdir", path) || fault() ? -1 : real(path, mode);
}
// A full disk does not keep files from being removed: these are only moments to be killed at.
int unlink(const char* path) noexcept {
  static const auto real = next("unlink", &unlink);
  if (lacks("unlink", path)) return -1;
  fault();
  return real(path);
}
int unlinkat(int directory, const char* path, int flags) noexcept {
  static const auto real = next("unlinkat", &unlinkat);
  if (lacks("unlinkat", path)) return -1;
  fault();
  return real(directory, path, flags);
}
int rmdir(const char* path) noexcept {
  static const auto real = next("rmdir", &rmdir);
  if (lacks("rmdir", path)) return -1;
  fault();
  return real(path);
}
int remove(const char* path) noexcept {
  static const auto real = next("remove", &remove);
  if (lacks("unlink", path)) return -1;
  fault();
  return real(path);
}

// These change nothing that could be left half done: they do not count.
int access(const char* path, int mode) noexcept {
  static const auto real = next("access", &access);
  return lacks("access", path) ? -1 : real(path, mode);
}
int close(int file) {
  static const auto real = next("close", &close);
  const bool failing = file > STDERR_FILENO && lacks("close", file);
  const int error = errno, result = real(file);
  if (failing) errno = error;
  return failing ? -1 : result;
}
int fallocate(int file, int mode, off_t offset, off_t size) {
  static const auto real = next("fallocate", &fallocate);
  return lacks("fallocate", file) ? -1 : real(file, mode, offset, size);
}
int fchmod(int file, mode_t mode) noexcept {
  static const auto real = next("fchmod", &fchmod);
  return lacks("fchmod", file) ? -1 : real(file, mode);
}
int flock(int file, int operation) noexcept {
  static const auto real = next("flock", &flock);
  return lacks("flock", file) ? -1 : real(file, operation);
}
int madvise(void* address, size_t size, int advice) noexcept {
  static const auto real = next("madvise", &madvise);
  return lacks("madvise", nullptr) ? -1 : real(address, size, advice);
}
int mkostemp(char* pattern, int flags) {
  static const auto real = next("mkostemp", &mkostemp);
  return lacks("mkostemp", pattern) ? -1 : real(pattern, flags);
}
void* mmap(void* address, size_t size, int protection, int flags, int file, off_t offset) noexcept {
  static const auto real = next("mmap", &mmap);
  if (file >= 0 && lacks((flags & MAP_SHARED) != 0 ? "mmap_shared" : "mmap", file)) return MAP_FAILED;
  return real(address, size, protection, flags, file, offset);
}
int open(const char* path, int flags, ...) {
  static const auto real = next("open", static_cast<int (*)(const char*, int, ...)>(&open));
  std::va_list rest;
  va_start(rest, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return lacks("open", path) ? -1 : real(path, flags, mode);
}
int fstat(int file, struct stat* status) noexcept {
  static const auto real = next("fstat", &fstat);
  const int result = real(file, status);
  if (result == 0 && lacks("inode", nullptr)) status->st_ino += static_cast<ino_t>(++lacking);
  return result;
}
int stat(const char* path, struct stat* status) noexcept {
  static const auto real = next("stat", static_cast<int (*)(const char*, struct stat*)>(&stat));
  const int result = real(path, status);
  if (result == 0 && lacks("inode", path)) status->st_ino += static_cast<ino_t>(++lacking);
  return result;
}
}
