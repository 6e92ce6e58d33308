#include <losa/io/file_kind.hpp>

#include <string>
#include <vector>

#include "io_test.hpp"

using namespace io_test;
using losa::io::FileContent;
using losa::io::refuse_other_content;

namespace {

using namespace std::string_literals;

std::string refusal(const std::string& bytes, FileContent expected) {
  return sentence([&] { refuse_other_content(bytes_of(bytes), "f", expected); });
}

struct Other {
  std::string bytes;
  std::string says;  // after "f: is "
};

// What ends a sentence that expects safetensors.
const std::string not_it = ", not a safetensors file";

const std::vector<Other> pointers = {
    {"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "a Git LFS pointer"},
    {"version https://git-lfs.github.com/spec/v1\r\noid sha256:4d7a\r\nsize 12\r\n", "a Git LFS pointer"},
    {"\xef\xbb\xbfversion https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "a Git LFS pointer"},
    {"version https://git-lfs.github.com/spec/v2\next-0-x sha256:0\n", "a Git LFS pointer"},
    {"version https://hawser.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "a Git LFS pointer"},
    {"version http://git-media.io/v/2\noid sha256:4d7a\nsize 12\n", "a Git LFS pointer"},
    {"# git-media\n4d7a\n", "a Git LFS pointer"},
    {"# xet version 0\nfilesize = 12\nhash = '4d7a'\n", "a Xet pointer"},
    {"/annex/objects/SHA256E-s12--4d7a.safetensors\n", "a git-annex pointer"},
    {"../.git/annex/objects/xP/3G/SHA256E-s12--4d7a/SHA256E-s12--4d7a", "a git-annex pointer"},
    {"..\\.git\\annex\\objects\\xP\\3G\\SHA256E-s12--4d7a", "a git-annex pointer"},
    {"../../blobs/4d7a5f", "the text of a symbolic link"},
    {"XSym\n0018\n4d7a\n../../blobs/4d7a5f\n", "the text of a symbolic link"},
    {"!<symlink>\xff\xfe.\0.\0"s, "the text of a symbolic link"},
};

const std::string zip = "PK\x03\x04\x14\0\0\0\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"s;

const std::vector<Other> formats = {
    {zip + "weights/a.txt", "a zip archive"},
    {zip + "archive/data.pkl", "a PyTorch checkpoint"},
    {zip + "pytorch_model/data.pkl", "a PyTorch checkpoint"},
    {zip + "arr_0.npy", "a NumPy archive (.npz)"},
    {"PK\x05\x06"s + std::string(18, '\0'), "an empty zip archive"},
    {"\x1f\x8b\x08\0\0\0\0\0\0\x03"s, "compressed with gzip"},
    {"\x1f\x8b\x08\x08\x10\x20\x30\x40\x02\x03"s + "model.safetensors", "compressed with gzip"},
    {"\x28\xb5\x2f\xfd\x24\0\x01\0\0"s, "compressed with zstd"},
    {"\xfd\x37zXZ\0\0\x04"s, "compressed with xz"},
    {"BZh91AY&SY\x10\x20", "compressed with bzip2"},
    {"\x04\x22\x4d\x18\x60\x40\x82\x10", "compressed with lz4"},
    {"\xff\x06\0\0sNaPpY\0"s, "compressed with snappy"},
    {"LZIP\x01\x0c\x10\x20", "compressed with lzip"},
    {"7z\xbc\xaf\x27\x1c\0\x04"s, "a 7z archive"},
    {"Rar!\x1a\x07\x01\0"s, "a rar archive"},
    {"!<arch>\ndebian-binary   1", "an ar archive"},
    {"model.safetensors"s + std::string(240, '\0') + "ustar  \0"s, "a tar archive"},
    {"GGUF\x03\0\0\0\x10\0\0\0"s, "a GGUF model"},
    {"tjgg\x03\0\0\0"s, "a GGML model"},
    {"lmgg\0\x7d\0\0"s, "a GGML model"},
    {"\x89HDF\r\n\x1a\n\0"s, "an HDF5 file"},
    {"\x93NUMPY\x01\0v\0{'descr'"s, "a NumPy array (.npy)"},
    {"\x80\x02\x8a\nl\xfc\x9c\x46\xf9 j\xa8P\x19.\x80\x02M", "a PyTorch checkpoint of the old form"},
    {"\x80\x04\x95\x10\0\0\0\0\0\0\0}"s, "a Python pickle"},
    {"\x08\x08\x12\x07pytorch\x1a\x05", "an ONNX model"},
    {"\x1c\0\0\0TFL3\0\0"s, "a TensorFlow Lite model"},
    {"PAR1\x15\x04\x15\x10", "a Parquet table"},
    {"ARROW1\0\0\xff\xff"s, "an Arrow table"},
    {"FEA1\0\0\0\0"s, "a Feather table"},
    {"SQLite format 3\0\x10\0"s, "an SQLite database"},
    {"MMIDIDX\0\0\x01\0\0\0"s, "the index of a Megatron data set"},
    {"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a PDF document"},
    {"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"s, "a PNG picture"},
    {"\x7f\x45LF\x02\x01\x01\0"s, "a program or library (ELF)"},
};

const std::vector<Other> markup = {
    {"<!DOCTYPE html>\n<html lang=\"en\">", "an HTML page, of a login or an error perhaps"},
    {"\xef\xbb\xbf\n  <HTML><body>404</body>", "an HTML page, of a login or an error perhaps"},
    {"<head><title>Sign in</title></head>", "an HTML page, of a login or an error perhaps"},
    {"<?xml version=\"1.0\"?>\n<Error><Code>NoSuchKey</Code></Error>", "XML or HTML, of an error perhaps"},
    {"<Error><Code>AccessDenied</Code></Error>", "XML or HTML, of an error perhaps"},
    {"<!-- moved --><html></html>", "XML or HTML, of an error perhaps"},
    {"\xff\xfe<\0h\0t\0m\0l\0"s, "text in UTF-16"},
    {"\xfe\xff\0{\0\"\0a"s, "text in UTF-16"},
};

}  // namespace

TEST_CASE("file kind: what lies in place of a safetensors file is told by name") {
  for (const auto* group : {&pointers, &formats, &markup})
    for (const Other& other : *group) {
      CAPTURE(other.says);
      const std::string said = refusal(other.bytes, FileContent::safetensors);
      CHECK(said.starts_with("f: is " + other.says));
      CHECK(said.find(not_it) != std::string::npos);
      CHECK(said.find('\n') == std::string::npos);
    }
  CHECK(refusal(pointers[0].bytes, FileContent::safetensors) ==
        "f: is a Git LFS pointer, not a safetensors file: run `git lfs pull`");
  CHECK(refusal("{\"error\":\"Repository not found\"}", FileContent::safetensors) ==
        "f: is JSON (\"{\"error\":\"Repository not found\"}\"), not a safetensors file: download the file again");
  CHECK(refusal("Entry not found", FileContent::safetensors) ==
        "f: is text (\"Entry not found\"), not a safetensors file");
  CHECK(refusal(std::string(5000, '\0'), FileContent::safetensors) ==
        "f: is zeros from its beginning, as a download leaves that was never filled, not a safetensors file: "
        "download the file again");
}

TEST_CASE("file kind: what lies in place of JSON is told by name") {
  for (const auto* group : {&pointers, &formats, &markup})
    for (const Other& other : *group) {
      CAPTURE(other.says);
      const std::string said = refusal(other.bytes, FileContent::json);
      CHECK(said.starts_with("f: is " + other.says));
      CHECK(said.find(", not JSON") != std::string::npos);
    }
  CHECK(refusal("Entry not found", FileContent::json) == "f: is text (\"Entry not found\"), not JSON");
  CHECK(refusal("// a comment\n{}", FileContent::json) == "f: is text (\"// a comment\"), not JSON");
  CHECK(refusal("\xef\xbb\xbf{}", FileContent::json) ==
        "f: is text behind a UTF-8 byte order mark, not JSON: save it without the mark");
  CHECK(refusal(std::string(20, '\0'), FileContent::json).starts_with("f: is zeros from its beginning"));
  CHECK(refusal(safetensors(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "x"), FileContent::json) ==
        "f: is a safetensors file, not JSON");
}

TEST_CASE("file kind: in place of numbers only what cannot be numbers") {
  for (const FileContent numbers : {FileContent::tokens, FileContent::text}) {
    for (const Other& other : pointers) {
      CAPTURE(other.says);
      CHECK(refusal(other.bytes, numbers).starts_with("f: is " + other.says + ", not a file of tokens: "));
    }
    for (const Other& other : formats) {
      CAPTURE(other.says);
      if (other.says == "an ONNX model" || other.says == "an ar archive" || other.says == "a PDF document") continue;
      CHECK(refusal(other.bytes, numbers).starts_with("f: is " + other.says + ", not a file of tokens"));
    }
    CHECK(refusal(safetensors(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "x"), numbers) ==
          "f: is a safetensors file, not a file of tokens");
    CHECK(refusal(std::string(5000, '\0'), numbers).empty());
    CHECK(refusal("\x80\x02\x80\x03", numbers).empty());
    CHECK(refusal("\x08\x08\x12\x07pytorch\x1a\x05", numbers).empty());
  }
  for (const Other& other : markup) {
    CAPTURE(other.says);
    CHECK(refusal(other.bytes, FileContent::tokens) ==
          "f: is " + other.says + ", not a file of tokens: turn it into token ids first");
    CHECK(refusal(other.bytes, FileContent::text).empty());
  }
  CHECK(refusal("{\"text\": \"It was\"}\n", FileContent::tokens).ends_with("turn it into token ids first"));
  // A text about a format is a text.
  for (const char* text : {"GGUF is a format of models.", "PAR1", "%PDF-1.7 begins a document", "{\"a\": 1}", "[1, 2]",
                           "<html> is a tag", "Rar! cried the lion.", "../../ goes up", "Once upon a time"})
    CHECK(refusal(text, FileContent::text).empty());
}

TEST_CASE("file kind: nothing good is refused") {
  for (const FileContent any : {FileContent::safetensors, FileContent::json, FileContent::tokens, FileContent::text})
    CHECK(refusal("", any).empty());
  CHECK(refusal(safetensors("{}"), FileContent::safetensors).empty());
  CHECK(refusal(safetensors("  {}"), FileContent::safetensors).empty());
  // Lengths of headers that are signatures: gzip's, a pickle's, zeros and letters of text.
  for (const std::uint64_t length : {0x88b1fu, 0x0280u, 0x7b7bu, 0x2020u})
    CHECK(refusal(raw<std::uint64_t>({length}) + "{\"a\":" + std::string(300, ' '), FileContent::safetensors).empty());
  for (const char* json :
       {"{}", " \n\t{\"a\": 1}", "[]", "7", "-1", "\"x\"", "null", "true", "false", "{\"a\": \"<html>\"}"})
    CHECK(refusal(json, FileContent::json).empty());
  // A long text that begins as a pointer does is none.
  CHECK(refusal("version https://git-lfs.github.com/spec/v1\n" + std::string(40000, 'x'), FileContent::text).empty());
  // Bytes that are no UTF-8 are no text.
  for (const char* bytes :
       {"\xff\xff\xff\xff\xff\xff\xff\xff", "abcdefg\x80", "\xc3\xc3\xa4pfel pfel", "\xe4pfel pfel"})
    CHECK(refusal(bytes, FileContent::safetensors).empty());
  CHECK(refusal("Ende: \xc3\xa4", FileContent::safetensors) == "f: is text (\"Ende: ??\"), not a safetensors file");
  // Every pair of 16-bit tokens passes.
  for (unsigned first = 0; first < 65536; first += 7) {
    const std::string bytes = raw<std::uint16_t>({static_cast<std::uint16_t>(first), 300, 1000, 4, 9, 17, 2, 65000});
    CHECK(refusal(bytes, FileContent::tokens).empty());
  }
}
