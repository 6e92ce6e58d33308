#include <losa/io/directory_hints.hpp>

#include <filesystem>
#include <string>

#include "io_test.hpp"

using namespace io_test;
using losa::detail::expect_directory;
using losa::detail::kind_in_words;
using losa::detail::largest_file_in_words;

TEST_CASE("directory hints: what a file is, and nothing where that is not known") {
  TempDir dir;
  spit(dir / "lfs", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
  CHECK(kind_in_words(dir / "lfs") == "a Git LFS pointer: run `git lfs pull`");
  spit(dir / "json", "{}");
  CHECK(kind_in_words(dir / "json").empty());
  CHECK(kind_in_words(dir / "absent").empty());
  CHECK(kind_in_words(dir.path()).empty());
  CHECK(sentence([&] { expect_directory(dir.path()); }).empty());
  CHECK(sentence([&] { expect_directory(dir / "json"); }) == (dir / "json") + ": is not a directory");
  CHECK(sentence([&] { expect_directory(dir / "absent"); }) == (dir / "absent") + ": is not a directory");
  CHECK(sentence([&] { expect_directory(dir / "lfs"); }) ==
        (dir / "lfs") + ": is not a directory but a Git LFS pointer: run `git lfs pull`");
  spit(dir / "config.json", "{}");
  CHECK(sentence([&] { expect_directory(dir / "json"); }) ==
        (dir / "json") + ": is not a directory; give the directory that holds it");
  CHECK(sentence([&] { expect_directory(dir / "absent"); }) == (dir / "absent") + ": is not a directory");
}

TEST_CASE("directory hints: the largest file") {
  TempDir dir;
  CHECK(largest_file_in_words(dir.path()).empty());
  CHECK(largest_file_in_words(dir / "absent").empty());
  std::filesystem::create_directory(dir / "folder");
  spit(dir / "b", "xx");
  spit(dir / "a", "xx");
  spit(dir / "c", "x");
  CHECK(largest_file_in_words(dir.path()) == "; its largest file is \"a\", text (\"xx\")");
  spit(dir / "model.gguf", std::string("GGUF\3\0\0\0", 8));
  CHECK(largest_file_in_words(dir.path()) == "; its largest file is \"model.gguf\", a GGUF model: convert it first");
  spit(dir / "z", std::string(100, '\1'));
  CHECK(largest_file_in_words(dir.path()) == "; its largest file is \"z\"");
}
