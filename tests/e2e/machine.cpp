// Loaded before a program (LD_PRELOAD), makes the machine another one.
//
//   THREADS_MOST=3        the system gives three threads and refuses the next
//   THREADS_LOG=file      every thread that is asked for adds a line to the file
//   MACHINE_ROOT=folder   /proc/self/cgroup, /proc/self/mountinfo and what lies below /sys/fs/cgroup are read from
//   there

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

template <class F>
F next(const char* name, F) {
  return reinterpret_cast<F>(dlsym(RTLD_NEXT, name));
}

bool told_by_root(const char* path) {
  return std::strcmp(path, "/proc/self/cgroup") == 0 || std::strcmp(path, "/proc/self/mountinfo") == 0 ||
         std::strncmp(path, "/sys/fs/cgroup", 14) == 0;
}

}  // namespace

extern "C" {

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*run)(void*), void* argument) {
  static const auto real = next("pthread_create", &pthread_create);
  static std::atomic<long> asked{0};
  const long n = ++asked;
  if (const char* log = std::getenv("THREADS_LOG")) {
    if (std::FILE* file = std::fopen(log, "a")) {
      std::fputs("thread\n", file);
      std::fclose(file);
    }
  }
  const char* const most = std::getenv("THREADS_MOST");
  return most != nullptr && n > std::atol(most) ? EAGAIN : real(thread, attributes, run, argument);
}

std::FILE* fopen(const char* path, const char* mode) {
  static const auto real = next("fopen", &fopen);
  const char* const root = std::getenv("MACHINE_ROOT");
  return root != nullptr && told_by_root(path) ? real((std::string(root) + path).c_str(), mode) : real(path, mode);
}
}
