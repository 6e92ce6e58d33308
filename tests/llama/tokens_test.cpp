#include "tokens.hpp"

#include <doctest/doctest.h>

#include <string>

#include "toy_model.hpp"

using llama::read_tokens;
using llama::Token;

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
  CHECK_THROWS_WITH_AS(read_tokens(folder / "none", 256), doctest::Contains("cannot be opened"), losa::FileError);
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
