#include <losa/io/file_services.hpp>

#include <losa/io/atomic_file.hpp>
#include <losa/io/mapped_file.hpp>
#include <losa/io/scratch_file.hpp>

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "refused_calls.hpp"

using namespace io_test;
using losa::io::AtomicFile;
using losa::io::MappedFile;
using losa::io::ScratchFile;

namespace {

constexpr int missing[] = {ENOSYS, ENOTSUP, EOPNOTSUPP, EINVAL, EPERM, EACCES, ENODEV, ENOTTY};
constexpr int failed[] = {EIO, ENOSPC, EDQUOT, EROFS, ENOMEM, ESTALE, EFBIG};

#ifdef SYS_access
constexpr long access_call = SYS_access;
#else
constexpr long access_call = SYS_faccessat;
#endif
#ifdef SYS_unlink
constexpr long unlink_call = SYS_unlink;
#else
constexpr long unlink_call = SYS_unlinkat;
#endif

std::string text(const MappedFile& file) { return {reinterpret_cast<const char*>(file.bytes().data()), file.size()}; }

mode_t mode_of(const std::string& path) {
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return status.st_mode & 07777;
}

}  // namespace

TEST_CASE("file services: a service that is missing is told from one that failed") {
  for (int error : missing) CHECK(losa::detail::is_missing_service(error));
  for (int error : failed) CHECK_FALSE(losa::detail::is_missing_service(error));
  CHECK_FALSE(losa::detail::is_missing_service(0));
  CHECK_FALSE(losa::detail::is_missing_service(EWOULDBLOCK));
}

TEST_CASE("file services: calls are made again while signals interrupt them") {
  int interruptions = 3;
  const auto call = [&] {
    errno = interruptions == 0 ? 0 : EINTR;
    return interruptions-- == 0 ? 7 : -1;
  };
  CHECK(losa::detail::uninterrupted(call) == 7);
  errno = EIO;
  CHECK(losa::detail::uninterrupted([] { return -1; }) == -1);
}

TEST_CASE("file services: a file is replaced whole where permissions or flushing are missing, and told so") {
  for (int error : missing) {
    CAPTURE(std::strerror(error));
    TempDir dir;
    spit(dir / "x", "before");
    REQUIRE(::chmod((dir / "x").c_str(), 0600) == 0);
    const std::string got = while_refused({{SYS_fchmod, error}, {SYS_fsync, error}}, [&] {
      AtomicFile file(dir / "x");
      file.write("after");
      file.commit();
      return std::string(file.flushed() ? "flushed" : "not flushed");
    });
    CHECK(got == "not flushed");
    CHECK(slurp(dir / "x") == "after");
    CHECK((mode_of(dir / "x") & 0077) == 0);  // never more than the file that it replaced
    CHECK(dir.names() == std::vector<std::string>{"x"});
  }
  TempDir dir;
  AtomicFile file(dir / "x");
  file.commit();
  CHECK(file.flushed());
}

TEST_CASE("file services: permissions that cannot be changed are no reason to fail, whatever the reason") {
  for (int error : {EIO, EROFS, ENOSPC}) {
    TempDir dir;
    spit(dir / "x", "before");
    CHECK(while_refused({{SYS_fchmod, error}}, [&] {
            losa::io::write_file(dir / "x", "after");
            return slurp(dir / "x");
          }) == "after");
  }
}

TEST_CASE("file services: a flush that failed is an error, and the target stays what it was") {
  for (int error : failed) {
    CAPTURE(std::strerror(error));
    TempDir dir;
    spit(dir / "x", "before");
    CHECK(while_refused({{SYS_fsync, error}}, [&] {
            losa::io::write_file(dir / "x", "after");
            return std::string();
          }) == (dir / "x") + ": cannot flush: " + losa::detail::errno_text(error));
    CHECK(slurp(dir / "x") == "before");
    CHECK(dir.names() == std::vector<std::string>{"x"});
  }
}

TEST_CASE("file services: only a refusal protects a file from being replaced") {
  for (int error : {EACCES, EPERM, EROFS, ENOSYS, EINVAL, EIO}) {
    CAPTURE(std::strerror(error));
    TempDir dir;
    spit(dir / "x", "before");
    const bool protects = error == EACCES || error == EPERM || error == EROFS;
    const std::string got = while_refused({{access_call, error}}, [&] {
      losa::io::write_file(dir / "x", "after");
      return std::string("replaced");
    });
    CHECK(got == (protects ? (dir / "x") + ": cannot open for writing: " + losa::detail::errno_text(error)
                           : std::string("replaced")));
    CHECK(slurp(dir / "x") == (protects ? "before" : "after"));
  }
}

TEST_CASE("file services: a file that cannot be mapped is read into memory, and stays there when pages are released") {
  TempDir dir;
  std::string content(300'000, '\0');
  for (std::size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>('a' + i % 23);
  spit(dir / "x", content);
  const MappedFile mapped(dir / "x");
  CHECK(mapped.mapped());
  for (int error : missing) {
    CAPTURE(std::strerror(error));
    CHECK(while_refused({{SYS_mmap, error, Refused::Kind::file_mapping}}, [&] {
            MappedFile file(dir / "x");
            losa::io::release_pages(file.bytes());
            MappedFile moved(std::move(file));
            return moved.mapped() ? "mapped" : text(moved) == content ? "read" : "something else";
          }) == "read");
  }
  for (int error : {ENOMEM, EIO})
    CHECK(while_refused({{SYS_mmap, error, Refused::Kind::file_mapping}}, [&] {
            return text(MappedFile(dir / "x"));
          }) == (dir / "x") + ": cannot map into memory: " + losa::detail::errno_text(error));
  CHECK(
      while_refused({{SYS_mmap, ENODEV, Refused::Kind::file_mapping}, {SYS_pread64, EIO}},
                    [&] { return text(MappedFile(dir / "x")); }) ==
      (dir / "x") +
          ": cannot map into memory: No such device; nor can its 300000 bytes be read into memory: Input/output error");
  CHECK(while_refused({{SYS_mmap, ENODEV}}, [&] { return text(MappedFile(dir / "x")); }) ==
        (dir / "x") +
            ": cannot map into memory: No such device; nor can its 300000 bytes be read into memory: No such device");
}

TEST_CASE("file services: a scratch file does without room in advance, mappings and removal of open files") {
  for (int error : missing) {
    CAPTURE(std::strerror(error));
    TempDir dir;
    const std::vector<Refused> refused = {
        {SYS_fallocate, error}, {SYS_mmap, error, Refused::Kind::shared_file_mapping}, {unlink_call, error}};
    const auto use = [&] {
      std::string names;
      {
        ScratchFile scratch(dir / ".");
        names = std::to_string(dir.names().size());
        std::vector<std::uint32_t> values(300'000), back(values.size());
        std::iota(values.begin(), values.end(), 7u);
        const std::size_t at = scratch.reserve(values.size() * sizeof values[0]);
        struct stat status {};
        if (::fstat(scratch.descriptor(), &status) != 0 ||
            static_cast<std::size_t>(status.st_blocks) * 512 < values.size() * sizeof values[0])
          return std::string("no room was taken");
        const auto memory = scratch.map<float>(100'000);
        for (int i = 0; i < 100'000; ++i)
          if (memory[i] != 0) return std::string("not zero");
        memory[99'999] = 5;
        scratch.write(at, std::as_bytes(std::span(values)));
        scratch.read(at, std::as_writable_bytes(std::span(back)));
        if (back != values || memory[99'999] != 5) return std::string("other values");
        names += scratch.maps() ? " maps" : " does not map";
      }
      return names;
    };
    CHECK(while_refused(refused, use) == "1 does not map");
  }
  // The name of a file that could not be removed while it was open is gone with the object.
  TempDir dir;
  CHECK(while_refused({}, [&] {
          ScratchFile scratch(dir / ".");
          return std::to_string(dir.names().size());
        }) == "0");
}

TEST_CASE("file services: a full disk is met when room is taken, with and without room in advance") {
  TempDir dir;
  for (int error : {ENOSPC, EDQUOT, EFBIG, EIO})
    CHECK(while_refused({{SYS_fallocate, error}}, [&] {
            return std::to_string(ScratchFile(dir / ".").reserve(1000));
          }) == (dir / ".") + ": cannot grow the scratch file: " + losa::detail::errno_text(error));
  CHECK(while_refused({{SYS_fallocate, ENOSYS}, {SYS_pwrite64, ENOSPC}}, [&] {
          return std::to_string(ScratchFile(dir / ".").reserve(1000));
        }) == (dir / ".") + ": cannot write the scratch file: No space left on device");
  CHECK(while_refused({{SYS_mmap, ENOMEM, Refused::Kind::shared_file_mapping}}, [&] {
          return std::string(ScratchFile(dir / ".").map<char>(1000) ? "mapped" : "null");
        }) == (dir / ".") + ": cannot map the scratch file: Cannot allocate memory");
}

TEST_CASE("file services: a directory that cannot be flushed is told from one whose flush failed") {
  TempDir dir;
  CHECK(losa::detail::flush_directory(dir.path().c_str()) == 0);
  CHECK(losa::detail::flush_directory((dir / "none").c_str()) == ENOTSUP);
  for (int error : {EBADF, EISDIR})
    CHECK(while_refused({{SYS_fsync, error}}, [&] {
            return std::to_string(losa::detail::flush_directory(dir.path().c_str()));
          }) == std::to_string(ENOTSUP));
  CHECK(while_refused({{SYS_fsync, EIO}}, [&] {
          return std::to_string(losa::detail::flush_directory(dir.path().c_str()));
        }) == std::to_string(EIO));
}
