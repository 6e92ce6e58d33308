#include <losa/io/scratch_file.hpp>

#include <doctest/doctest.h>

#include <sys/stat.h>

#include <cstdint>
#include <numeric>
#include <vector>

#include "io_test.hpp"

using losa::io::ScratchFile;
using namespace io_test;

TEST_CASE("scratch file: what is written comes back, and no name is left in the directory") {
  TempDir dir;
  ScratchFile scratch(dir / ".");
  CHECK(dir.names().empty());
  std::vector<std::uint32_t> a(1000), b(70'000), back;
  std::iota(a.begin(), a.end(), 1u);
  std::iota(b.begin(), b.end(), 5000u);
  const std::size_t at_a = scratch.reserve(a.size() * 4);
  const std::size_t at_b = scratch.reserve(b.size() * 4);
  CHECK(at_b >= at_a + a.size() * 4);
  CHECK(scratch.size() >= at_b + b.size() * 4);
  scratch.write(at_b, std::as_bytes(std::span(b)));
  scratch.write(at_a, std::as_bytes(std::span(a)));
  back.resize(a.size());
  scratch.read(at_a, std::as_writable_bytes(std::span(back)));
  CHECK(back == a);
  back.resize(b.size());
  scratch.read(at_b, std::as_writable_bytes(std::span(back)));
  CHECK(back == b);
  CHECK(scratch.reserve(0) == scratch.size());
  CHECK(sentence([&] {
          scratch.read(scratch.size() + (1u << 20), std::as_writable_bytes(std::span(back)));
        }).find("cannot read the scratch file") != std::string::npos);
}

TEST_CASE("scratch file: mapped memory starts as zeros, is apart from the rest and outlives the object") {
  TempDir dir;
  std::shared_ptr<float[]> first, second;
  {
    ScratchFile scratch(dir / ".");
    first = scratch.map<float>(1000);
    second = scratch.map<float>(20'000);
    CHECK(scratch.map<float>(0) != nullptr);
  }
  for (int i = 0; i < 1000; ++i) {
    CHECK(first[i] == 0.0f);
    first[i] = 1;
  }
  CHECK(second[0] == 0.0f);
  second[19'999] = 2;
  CHECK(first[999] == 1.0f);
  CHECK(second[19'999] == 2.0f);
}

TEST_CASE("scratch file: memory that is let go of gives its room on the disk back") {
  TempDir dir;
  ScratchFile scratch(dir / ".");
  const auto room = [&] {
    struct stat status {};
    REQUIRE(::fstat(scratch.descriptor(), &status) == 0);
    return static_cast<std::size_t>(status.st_blocks) * 512;
  };
  auto memory = scratch.map<float>(std::size_t{1} << 20);
  CHECK(room() >= std::size_t{1} << 22);
  memory.reset();
  CHECK(room() < std::size_t{1} << 20);
}

TEST_CASE("scratch file: a directory that is not there, and one without room, are named") {
  TempDir dir;
  CHECK(sentence([&] { ScratchFile scratch(dir / "none"); }) ==
        (dir / "none") + ": cannot make a scratch file: No such file or directory");
  ScratchFile scratch(dir / ".");
  CHECK_THROWS_AS(scratch.reserve(std::size_t{1} << 60), losa::FileError);
}
