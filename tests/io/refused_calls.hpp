#pragma once
// System calls that fail as on a file system that lacks them: in a child process, by a filter that the kernel applies,
// so that every caller meets them, whichever library it sits in.

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "io_test.hpp"

namespace io_test {

/// A call that fails with an error number; of mappings, only those of files, or of files for writing.
struct Refused {
  enum class Kind { any, file_mapping, shared_file_mapping };
  long call = 0;
  int error = 0;
  Kind kind = Kind::any;
};

/// From now on, in this process, the calls fail. False where the system has no such filters.
inline bool refuse_calls(const std::vector<Refused>& refused) {
  const auto load = [](std::size_t at) {
    return sock_filter{BPF_LD | BPF_W | BPF_ABS, 0, 0, static_cast<std::uint32_t>(at)};
  };
  const auto unless_equal = [](std::uint32_t value, std::uint8_t skip) {
    return sock_filter{BPF_JMP | BPF_JEQ | BPF_K, 0, skip, value};
  };
  const auto if_equal = [](std::uint32_t value, std::uint8_t skip) {
    return sock_filter{BPF_JMP | BPF_JEQ | BPF_K, skip, 0, value};
  };
  const auto answer = [](std::uint32_t value) { return sock_filter{BPF_RET | BPF_K, 0, 0, value}; };
  std::vector<sock_filter> code;
  for (const Refused& one : refused) {
    std::vector<sock_filter> conditions;
    const auto result = answer(SECCOMP_RET_ERRNO | static_cast<std::uint32_t>(one.error));
    if (one.kind != Refused::Kind::any) {
      const bool shared = one.kind == Refused::Kind::shared_file_mapping;
      conditions.push_back(load(offsetof(seccomp_data, args) + 4 * sizeof(std::uint64_t)));
      conditions.push_back(if_equal(~std::uint32_t{0}, shared ? 3 : 1));  // no descriptor: no file
      if (shared) conditions.push_back(load(offsetof(seccomp_data, args) + 3 * sizeof(std::uint64_t)));
      if (shared) conditions.push_back(unless_equal(1, 1));  // MAP_SHARED
    }
    conditions.push_back(result);
    code.push_back(load(offsetof(seccomp_data, nr)));
    code.push_back(unless_equal(static_cast<std::uint32_t>(one.call), static_cast<std::uint8_t>(conditions.size())));
    code.insert(code.end(), conditions.begin(), conditions.end());
  }
  code.push_back(answer(SECCOMP_RET_ALLOW));
  sock_fprog program{static_cast<unsigned short>(code.size()), code.data()};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/// What f returns, or the sentence of the FileError that it throws, in a child process whose calls are refused.
template <class Function>
std::string while_refused(const std::vector<Refused>& refused, Function&& f) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    std::string got = "calls cannot be refused here";
    if (refuse_calls(refused)) {
      try {
        got = f();
      } catch (const losa::FileError& error) {
        got = error.what();
      }
    }
    const auto written = ::write(ends[1], got.data(), got.size());
    ::_exit(written == static_cast<::ssize_t>(got.size()) ? 0 : 1);
  }
  ::close(ends[1]);
  std::string got(4096, '\0');
  const auto n = ::read(ends[0], got.data(), got.size());
  ::close(ends[0]);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  REQUIRE(n >= 0);
  got.resize(static_cast<std::size_t>(n));
  return got;
}

}  // namespace io_test
