#include <losa/io/mapped_file.hpp>

#include <sys/stat.h>

#include <utility>

#include "io_test.hpp"

using namespace io_test;
using losa::io::MappedFile;

TEST_CASE("mapped file: bytes, empty file, moves") {
  TempDir dir;
  spit(dir / "some", "abc");
  spit(dir / "none", "");
  MappedFile file(dir / "some");
  CHECK(file.path() == dir / "some");
  CHECK(file.size() == 3);
  CHECK(file.bytes()[1] == std::byte{'b'});
  CHECK(MappedFile(dir / "none").bytes().empty());

  const std::byte* at = file.bytes().data();
  MappedFile moved(std::move(file));
  CHECK(moved.bytes().data() == at);
  MappedFile assigned;
  assigned = std::move(moved);
  CHECK(assigned.bytes().data() == at);
  CHECK(assigned.bytes()[2] == std::byte{'c'});
}

TEST_CASE("mapped file: what cannot be mapped is named with the reason") {
  TempDir dir;
  CHECK(sentence([&] { MappedFile(dir / "absent"); }) ==
        (dir / "absent") + ": cannot open for reading: No such file or directory");
  CHECK(sentence([&] { MappedFile file(dir.path()); }) == dir.path() + ": is a directory");
  REQUIRE(::mkfifo((dir / "pipe").c_str(), 0600) == 0);
  CHECK(sentence([&] { MappedFile(dir / "pipe"); }) == (dir / "pipe") + ": is not a regular file");
  CHECK(sentence([] { MappedFile("/dev/null"); }) == "/dev/null: is not a regular file");

  spit(dir / "locked", "x");
  std::filesystem::permissions(dir / "locked", std::filesystem::perms::none);
  REQUIRE(::chmod(dir.path().c_str(), 0755) == 0);
  CHECK(sentence_without_privileges([&] { MappedFile(dir / "locked"); }) ==
        (dir / "locked") + ": cannot open for reading: Permission denied");
}
