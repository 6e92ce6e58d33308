// That a damaged file of vectors is found out.
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <losa/core/random.hpp>

#include "golden.hpp"

namespace {

/// A file that goes away with the test.
class Scratch {
 public:
  explicit Scratch(const std::string& name)
      : path_(std::filesystem::temp_directory_path() /
              (name + "." + std::to_string(reinterpret_cast<std::uintptr_t>(this)) + ".json")) {}
  ~Scratch() {
    std::filesystem::remove(path_);
    std::filesystem::remove(path_.string() + ".sha256");
  }
  const std::filesystem::path& write(const std::string& text, const std::string& suffix = "") {
    std::ofstream(path_.string() + suffix, std::ios::binary) << text;
    return path_;
  }

 private:
  std::filesystem::path path_;
};

const golden::Shipped& shipped() {
  static const golden::Shipped file = golden::load_shipped(LOSA_TEST_DATA "/golden_losa.json");
  return file;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("SHA-256 of known texts") {
  CHECK(golden::sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(golden::sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(golden::sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

TEST_CASE("numbers are written as Python writes them") {
  CHECK(golden::python_repr(0.1) == "0.1");
  CHECK(golden::python_repr(1.0) == "1.0");
  CHECK(golden::python_repr(-0.0) == "-0.0");
  CHECK(golden::python_repr(1e-5) == "1e-05");
  CHECK(golden::python_repr(0.0001) == "0.0001");
  CHECK(golden::python_repr(2.2305762423783764e-07) == "2.2305762423783764e-07");
  CHECK(golden::python_repr(1e16) == "1e+16");
  CHECK(golden::python_repr(123456789012345.6) == "123456789012345.6");
  CHECK(golden::scan_json(R"({ "a:b" : [1, -2.5, 1e-07] })").compact == R"({"a:b":[1,-2.5,1e-07]})");
  CHECK(golden::scan_json(R"({"a:b":1,"c":{"d":2}})").keys == 3);
  for (const char* bad : {"[0.30000000000000005]", "[1E-07]", "[1.50]", "[01]", "[1e5]", "[0.5x]"})
    CHECK_THROWS_AS(golden::scan_json(bad), std::runtime_error);
}

TEST_CASE("the vectors load, from the shipped file or the one that is named") { CHECK_NOTHROW(golden::vectors()); }

TEST_CASE("a copy of the shipped file passes, also with other white space") {
  Scratch file("losa_copy");
  CHECK_NOTHROW(golden::load_other(file.write(shipped().text), shipped()));
  CHECK_NOTHROW(golden::load_other(file.write(replaced(shipped().text, ",\"seed\":", " ,\n  \"seed\" : ")), shipped()));
}

TEST_CASE("a missing, empty or cut-off file fails") {
  Scratch file("losa_cut");
  CHECK_THROWS_AS(golden::load_other("/nonexistent/golden.json", shipped()), std::runtime_error);
  CHECK_THROWS_AS(golden::load_shipped("/nonexistent/golden.json"), std::runtime_error);
  CHECK_THROWS_AS(golden::load_other(file.write(""), shipped()), std::runtime_error);
  CHECK_THROWS_AS(golden::load_other(file.write("{}"), shipped()), std::runtime_error);
  CHECK_THROWS_AS(golden::load_other(file.write(shipped().text.substr(0, 500000)), shipped()), std::runtime_error);
}

TEST_CASE("one wrong bit anywhere in a copy of the shipped file fails") {
  const std::string& text = shipped().text;
  Scratch file("losa_bit");
  const losa::Random random{.seed = 99};
  std::vector<std::size_t> bits;
  for (std::uint64_t i = 0; i < 24; ++i) bits.push_back(random.below(text.size() * 8, i));
  for (std::size_t bit = 15 * 8; bit < 20 * 8; bit += 9) bits.push_back(bit);  // in `reference`
  const std::size_t seed = text.find("20260");
  for (std::size_t i = 0; i < 5; ++i) bits.push_back((seed + i) * 8 + i % 3);
  for (std::size_t bit : bits) {
    std::string damaged = text;
    damaged[bit / 8] = static_cast<char>(static_cast<unsigned char>(damaged[bit / 8]) ^ (1u << (bit % 8)));
    CAPTURE(bit);
    CHECK_THROWS_AS(golden::load_other(file.write(damaged), shipped()), std::runtime_error);
    CHECK_THROWS_AS(golden::load_shipped(file.write(damaged)), std::runtime_error);
  }
}

TEST_CASE("missing, unknown and repeated keys, ragged rows and numbers out of form fail") {
  Scratch file("losa_form");
  const std::string text = replaced(shipped().text, "\"seed\":20260", "\"seed\":1");
  for (const auto& [from, to] :
       std::vector<std::pair<std::string, std::string>>{{"\"damp\"", "\"dump\""},
                                                        {"\"block\":16", "\"block\":16,\"blocks\":16"},
                                                        {"\"keep_s0.5\"", "\"keep_s0.7\""},
                                                        {"\"seed\":1", "\"seed\":1,\"seed\":1"},
                                                        {"\"seed\":1", "\"seed\":-1"},
                                                        {"\"seed\":1", "\"seed\":1.0"},
                                                        {"wzhuang-xmu", "someone"},
                                                        {"row-major", "column-major"}})
    CHECK_THROWS_AS(golden::load_other(file.write(replaced(text, from, to)), shipped()), std::runtime_error);
  CHECK_THROWS_AS(golden::matrix(golden::Json::parse("[[1,2],[3]]"), "m"), std::runtime_error);
  CHECK_THROWS_AS(golden::matrix(golden::Json::parse("[[1,2],[3,null]]"), "m"), std::runtime_error);
  CHECK_THROWS_AS(golden::matrix(golden::Json::parse("[[1,2]]"), "m", 2, 1), std::runtime_error);
  CHECK_THROWS_AS(golden::mask(golden::Json::parse("[[1,2]]"), "m", 1, 2), std::runtime_error);
  CHECK_THROWS_AS(golden::mask(golden::Json::parse("[[1,0.0]]"), "m", 1, 2), std::runtime_error);
  CHECK_THROWS_AS(golden::float_matrix(golden::Json::parse("[[0.1]]"), "m", 1, 1), std::runtime_error);
}

TEST_CASE("a hash that lies beside the file is checked") {
  Scratch file("losa_hash");
  const std::string& text = shipped().text;
  file.write(golden::sha256(text) + "  golden.json\n", ".sha256");
  CHECK_NOTHROW(golden::load_other(file.write(text), shipped()));
  file.write(golden::sha256("something else") + "\n", ".sha256");
  CHECK_THROWS_AS(golden::load_other(file.write(text), shipped()), std::runtime_error);
}
