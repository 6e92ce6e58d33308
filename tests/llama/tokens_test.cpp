#include "tokens.hpp"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <thread>

#include "toy_model.hpp"

using llama::open_tokens;
using llama::read_tokens;
using llama::Token;
using llama::Tokens;

TEST_CASE("tokens: widths follow the vocabulary or are given") {
  const toy::Folder folder;
  const auto path = folder / "t";
  toy::write_text(path, std::string("\x01\x02\x03\x00", 4));
  CHECK(read_tokens(path, 256) == std::vector<Token>{1, 2, 3, 0});
  CHECK(read_tokens(path, 65536) == std::vector<Token>{0x0201, 0x0003});
  CHECK(read_tokens(path, 1u << 30, 32) == std::vector<Token>{0x00030201});
  CHECK(read_tokens(path, 65536, 8) == std::vector<Token>{1, 2, 3, 0});
  CHECK(llama::default_token_bits(256) == 8);
  CHECK(llama::default_token_bits(257) == 16);
  CHECK(llama::default_token_bits(65536) == 16);
  CHECK(llama::default_token_bits(65537) == 32);
}

TEST_CASE("tokens: what cannot be read is refused in one sentence") {
  const toy::Folder folder;
  const auto path = folder / "t";
  toy::write_text(path, "abc");
  CHECK_THROWS_WITH_AS(read_tokens(path, 1000), doctest::Contains("3 bytes are no whole number of 16-bit tokens"),
                       losa::FileError);
  CHECK_THROWS_WITH_AS(read_tokens(path, 98), doctest::Contains("token 1 is 98, outside the vocabulary of 98"),
                       losa::RangeError);
  CHECK_THROWS_WITH_AS(read_tokens(path, 256, 12), doctest::Contains("must be 8, 16 or 32, got 12"), losa::RangeError);
  toy::write_text(path, "");
  CHECK_THROWS_WITH_AS(read_tokens(path, 256), doctest::Contains("holds no tokens"), losa::FileError);
  CHECK_THROWS_WITH_AS(read_tokens(folder / "none", 256), doctest::Contains("cannot open for reading: No such file"),
                       losa::FileError);
  CHECK_THROWS_WITH_AS(read_tokens("", 256), "the name of the token file is empty", losa::FileError);
  CHECK_THROWS_WITH_AS(read_tokens(folder.path, 256), doctest::Contains("is a directory"), losa::FileError);
}

TEST_CASE("tokens: sequence i of n starts at i times the whole part of tokens/n") {
  const std::vector<Token> tokens = toy::tokens(103, 19);
  for (std::size_t i = 0; i < 10; ++i) {
    const auto window = llama::spread_window(tokens, 10, i, 10);
    CHECK(window.size() == 10);
    CHECK(window.data() == tokens.data() + 10 * i);
  }
  CHECK_NOTHROW(llama::spread_window(tokens, 10, 9, 13));
  CHECK_THROWS_AS(llama::spread_window(tokens, 10, 9, 14), losa::RangeError);
  CHECK_THROWS_AS(llama::spread_window(tokens, 10, 10, 1), losa::RangeError);
  CHECK_THROWS_AS(llama::spread_window(tokens, 1, 0, 104), losa::RangeError);
}

TEST_CASE("tokens: spread_start is where spread_window begins") {
  for (std::size_t i = 0; i < 10; ++i) CHECK(llama::spread_start(103, 10, i, 10) == 10 * i);
  CHECK_THROWS_AS(llama::spread_start(103, 10, 9, 14), losa::RangeError);
  CHECK_THROWS_AS(llama::spread_start(103, 10, 10, 1), losa::RangeError);
}

TEST_CASE("tokens: memory and files of every width read alike, whole, in parts and in pieces") {
  const toy::Folder folder;
  std::vector<Token> ids(200'001);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<Token>(i * 2654435761u % 251);
  const auto file = [&](std::size_t width) {
    std::string bytes;
    for (Token id : ids) bytes.append(reinterpret_cast<const char*>(&id), width);
    const auto path = folder / std::to_string(width);
    toy::write_text(path, bytes);
    return open_tokens(path, 251, 8 * width);
  };
  for (const Tokens& tokens : {Tokens(ids), Tokens(std::span<const Token>(ids)), file(1), file(2), file(4)}) {
    CHECK(tokens.size() == ids.size());
    CHECK(tokens.read(0, ids.size()) == ids);
    const Tokens part = tokens.part(70'000, 100'000).part(7, 90'000);
    CHECK(part.size() == 90'000);
    CHECK(part.read(5, 3) == std::vector<Token>(ids.begin() + 70'012, ids.begin() + 70'015));
    std::vector<Token> joined;
    part.for_each_piece([&](std::span<const Token> piece) { joined.insert(joined.end(), piece.begin(), piece.end()); });
    CHECK(joined == std::vector<Token>(ids.begin() + 70'007, ids.begin() + 160'007));
    CHECK(part.same_as(tokens.part(70'007, 90'000)));
    CHECK_FALSE(part.same_as(tokens));
    CHECK_NOTHROW(tokens.check(251));
    CHECK_THROWS_AS(tokens.check(250), losa::RangeError);
    CHECK_THROWS_AS(part.read(89'999, 2), losa::RangeError);
    CHECK_THROWS_AS(part.read(90'001, 0), losa::RangeError);
    CHECK_THROWS_AS(tokens.part(1, ids.size()), losa::RangeError);
    CHECK_THROWS_AS(tokens.part(~std::size_t{0}, 2), losa::RangeError);
  }
  CHECK(Tokens().size() == 0);
  CHECK(Tokens().read(0, 0).empty());
}

TEST_CASE("tokens: ids outside the vocabulary are told when they are read, with their place in the file") {
  const toy::Folder folder;
  std::string bytes(100'000, '\5');
  bytes[70'001] = '\xc8';
  toy::write_text(folder / "t", bytes);
  const Tokens tokens = open_tokens(folder / "t", 200);
  CHECK(tokens.read(0, 70'001).size() == 70'001);
  const std::string says = (folder / "t").string() + ": token 70001 is 200, outside the vocabulary of 200";
  CHECK_THROWS_WITH_AS(tokens.read(70'000, 2), says.c_str(), losa::RangeError);
  CHECK_THROWS_WITH_AS(tokens.part(60'000, 20'000).read(10'000, 5), says.c_str(), losa::RangeError);
  CHECK_THROWS_WITH_AS(tokens.check(200), says.c_str(), losa::RangeError);
  CHECK_THROWS_WITH_AS(Tokens(std::vector<Token>{1, 2, 300}).check(300),
                       "token 2 is 300, outside the vocabulary of 300", losa::RangeError);
}

TEST_CASE("tokens: of a file of 400 MB only what is asked for takes memory") {
  const toy::Folder folder;
  const auto path = folder / "t";
  toy::write_text(path, std::string("\1\0\2\0", 4));
  REQUIRE(::truncate(path.c_str(), 400'000'000) == 0);
  const auto held = [] {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss * 1024l;
  };
  const long before = held();
  const Tokens tokens = open_tokens(path, 32'000);
  CHECK(tokens.size() == 200'000'000);
  CHECK(tokens.read(0, 3) == std::vector<Token>{1, 2, 0});
  CHECK(tokens.read(199'999'990, 10) == std::vector<Token>(10, 0));
  tokens.check(32'000);
  CHECK(held() - before < 16'000'000);
}

TEST_CASE("tokens: a pipe is read to its end") {
  const toy::Folder folder;
  const auto path = folder / "pipe";
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  const std::string bytes(300'000, 'x');
  std::thread writer([&] { toy::write_text(path, bytes); });
  const Tokens tokens = open_tokens(path, 256);
  writer.join();
  CHECK(tokens.size() == bytes.size());
  CHECK(tokens.read(299'998, 2) == std::vector<Token>{'x', 'x'});
}
