#pragma once
// What the tests of losa/io share: a directory that goes away, bytes of safetensors files made by hand, and the
// sentence of an expected error.

#include <stdlib.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include <losa/core/error.hpp>

namespace io_test {

/// A fresh directory, removed at the end.
class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "losa-test-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  std::string operator/(std::string_view name) const { return (path_ / name).string(); }
  std::string path() const { return path_.string(); }
  /// Names of everything in it, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& entry : std::filesystem::directory_iterator(path_))
      out.push_back(entry.path().filename().string());
    std::sort(out.begin(), out.end());
    return out;
  }

 private:
  std::filesystem::path path_;
};

inline void spit(const std::string& path, std::string_view bytes) { std::ofstream(path, std::ios::binary) << bytes; }
inline std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
inline std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

/// Header length, header, data.
inline std::string safetensors(std::string_view header, std::string_view data = {}) {
  const std::uint64_t length = header.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  out += header;
  out += data;
  return out;
}
/// The bytes of some numbers.
template <class T>
std::string raw(const std::vector<T>& values) {
  std::string out(values.size() * sizeof(T), '\0');
  if (!out.empty()) std::memcpy(out.data(), values.data(), out.size());
  return out;
}

/// The sentence of the `Kind` that f throws; "" if it throws nothing.
template <class Kind = losa::FileError, class F>
std::string sentence(F&& f) {
  try {
    f();
  } catch (const Kind& error) {
    return error.what();
  }
  return "";
}

/// The sentence of the FileError that f throws in a child process that permissions bind, whoever runs the test.
template <class F>
std::string sentence_without_privileges(F&& f) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    constexpr unsigned nobody = 65534;
    std::string got = "the superuser's rights could not be given up";
    if (::geteuid() != 0 || (::setgid(nobody) == 0 && ::setuid(nobody) == 0)) got = sentence(f);
    const auto written = ::write(ends[1], got.data(), got.size());
    ::_exit(written == static_cast<::ssize_t>(got.size()) ? 0 : 1);
  }
  ::close(ends[1]);
  char got[4096];
  const auto n = ::read(ends[0], got, sizeof got);
  ::close(ends[0]);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(n >= 0);
  return std::string(got, static_cast<std::size_t>(n));
}

}  // namespace io_test
