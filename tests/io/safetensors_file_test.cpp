#include <losa/io/safetensors_file.hpp>

#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "io_test.hpp"

using namespace io_test;
using losa::bf16;
using losa::f16;
using losa::io::Dtype;
using losa::io::read_f32;
using losa::io::read_values;
using losa::io::SafetensorsFile;

namespace {

SafetensorsFile parse(const std::string& bytes) { return SafetensorsFile::from_memory(bytes_of(bytes), "m"); }
std::string refusal(const std::string& bytes) {
  return sentence([&] { parse(bytes); });
}
std::string refusal(std::string_view header, std::size_t data) {
  return refusal(safetensors(header, std::string(data, '\0')));
}

}  // namespace

TEST_CASE("safetensors: tensors, metadata, holes, trailing bytes, unaligned offsets") {
  // One byte of hole before `b`, which makes it unaligned, and five bytes after the last tensor.
  const std::string bytes =
      safetensors(R"({"__metadata__":{"format":"pt","k":"v"},"b":{"dtype":"F32","shape":[2,3],"data_offsets":[5,29]},)"
                  R"("a":{"shape":[2],"data_offsets":[0,4],"dtype":"BF16","extra":[{"x":[1]}]},)"
                  R"("e":{"dtype":"I64","shape":[0,7],"data_offsets":[3,3]}}   )",
                  raw<std::uint16_t>({0x3f80, 0xc000}) + "?" + raw<float>({1, 2, 3, 4, 5, -6}) + "tail!");
  const SafetensorsFile file = parse(bytes);
  CHECK(file.path() == "m");
  CHECK(file.metadata().at("format") == "pt");
  CHECK(file.metadata().at("k") == "v");
  REQUIRE(file.tensors().size() == 3);
  CHECK(file.tensors()[0].name == "a");  // in the order of their data
  CHECK(file.tensors()[2].name == "b");
  CHECK(file.find("c") == nullptr);
  CHECK(sentence([&] { file.at("c"); }) == "m: tensor \"c\" is missing");

  const auto& b = file.at("b");
  CHECK(b.dtype == Dtype::f32);
  CHECK(b.shape == std::vector<std::size_t>{2, 3});
  CHECK(b.rows() == 2);
  CHECK(b.cols() == 3);
  CHECK(b.elements() == 6);
  std::vector<float> rows(2 * 4, 9.0f);
  read_f32(b, losa::view(rows.data(), 2, 3, 4));
  CHECK(rows == std::vector<float>{1, 2, 3, 9, 4, 5, -6, 9});
  std::vector<float> last(3);
  read_f32(b, losa::view(last.data(), 1, 3), {.first_row = 1});
  CHECK(last == std::vector<float>{4, 5, -6});
  std::vector<float> middle(2);
  read_f32(b, middle, {.first_row = 2});
  CHECK(middle == std::vector<float>{3, 4});
  CHECK(read_values<float>(b) == std::vector<float>{1, 2, 3, 4, 5, -6});

  const auto& a = file.at("a");  // a vector is one row
  CHECK(a.rows() == 1);
  CHECK(a.cols() == 2);
  std::vector<float> values(2);
  read_f32(a, losa::view(values.data(), 1, 2));
  CHECK(values == std::vector<float>{1, -2});
  CHECK(file.at("e").elements() == 0);
  CHECK(read_values<std::int64_t>(file.at("e")).empty());

  CHECK(sentence<losa::ShapeError>([&] { read_f32(b, losa::view(rows.data(), 2, 3), {.first_row = 1}); }) ==
        "read_f32: rows [1, 3) of 3 columns from tensor \"b\" of shape [2, 3]");
  CHECK(sentence<losa::ShapeError>([&] { read_f32(b, losa::view(rows.data(), 1, 2)); }) ==
        "read_f32: rows [0, 1) of 2 columns from tensor \"b\" of shape [2, 3]");
  CHECK(sentence<losa::RangeError>([&] { read_f32(b, middle, {.first_row = 5}); }) ==
        "read_f32: elements [5, 7) of tensor \"b\", which has 6");
  CHECK(sentence([&] { read_values<double>(b); }) == "m: tensor \"b\": dtype must be F64, got F32");
}

TEST_CASE("safetensors: metadata that is null is none") {  // as the reference reader has it
  const std::string bytes = safetensors(
      R"({"__metadata__":null,"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":null}})", raw<float>({7}));
  const SafetensorsFile file = parse(bytes);
  CHECK(file.metadata().empty());
  CHECK(file.tensors().size() == 1);
  CHECK(read_values<float>(file.at("a")) == std::vector<float>{7});
  CHECK(parse(safetensors(R"({"__metadata__":null})")).tensors().empty());
}

TEST_CASE("safetensors: a file that is something else is told by name") {
  TempDir dir;
  spit(dir / "m", "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 269060552\n");
  CHECK(sentence([&] { SafetensorsFile(dir / "m"); }) ==
        (dir / "m") + ": is a Git LFS pointer, not a safetensors file: run `git lfs pull`");
  CHECK(refusal("<!DOCTYPE html><html>").starts_with("m: is an HTML page"));
  CHECK(refusal(std::string("PK\3\4\0\0\0\0\0\0", 10)).starts_with("m: is a zip archive, not a safetensors file: "));
  CHECK(refusal(std::string(9, '\0')).starts_with("m: is zeros from its beginning"));
}

TEST_CASE("safetensors: a moved file keeps its tensors") {
  TempDir dir;
  spit(dir / "x", safetensors(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", raw<float>({7})));
  SafetensorsFile first(dir / "x");
  SafetensorsFile file = std::move(first);
  CHECK(*file.at("a").file == dir / "x");
  CHECK(read_values<float>(file.at("a")) == std::vector<float>{7});
  CHECK(file.at("a").rows() == 1);
  CHECK(file.at("a").cols() == 1);
  CHECK(sentence([&] { SafetensorsFile(dir / "y"); }) ==
        (dir / "y") + ": cannot open for reading: No such file or directory");
}

TEST_CASE_TEMPLATE("safetensors: every dtype", T, double, float, f16, bf16, std::int64_t, std::int32_t, std::int16_t,
                   std::int8_t, std::uint64_t, std::uint32_t, std::uint16_t, std::uint8_t) {
  constexpr Dtype dtype = losa::io::dtype_of<T>();
  CHECK(size_of(dtype) == sizeof(T));
  CHECK(losa::io::parse_dtype(name(dtype)) == dtype);
  std::string data(3 * sizeof(T) + 1, '\0');
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i + 1);
  const std::string header = losa::detail::text(R"({"x":{"dtype":")", name(dtype),
                                                R"(","shape":[3],"data_offsets":[1,)", 1 + 3 * sizeof(T), "]}}");
  const std::string bytes = safetensors(header, data);
  const SafetensorsFile file = parse(bytes);
  const std::vector<T> values = read_values<T>(file.at("x"));
  REQUIRE(values.size() == 3);
  CHECK(std::memcmp(values.data(), data.data() + 1, 3 * sizeof(T)) == 0);
  std::vector<float> widened(3);
  if constexpr (std::is_integral_v<T>) {
    CHECK(sentence([&] { read_f32(file.at("x"), widened); }) ==
          losa::detail::text("m: tensor \"x\": dtype must be F32, BF16, F16 or F64, got ", name(dtype)));
  } else {
    read_f32(file.at("x"), widened);
    for (std::size_t i = 0; i < 3; ++i) CHECK(widened[i] == static_cast<float>(losa::widen(values[i])));
  }
}

TEST_CASE("safetensors: BOOL, and dtypes that are only named") {
  const std::string bytes = safetensors(R"({"b":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]},)"
                                        R"("c":{"dtype":"BOOL","shape":[1,2],"data_offsets":[2,4]},)"
                                        R"("f":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[4,8]}})",
                                        std::string("\0\1\1\2....", 8));
  const SafetensorsFile file = parse(bytes);
  CHECK(read_values<std::uint8_t>(file.at("b")) == std::vector<std::uint8_t>{0, 1});
  CHECK(sentence([&] { read_values<std::uint8_t>(file.at("c")); }) ==
        "m: tensor \"c\": BOOL at [0, 1] must be 0 or 1, got 2");
  CHECK(losa::io::dtype_of<bool>() == Dtype::boolean);
  CHECK(file.at("f").dtype == Dtype::other);
  std::vector<float> values(4);
  CHECK(sentence([&] { read_f32(file.at("f"), values); }) ==
        "m: tensor \"f\": dtype must be F32, BF16, F16 or F64, got F8_E4M3");
  CHECK(sentence([&] { read_values<float>(file.at("f")); }) == "m: tensor \"f\": dtype must be F32, got F8_E4M3");
  const auto of_header = [](const std::string& text) {
    return sentence([&] { SafetensorsFile::from_memory(bytes_of(safetensors(text, "")), "m"); });
  };
  CHECK(of_header("\xef\xbb\xbf{}") == "m: not valid JSON at byte 1, a byte-order mark");
  CHECK(of_header(std::string("{}\0", 3)) == "m: not valid JSON at byte 3, a NUL");
  const auto named = [](const char* shape) {
    const std::string header =
        losa::detail::text(R"({"f":{"dtype":"F4","shape":)", shape, R"(,"data_offsets":[0,2]}})");
    return sentence([&] { SafetensorsFile::from_memory(bytes_of(safetensors(header, "ab")), "m"); });
  };
  CHECK(named("[2,8]").empty());  // two bytes of bits
  CHECK(named("[2,33333333333]") ==
        "m: tensor \"f\": F4 of shape [2, 33333333333] cannot lie in the 2 bytes of offsets [0, 2)");
}

TEST_CASE("safetensors: NaN and Inf are found where they are, also past the first chunk") {
  const std::size_t n = 3000;
  for (const std::size_t at : {std::size_t{0}, std::size_t{1023}, std::size_t{1024}, std::size_t{2999}})
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()}) {
      std::vector<float> values(n, 0.5f);
      values[at] = bad;
      const std::string bytes =
          safetensors(R"({"x":{"dtype":"F32","shape":[30,100],"data_offsets":[0,12000]}})", raw(values));
      const SafetensorsFile file = parse(bytes);
      std::vector<float> out(n);
      CHECK(sentence([&] { read_f32(file.at("x"), losa::view(out.data(), 30, 100)); }) ==
            losa::detail::text("m: tensor \"x\": ",
                               std::isnan(bad) ? "NaN"
                               : bad > 0       ? "Inf"
                                               : "-Inf",
                               " at [", at / 100, ", ", at % 100, "]"));
      CHECK(sentence([&] { read_f32(file.at("x"), out); }) != "");
      read_f32(file.at("x"), out, {.check_finite = false});
      CHECK(std::memcmp(out.data(), values.data(), n * 4) == 0);
    }
  // A double that no float can hold.
  const std::string bytes =
      safetensors(R"({"x":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}})", raw<double>({1e300}));
  std::vector<float> out(1);
  CHECK(sentence([&] { read_f32(parse(bytes).at("x"), out); }) == "m: tensor \"x\": Inf at [0]");
}

TEST_CASE("safetensors: every lie is refused in one sentence") {
  CHECK(refusal("1234567") ==
        "m: 7 bytes are too few for a safetensors file, which starts with an 8-byte header length");
  CHECK(refusal(raw<std::uint64_t>({100'000'001})) == "m: header of 100000001 bytes is above the limit of 100000000");
  CHECK(refusal(raw<std::uint64_t>({~std::uint64_t{0}})) ==
        "m: header of 18446744073709551615 bytes is above the limit of 100000000");
  CHECK(refusal(raw<std::uint64_t>({9}) + "12345678") ==
        "m: header of 9 bytes is cut off after 8: download or copy the file again");
  CHECK(refusal("", 0) == "m: not valid JSON at byte 1");
  CHECK(refusal("{\"a\":", 0) == "m: not valid JSON at byte 6");
  CHECK(refusal("{} {}", 0) == "m: not valid JSON at byte 4");
  CHECK(refusal("{\"\xff\":1}", 0) == "m: not valid JSON at byte 3");
  CHECK(refusal("[]", 0) == "m: header is not a JSON object");
  CHECK(refusal("3", 0) == "m: header is not a JSON object");
  CHECK(refusal(R"({"a":3})", 0) == "m: tensor \"a\": its description is not a JSON object");
  CHECK(refusal(R"({"a":[]})", 0) == "m: tensor \"a\": its description is not a JSON object");
  CHECK(refusal(R"({"__metadata__":3})", 0) == "m: __metadata__ is not a JSON object");
  CHECK(refusal(R"({"__metadata__":[]})", 0) == "m: __metadata__ is not a JSON object");
  CHECK(refusal(R"({"__metadata__":{"k":null}})", 0) == "m: __metadata__ entry \"k\" is not a string");
  CHECK(refusal(R"({"__metadata__":{"k":1}})", 0) == "m: __metadata__ entry \"k\" is not a string");
  CHECK(refusal(R"({"__metadata__":{"k":["a"]}})", 0) == "m: __metadata__ entry \"k\" is not a string");
  CHECK(refusal(R"({"__metadata__":{"k":{}}})", 0) == "m: __metadata__ entry \"k\" is not a string");
  CHECK(refusal(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{}})", 1) ==
        "m: JSON key \"a\" appears twice");
  CHECK(refusal(R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1) ==
        "m: JSON key \"dtype\" appears twice");
  CHECK(refusal(R"({"a":{"shape":[1],"data_offsets":[0,1]}})", 1) == "m: tensor \"a\": dtype is missing");
  CHECK(refusal(R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", 1) == "m: tensor \"a\": shape is missing");
  CHECK(refusal(R"({"a":{"dtype":"U8","shape":[1]}})", 1) == "m: tensor \"a\": data_offsets is missing");
  for (const char* dtype : {"3", "null", "[\"U8\"]", "{}"})
    CHECK(refusal(losa::detail::text(R"({"a":{"dtype":)", dtype, R"(,"shape":[1],"data_offsets":[0,1]}})"), 1) ==
          "m: tensor \"a\": dtype is not a string");
  for (const char* shape :
       {"1", "\"1\"", "[-1]", "[1.0]", "[1e3]", "[18446744073709551616]", "[[1]]", "[{}]", "{}", "[true]", "[null]"})
    CHECK(refusal(losa::detail::text(R"({"a":{"dtype":"U8","shape":)", shape, R"(,"data_offsets":[0,1]}})"), 1) ==
          "m: tensor \"a\": shape is not an array of whole numbers");
  for (const char* offsets : {"1", "[-1,0]", "[0,\"1\"]", "[0,[1]]", "{}"})
    CHECK(refusal(losa::detail::text(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":)", offsets, "}}"), 1) ==
          "m: tensor \"a\": data_offsets is not an array of whole numbers");
  CHECK(refusal(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}})", 1) ==
        "m: tensor \"a\": data_offsets must be 2 numbers, got 1");
  CHECK(refusal(R"({"lm_head.weight":{"dtype":"U8","shape":[1],"data_offsets":[100,50]}})", 200) ==
        "m: tensor \"lm_head.weight\": offsets [100, 50) run backwards");
  CHECK(
      refusal(R"({"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}})", 8) ==
      "m: tensor \"a\": offsets [0, 9) leave the data, which has 8 bytes: the file may be cut off, download or copy it "
      "again");
  CHECK(refusal(R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,20]}})", 20) ==
        "m: tensor \"a\": F32 of shape [2, 3] takes 24 bytes, but offsets [0, 20) hold 20");
  CHECK(refusal(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,0]}})", 0) ==
        "m: tensor \"a\": F32 of shape [] takes 4 bytes, but offsets [0, 0) hold 0");
  CHECK(refusal(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                R"("b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}})",
                8) == "m: tensors \"a\" and \"b\" overlap: [0, 4) and [3, 7)");
  CHECK(refusal(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},)"
                R"("b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
                4) == "m: tensors \"b\" and \"a\" overlap: [0, 4) and [1, 3)");
  CHECK(refusal(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                R"("b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
                4) != "");
}

TEST_CASE("safetensors: shapes whose product overflows") {
  for (const char* shape : {"[4294967296,4294967296]", "[4611686018427387904]", "[0,4294967296,4294967296]",
                            "[18446744073709551615]", "[2,2,4611686018427387904]"})
    CHECK(refusal(losa::detail::text(R"({"a":{"dtype":"F32","shape":)", shape, R"(,"data_offsets":[0,0]}})"), 0)
              .ends_with(" overflows"));
  // The largest that does not overflow does not fit the file either.
  CHECK(refusal(R"({"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,0]}})", 0).find("takes") !=
        std::string::npos);
  // An unknown dtype has no size to check, its shape still must not overflow.
  CHECK(refusal(R"({"a":{"dtype":"F4","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0)
            .ends_with(" overflows"));
}

TEST_CASE("safetensors: deep JSON costs no stack, and names stay on one line") {
  for (const char* open : {"[", "{\"a\":"}) {
    std::string deep;
    for (int i = 0; i < 1'000'000; ++i) deep += open;
    CHECK(refusal("{\"x\":{\"y\":" + deep, 0) == "m: JSON is nested deeper than 16 levels");
  }
  CHECK(refusal(R"({"a\nb":3})", 0) == "m: tensor \"a?b\": its description is not a JSON object");
  const std::string longest = refusal("{\"" + std::string(5000, 'n') + "\":3}", 0);
  CHECK(longest.size() < 300);
  CHECK(longest.find("...") != std::string::npos);
  CHECK(losa::detail::shape_text(std::vector<std::size_t>(20, 1)).ends_with(", ...]"));
}

TEST_CASE("safetensors: every truncation is refused, every flipped bit is refused or harmless") {
  const std::string whole = safetensors(R"({"__metadata__":{"format":"pt"},)"
                                        R"("w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                                        R"("n":{"dtype":"BF16","shape":[2],"data_offsets":[24,28]}})",
                                        raw<float>({1, 2, 3, 4, 5, 6}) + raw<std::uint16_t>({0x3f80, 0x4000}));
  for (std::size_t size = 0; size < whole.size(); ++size) {
    // A copy of exactly this size, so that a sanitizer sees any read beyond it.
    const std::vector<char> cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    CAPTURE(size);
    CHECK(sentence([&] { SafetensorsFile::from_memory(std::as_bytes(std::span(cut)), "m"); }).starts_with("m: "));
  }
  std::size_t accepted = 0;
  for (std::size_t bit = 0; bit < whole.size() * 8; ++bit) {
    std::vector<char> flipped(whole.begin(), whole.end());
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    try {
      const auto file = SafetensorsFile::from_memory(std::as_bytes(std::span(flipped)), "m");
      for (const auto& tensor : file.tensors()) {
        std::vector<float> out(tensor.elements());
        read_f32(tensor, out);
      }
      ++accepted;
    } catch (const losa::FileError&) {
    }
  }
  CHECK(accepted > 28 * 8 / 2);  // most bits of the data make another number
  CHECK(accepted < whole.size() * 8);
}
