#include <losa/io/atomic_file.hpp>

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

#include "io_test.hpp"

using namespace io_test;
using losa::io::AtomicFile;
using losa::io::write_file;

namespace {

mode_t mode_of(const std::string& path) {
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return status.st_mode & 07777;
}

/// Pieces of many sizes around the buffer's.
std::vector<std::string> pieces() {
  std::vector<std::string> out;
  char c = 'a';
  for (std::size_t n : {1u, 7u, 65535u, 65536u, 65537u, 3u, 0u, 200000u, 30000u, 30000u, 30000u})
    out.push_back(std::string(n, c++));
  return out;
}

}  // namespace

TEST_CASE("atomic file: appears whole at commit, leaves nothing else") {
  TempDir dir;
  const mode_t mask = ::umask(027);
  {
    AtomicFile file(dir / "x");
    std::string expected;
    for (const std::string& piece : pieces()) {
      file.write(piece);
      expected += piece;
    }
    CHECK(!file.in_place());
    CHECK(!std::filesystem::exists(dir / "x"));
    file.commit();
    CHECK(slurp(dir / "x") == expected);
    CHECK(sentence([&] { file.write("y"); }) == (dir / "x") + ": written after commit");
    CHECK(sentence([&] { file.commit(); }) == (dir / "x") + ": committed twice");
  }
  ::umask(mask);
  CHECK(dir.names() == std::vector<std::string>{"x"});
  CHECK(mode_of(dir / "x") == 0640);  // what the umask gives any new file

  write_file(dir / "empty", "");
  CHECK(slurp(dir / "empty").empty());
}

TEST_CASE("atomic file: without commit the target stays what it was") {
  TempDir dir;
  spit(dir / "x", "before");
  {
    AtomicFile file(dir / "x");
    file.write(std::string(100000, 'n'));
    CHECK(slurp(dir / "x") == "before");
  }
  CHECK(slurp(dir / "x") == "before");
  CHECK(dir.names() == std::vector<std::string>{"x"});
}

TEST_CASE("atomic file: a replaced file keeps its permissions") {
  TempDir dir;
  spit(dir / "x", "before");
  REQUIRE(::chmod((dir / "x").c_str(), 0604) == 0);
  write_file(dir / "x", "after");
  CHECK(slurp(dir / "x") == "after");
  CHECK(mode_of(dir / "x") == 0604);
}

TEST_CASE("atomic file: symbolic links stay, what they name is replaced") {
  TempDir dir;
  std::filesystem::create_directory(dir / "sub");
  spit(dir / "sub/x", "before");
  std::filesystem::create_symlink("sub/x", dir / "near");
  std::filesystem::create_symlink(dir / "near", dir / "far");
  write_file(dir / "far", "after");
  CHECK(slurp(dir / "sub/x") == "after");
  CHECK(std::filesystem::is_symlink(dir / "near"));
  CHECK(std::filesystem::is_symlink(dir / "far"));

  std::filesystem::create_symlink("sub/new", dir / "dangling");
  write_file(dir / "dangling", "made");
  CHECK(slurp(dir / "sub/new") == "made");
  CHECK(std::filesystem::is_symlink(dir / "dangling"));

  std::filesystem::create_symlink("loop", dir / "loop");
  CHECK(sentence([&] { AtomicFile(dir / "loop"); }) ==
        (dir / "loop") + ": cannot open for writing: Too many levels of symbolic links");
  CHECK(dir.names() == std::vector<std::string>{"dangling", "far", "loop", "near", "sub"});
}

TEST_CASE("atomic file: a relative path") {
  TempDir dir;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(dir.path());
  write_file("x", "here");
  std::filesystem::current_path(before);
  CHECK(slurp(dir / "x") == "here");
  CHECK(dir.names() == std::vector<std::string>{"x"});
}

TEST_CASE("atomic file: a full disk is an error that names the path") {
  TempDir dir;
  const std::string full = "/dev/full: cannot write: No space left on device";
  CHECK(sentence([] { write_file("/dev/full", "x"); }) == full);  // at the flush
  CHECK(sentence([] {
          AtomicFile file("/dev/full");
          CHECK(file.in_place());
          file.write(std::string(100000, 'x'));  // at once
        }) == full);
  std::filesystem::create_symlink("/dev/full", dir / "link");
  CHECK(sentence([&] { write_file(dir / "link", "x"); }) == (dir / "link") + ": cannot write: No space left on device");
  CHECK(std::filesystem::is_symlink(dir / "link"));
  CHECK(std::filesystem::is_character_file("/dev/full"));
}

TEST_CASE("atomic file: a disk that fills up while a regular file is written") {
  TempDir dir;
  spit(dir / "x", "before");
  // The limit on file sizes stands in for the disk; in a child, so that it binds nobody else.
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{100000, 100000};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(2);
    const std::string got = sentence([&] { write_file(dir / "x", std::string(300000, 'x')); });
    ::_exit(got == (dir / "x") + ": cannot write: File too large" ? 0 : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(slurp(dir / "x") == "before");
  CHECK(dir.names() == std::vector<std::string>{"x"});
}

TEST_CASE("atomic file: devices and pipes are written directly") {
  TempDir dir;
  write_file("/dev/null", "x");
  CHECK(std::filesystem::is_character_file("/dev/null"));

  const std::string pipe = dir / "pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  std::string got;
  std::thread reader([&] { got = slurp(pipe); });
  std::string expected;
  {
    AtomicFile file(pipe);
    CHECK(file.in_place());
    for (const std::string& piece : pieces()) {
      file.write(piece);
      expected += piece;
    }
    file.commit();
  }
  reader.join();
  CHECK(got == expected);
  CHECK(std::filesystem::is_fifo(pipe));
  CHECK(dir.names() == std::vector<std::string>{"pipe"});
}

TEST_CASE("atomic file: '-', /dev/stdout and /dev/fd/N are the descriptors that are open") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const int saved = ::dup(STDOUT_FILENO);
  REQUIRE(::dup2(ends[1], STDOUT_FILENO) == STDOUT_FILENO);
  std::string error;
  try {
    write_file("-", "one ");
    write_file("/dev/stdout", "two ");
    write_file("/dev/fd/" + std::to_string(ends[1]), "three ");
    write_file("/proc/self/fd/1", "four");
  } catch (const losa::FileError& e) {
    error = e.what();
  }
  ::dup2(saved, STDOUT_FILENO);
  ::close(saved);
  ::close(ends[1]);
  CHECK(error == "");
  char got[64];
  const auto n = ::read(ends[0], got, sizeof got);
  ::close(ends[0]);
  REQUIRE(n > 0);
  CHECK(std::string(got, static_cast<std::size_t>(n)) == "one two three four");

  CHECK(losa::detail::named_descriptor("/dev/stderr") == 2);
  CHECK(losa::detail::named_descriptor("/dev/fd/1x") == -1);
  CHECK(losa::detail::named_descriptor("/dev/fd/") == -1);
  CHECK(sentence([] { write_file("/dev/fd/999", "x"); }) ==
        "/dev/fd/999: cannot open for writing: Bad file descriptor");
}

TEST_CASE("atomic file: a pipe that nobody reads is an error where SIGPIPE is ignored") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  ::close(ends[0]);
  const auto previous = ::signal(SIGPIPE, SIG_IGN);
  const std::string path = "/dev/fd/" + std::to_string(ends[1]);
  CHECK(sentence([&] { write_file(path, "x"); }) == path + ": cannot write: Broken pipe");
  ::signal(SIGPIPE, previous);
  ::close(ends[1]);
}

TEST_CASE("atomic file: what cannot be written is named with the reason") {
  TempDir dir;
  const auto refusal = [](const std::string& path) { return sentence([&] { AtomicFile file(path); }); };
  CHECK(refusal(dir / "absent/x") == (dir / "absent/x") + ": cannot open for writing: No such file or directory");
  CHECK(refusal(dir.path()) == dir.path() + ": cannot open for writing: Is a directory");
  CHECK(refusal("") == ": cannot open for writing: No such file or directory");
  spit(dir / "file", "");
  CHECK(refusal(dir / "file/x") == (dir / "file/x") + ": cannot open for writing: Not a directory");
  const auto bound = [](const std::string& path) {
    return sentence_without_privileges([&] { AtomicFile file(path); });
  };
  REQUIRE(::chmod(dir.path().c_str(), 0755) == 0);
  REQUIRE(::chmod((dir / "file").c_str(), 0444) == 0);
  CHECK(bound(dir / "file") == (dir / "file") + ": cannot open for writing: Permission denied");
  std::filesystem::create_directory(dir / "locked");
  REQUIRE(::chmod((dir / "locked").c_str(), 0555) == 0);
  CHECK(bound(dir / "locked/x") == (dir / "locked/x") + ": cannot open for writing: Permission denied");
}

TEST_CASE("atomic file: a rename that fails leaves no temporary") {
  TempDir dir;
  std::string error;
  {
    AtomicFile file(dir / "x");
    file.write("y");
    std::filesystem::create_directories(dir / "x/occupied");  // came into being in the meantime
    error = sentence([&] { file.commit(); });
  }
  CHECK(error.starts_with((dir / "x") + ": cannot be replaced: "));
  CHECK(dir.names() == std::vector<std::string>{"x"});
}

TEST_CASE("atomic file: of two writers the last to commit wins, whole") {
  TempDir dir;
  AtomicFile first(dir / "x");
  AtomicFile second(dir / "x");
  for (int i = 0; i < 1000; ++i) {
    first.write(std::string(100, '1'));
    second.write(std::string(120, '2'));
  }
  second.commit();
  CHECK(slurp(dir / "x") == std::string(120000, '2'));
  first.commit();
  CHECK(slurp(dir / "x") == std::string(100000, '1'));
  CHECK(dir.names() == std::vector<std::string>{"x"});
}
