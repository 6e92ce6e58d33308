#include <losa/io/compressed.hpp>

#include <cstdlib>
#include <limits>
#include <vector>

#include <losa/core/random.hpp>
#include <losa/gemm/pack.hpp>
#include <losa/io/compressed_config.hpp>
#include <losa/io/safetensors_file.hpp>
#include <losa/io/sharded_checkpoint.hpp>

#include "io_test.hpp"

using namespace io_test;
using losa::bf16;
using losa::f16;
using losa::Mask;
using losa::PackedMatrix;
using losa::io::add_compressed;
using losa::io::is_compressed;
using losa::io::read_compressed;
using losa::io::SafetensorsFile;
using losa::io::SafetensorsWriter;

namespace {

const std::string data_dir = LOSA_TEST_DATA "/compressed/";

/// A random matrix; about every eighth kept value is zero.
template <class T>
PackedMatrix<T> random_packed(std::size_t rows, std::size_t cols, double density, std::uint64_t seed) {
  const losa::Random random{.seed = seed, .stream = 0};
  Mask mask(rows, cols);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; ++c) mask.set(r, c, random.uniform(r * cols + c) < density);
  PackedMatrix<T> packed(mask);
  for (std::size_t i = 0; i < packed.kept(); ++i)
    packed.values()[i] = losa::narrow<T>(static_cast<float>(random.below(8, 1'000'000 + i)) / 4);
  return packed;
}

template <class T>
bool same(const PackedMatrix<T>& a, const PackedMatrix<T>& b) {
  return a.mask() == b.mask() && std::equal(a.values().begin(), a.values().end(), b.values().begin(), b.values().end());
}

template <class T>
std::vector<float> dense(const PackedMatrix<T>& packed) {
  std::vector<float> out(packed.size());
  packed.to_dense(losa::view(out.data(), packed.rows(), packed.cols()));
  return out;
}

/// The four tensors of a 2 × 11 weight that keeps (0, 0), (0, 10) and (1, 3), each part replaceable by a lie.
struct Parts {
  std::string shape = R"("dtype":"I64","shape":[2])";
  std::vector<std::int64_t> extents{2, 11};
  std::string bitmask = R"("dtype":"U8","shape":[2,2])";
  std::vector<std::uint8_t> bits{0x01, 0x04, 0x08, 0x00};
  std::string row_offsets = R"("dtype":"I64","shape":[2])";
  std::vector<std::int64_t> offsets{0, 2};
  std::string compressed = R"("dtype":"F32","shape":[3])";
  std::vector<float> values{1, 2, 3};
  std::string missing;

  std::string bytes() const {
    std::string header = "{";
    std::string data;
    const auto add = [&](const std::string& name, const std::string& description, const std::string& content) {
      if (name == missing) return;
      if (header.size() > 1) header += ",";
      header += losa::detail::text("\"x.", name, "\":{", description, R"(,"data_offsets":[)", data.size(), ",",
                                   data.size() + content.size(), "]}");
      data += content;
    };
    add("bitmask", bitmask, raw(bits));  // first, so that what follows is unaligned when its length is odd
    add("shape", shape, raw(extents));
    add("row_offsets", row_offsets, raw(offsets));
    add("compressed", compressed, raw(values));
    return safetensors(header + "}", data);
  }
  std::string refusal() const {
    const std::string whole = bytes();
    return sentence([&] { read_compressed<float>(SafetensorsFile::from_memory(bytes_of(whole), "m"), "x.weight"); });
  }
};

}  // namespace

TEST_CASE_TEMPLATE("compressed: what is written is read back, kept zeros included", T, float, bf16, f16, double) {
  TempDir dir;
  for (const auto& [rows, cols] : {std::pair<std::size_t, std::size_t>{1, 1}, {3, 7}, {5, 64}, {4, 65}, {9, 200}})
    for (const double density : {0.0, 0.3, 1.0}) {
      const auto packed = random_packed<T>(rows, cols, density, rows + cols);
      {
        SafetensorsWriter writer(dir / "x");
        add_compressed(writer, "a.b.weight", packed);
        writer.commit();
      }
      const SafetensorsFile file(dir / "x");
      CHECK(is_compressed(file, "a.b.weight"));
      CHECK(!is_compressed(file, "a.weight"));
      CHECK(!is_compressed(file, "a.b.bias"));
      CHECK(same(read_compressed<T>(file, "a.b.weight"), packed));
      CHECK(dense(read_compressed<float>(file, "a.b.weight")) == dense(packed));
      CHECK(read_compressed<float>(file, "a.b.weight").mask() == packed.mask());
    }
}

TEST_CASE("compressed: values are rounded on request") {
  TempDir dir;
  PackedMatrix<float> packed(Mask::full(2, 2));
  packed.values()[0] = 1.0f + 0x1p-9f;
  packed.values()[3] = -3;
  {
    SafetensorsWriter writer(dir / "x");
    losa::io::add_compressed_as<bf16>(writer, "x.weight", packed);
    CHECK(sentence<losa::RangeError>([&] { add_compressed(writer, "x.bias", packed); }) ==
          "compressed weights must be called X.weight, got \"x.bias\"");
    CHECK(sentence<losa::RangeError>([&] { add_compressed(writer, ".weight", packed); }) ==
          "compressed weights must be called X.weight, got \".weight\"");
    CHECK(sentence<losa::RangeError>([&] { add_compressed(writer, "y.weight", PackedMatrix<float>()); }) ==
          "add_compressed: \"y.weight\" is empty");
    writer.commit();
  }
  const SafetensorsFile file(dir / "x");
  CHECK(dense(read_compressed<bf16>(file, "x.weight")) == std::vector<float>{1, 0, 0, -3});
  CHECK(sentence([&] { read_compressed<f16>(file, "x.weight"); }) ==
        (dir / "x") + ": tensor \"x.compressed\": dtype must be F16, got BF16");
}

TEST_CASE("compressed: what the other implementation wrote is read") {
  const SafetensorsFile file(data_dir + "compressed.safetensors");
  const SafetensorsFile original(data_dir + "dense.safetensors");
  std::size_t compressed = 0;
  for (const auto& tensor : original.tensors()) {
    if (!is_compressed(file, tensor.name)) continue;
    CAPTURE(tensor.name);
    ++compressed;
    std::vector<float> expected(tensor.elements());
    read_f32(tensor, expected);
    const PackedMatrix<float> packed = read_compressed<float>(file, tensor.name);
    CHECK(packed.rows() == tensor.rows());
    CHECK(packed.cols() == tensor.cols());
    CHECK(dense(packed) == expected);
    CHECK(packed.kept() == static_cast<std::size_t>(std::ranges::count_if(expected, [](float v) { return v != 0; })));
  }
  CHECK(compressed == 5);
  CHECK(file.find("f32.bias") != nullptr);
  CHECK(dense(read_compressed<bf16>(file, "wide.weight")) == dense(read_compressed<float>(file, "wide.weight")));
}

TEST_CASE("compressed: the names of version 0.8 are read, whatever tensor they belong to") {
  const SafetensorsFile now(data_dir + "compressed.safetensors");
  const SafetensorsFile before(data_dir + "compressed_0.8.1.safetensors");
  CHECK(before.find("f32.weight.bitmask") != nullptr);
  for (const char* name : {"f32.weight", "bf16.weight", "f16.weight", "wide.weight", "norm.weight"}) {
    CAPTURE(name);
    CHECK(losa::io::compressed_prefix(before, name) == name);
    CHECK(same(read_compressed<float>(before, name), read_compressed<float>(now, name)));
  }
  CHECK(losa::io::compressed_prefix(now, "f32.bias").empty());
  CHECK(losa::io::compressed_prefix(before, "f32.bias") == "f32.bias");
  const auto bias = losa::io::find_compressed(before, "f32.bias");
  CHECK(bias.vector);
  CHECK(dense(read_compressed<float>(bias)) == std::vector<float>{0, 1, 2, 3, 4});
  CHECK(losa::io::compressed_owner("a.bitmask") == "a.weight");
  CHECK(losa::io::compressed_owner("a.weight.shape") == "a.weight");
  CHECK(losa::io::compressed_owner("a.bias.row_offsets") == "a.bias");
  CHECK(losa::io::compressed_owner("a.weight").empty());
  CHECK(losa::io::compressed_owner(".shape").empty());

  // Both spellings of one weight mean nothing.
  TempDir dir;
  {
    SafetensorsWriter writer(dir / "y");
    writer.copy(now.at("f32.compressed"));
    writer.copy(now.at("f32.compressed"), {}, "f32.weight.compressed");
    writer.commit();
  }
  const SafetensorsFile both(dir / "y");
  CHECK(sentence([&] { is_compressed(both, "f32.weight"); }) ==
        (dir / "y") +
            ": tensor \"f32.weight\" is compressed twice, as \"f32.compressed\" and as "
            "\"f32.weight.compressed\"");
}

TEST_CASE("compressed: rows are read by themselves, and the mask is the one that is stored") {
  TempDir dir;
  const auto packed = random_packed<bf16>(9, 131, 0.4, 5);
  {
    SafetensorsWriter writer(dir / "x");
    add_compressed(writer, "x.weight", packed);
    writer.commit();
  }
  const SafetensorsFile file(dir / "x");
  const auto stored = losa::io::find_compressed(file, "x.weight");
  CHECK(stored.mask() == packed.mask());
  const std::vector<float> all = dense(packed);
  for (std::size_t first = 0; first < 9; ++first)
    for (std::size_t rows = 0; first + rows <= 9; ++rows) {
      std::vector<float> some(rows * 131, -1.0f);
      losa::io::read_compressed_rows(stored, first, losa::view(some.data(), rows, 131));
      CHECK(std::equal(some.begin(), some.end(), all.begin() + static_cast<std::ptrdiff_t>(first * 131)));
    }
  std::vector<float> wrong(2 * 131);
  CHECK(sentence<losa::ShapeError>([&] {
          losa::io::read_compressed_rows(stored, 8, losa::view(wrong.data(), 2, 131));
        }) == "read_compressed_rows: rows [8, 10) of 131 columns from a weight of 9 × 131");
}

TEST_CASE("compressed: we write the bytes that the other implementation writes") {
  const SafetensorsFile file(data_dir + "compressed.safetensors");
  TempDir dir;
  const auto f32 = read_compressed<float>(file, "f32.weight");
  const auto wide = read_compressed<bf16>(file, "wide.weight");
  const auto half = read_compressed<f16>(file, "f16.weight");
  {
    SafetensorsWriter writer(dir / "x");
    add_compressed(writer, "f32.weight", f32);
    add_compressed(writer, "wide.weight", wide);
    add_compressed(writer, "f16.weight", half);
    writer.commit();
  }
  const SafetensorsFile ours(dir / "x");
  CHECK(ours.tensors().size() == 12);
  for (const auto& tensor : ours.tensors()) {
    CAPTURE(tensor.name);
    const auto& theirs = file.at(tensor.name);
    CHECK(tensor.dtype == theirs.dtype);
    CHECK(tensor.shape == theirs.shape);
    CHECK(std::ranges::equal(tensor.bytes, theirs.bytes));
  }
}

TEST_CASE("compressed: every disagreement is refused in one sentence") {
  CHECK(Parts{}.refusal() == "");
  for (const char* name : {"shape", "bitmask", "row_offsets", "compressed"}) {
    Parts parts;
    parts.missing = name;
    CHECK(parts.refusal() == losa::detail::text("m: tensor \"x.", name, "\" is missing"));
  }
  const auto check = [](auto&& lie, const std::string& expected) {
    Parts parts;
    lie(parts);
    CHECK(parts.refusal() == expected);
  };
  check([](Parts& p) { p.shape = R"("dtype":"F64","shape":[2])"; },
        "m: tensor \"x.shape\": dtype must be I64, got F64");
  check(
      [](Parts& p) {
        p.shape = R"("dtype":"I64","shape":[3])";
        p.extents = {1, 2, 11};
      },
      "m: tensor \"x.shape\": must hold the 2 extents of a matrix, got shape [3]");
  check(
      [](Parts& p) {
        p.shape = R"("dtype":"I64","shape":[0])";
        p.extents = {};
      },
      "m: tensor \"x.shape\": must hold the 2 extents of a matrix, got shape [0]");
  check([](Parts& p) { p.shape = R"("dtype":"I64","shape":[1,2])"; },
        "m: tensor \"x.shape\": must hold the 2 extents of a matrix, got shape [1, 2]");
  check([](Parts& p) { p.extents = {-2, 11}; }, "m: tensor \"x.shape\": extents must be positive, got -2");
  check([](Parts& p) { p.extents = {2, 0}; }, "m: tensor \"x.shape\": extents must be positive, got 0");
  check(
      [](Parts& p) {
        p.extents = {2, 17};
      },
      "m: tensor \"x.bitmask\": must be U8 of shape [2, 3] for a weight of 2 × 17, got U8 of shape [2, 2]");
  check(
      [](Parts& p) {
        p.extents = {3, 11};
      },
      "m: tensor \"x.bitmask\": must be U8 of shape [3, 2] for a weight of 3 × 11, got U8 of shape [2, 2]");
  check(
      [](Parts& p) {
        p.extents = {std::numeric_limits<std::int64_t>::max(), std::numeric_limits<std::int64_t>::max()};
      },
      "m: tensor \"x.bitmask\": must be U8 of shape [9223372036854775807, 1152921504606846976] for a weight of "
      "9223372036854775807 × 9223372036854775807, got U8 of shape [2, 2]");
  check([](Parts& p) { p.bitmask = R"("dtype":"I8","shape":[2,2])"; },
        "m: tensor \"x.bitmask\": must be U8 of shape [2, 2] for a weight of 2 × 11, got I8 of shape [2, 2]");
  check([](Parts& p) { p.row_offsets = R"("dtype":"F64","shape":[2])"; },
        "m: tensor \"x.row_offsets\": must be I64 of shape [2], got F64 of shape [2]");
  check([](Parts& p) { p.row_offsets = R"("dtype":"I64","shape":[2,1])"; },
        "m: tensor \"x.row_offsets\": must be I64 of shape [2], got I64 of shape [2, 1]");
  check(
      [](Parts& p) {
        p.offsets = {0, 3};
      },
      "m: tensor \"x.row_offsets\": row 1 starts at value 3, but the bitmask has 2 ones before it");
  check(
      [](Parts& p) {
        p.offsets = {0, 1};
      },
      "m: tensor \"x.row_offsets\": row 1 starts at value 1, but the bitmask has 2 ones before it");
  check(
      [](Parts& p) {
        p.offsets = {2, 0};
      },
      "m: tensor \"x.row_offsets\": row 0 starts at value 2, but the bitmask has 0 ones before it");
  check(
      [](Parts& p) {
        p.offsets = {0, -2};
      },
      "m: tensor \"x.row_offsets\": row 1 starts at value -2, but the bitmask has 2 ones before it");
  check([](Parts& p) { p.bits[3] = 0x08; }, "m: tensor \"x.bitmask\": row 1 keeps a weight past the last column, 10");
  check([](Parts& p) { p.bits[2] = 0x18; },
        "m: tensor \"x.compressed\": must hold the 4 values that the bitmask keeps, got shape [3]");
  check([](Parts& p) { p.compressed = R"("dtype":"F32","shape":[3,1])"; },
        "m: tensor \"x.compressed\": must hold the 3 values that the bitmask keeps, got shape [3, 1]");
  check([](Parts& p) { p.compressed = R"("dtype":"I32","shape":[3])"; },
        "m: tensor \"x.compressed\": dtype must be F32, BF16, F16 or F64, got I32");
  check([](Parts& p) { p.values[1] = std::numeric_limits<float>::quiet_NaN(); },
        "m: tensor \"x.compressed\": NaN or Inf at [1]");

  Parts parts;
  parts.values[1] = std::numeric_limits<float>::infinity();
  const std::string whole = parts.bytes();
  const auto file = SafetensorsFile::from_memory(bytes_of(whole), "m");
  CHECK(read_compressed<float>(file, "x.weight", false).values()[1] == std::numeric_limits<float>::infinity());
}

TEST_CASE("compressed: truncated or with a flipped bit, a file is refused or read, never more") {
  const std::string whole = Parts{}.bytes();
  for (std::size_t bit = 0; bit < whole.size() * 8; ++bit) {
    std::vector<char> flipped(whole.begin(), whole.end());
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    for (const std::size_t size : {flipped.size(), bit / 8}) {
      const std::vector<char> cut(flipped.begin(), flipped.begin() + static_cast<std::ptrdiff_t>(size));
      try {
        const auto file = SafetensorsFile::from_memory(std::as_bytes(std::span(cut)), "m");
        const auto packed = read_compressed<float>(file, "x.weight");
        CHECK(packed.kept() == packed.mask().kept());
      } catch (const losa::FileError&) {
      }
    }
  }
}

TEST_CASE("compressed: config.json names the layout and keeps everything else") {
  const std::string config =
      "{\n  \"zeta\": 1e-05,\n  \"alpha\": [1, 2],\n  \"compression_config\": {},\n  \"big\": 10000.0\n}\n";
  const losa::io::SparsityConfig sparsity{
      .global_sparsity = 0.7, .sparsity_structure = "2:4", .targets = {"a.b", "c"}, .ignore = {"d"}};
  const std::string text = losa::io::add_sparsity_config(config, sparsity);
  CHECK(text.starts_with("{\n  \"zeta\": 1e-05,\n  \"alpha\": ["));
  CHECK(text.ends_with("}\n"));
  CHECK(text.find("\"compression_config\"") == std::string::npos);
  const auto found = losa::io::find_sparsity_config(text);
  REQUIRE(found);
  CHECK(found->format == "sparse-bitmask");
  CHECK(found->global_sparsity == 0.7);
  CHECK(found->sparsity_structure == "2:4");
  CHECK(found->targets == sparsity.targets);
  CHECK(found->ignore == sparsity.ignore);
  CHECK(losa::io::add_sparsity_config(text, sparsity) == text);
  // What says how to load the model and cannot load it must not say that it can.
  CHECK(text.find("quant_method") == std::string::npos);
  CHECK(text.find("\"transformers_weights\": \"transformers-cannot-read-") != std::string::npos);
  CHECK(losa::io::remove_sparsity_config(text).find("transformers_weights") == std::string::npos);
  CHECK(losa::io::remove_sparsity_config(R"({"transformers_weights":"model.safetensors"})") ==
        R"({"transformers_weights":"model.safetensors"})");
  CHECK(!losa::io::find_sparsity_config(config));

  // As compressed-tensors itself writes it.
  const auto theirs = losa::io::find_sparsity_config(
      R"({"quantization_config":{"quant_method":"compressed-tensors","version":"0.14.0.1","transform_config":{},)"
      R"("sparsity_config":{"format":"sparse-bitmask","targets":null,"ignore":null,"global_sparsity":null,)"
      R"("sparsity_structure":null}}})");
  REQUIRE(theirs);
  CHECK(theirs->targets.empty());
  CHECK(theirs->sparsity_structure == "unstructured");
  CHECK(losa::io::find_sparsity_config(R"({"compression_config":{"sparsity_config":{"format":"sparse-bitmask"}}})"));
  CHECK(!losa::io::find_sparsity_config(R"({"quantization_config":null})"));
  CHECK(!losa::io::find_sparsity_config(R"({"quantization_config":{"quant_method":"compressed-tensors"}})"));
  CHECK(!losa::io::find_sparsity_config(R"({"quantization_config":{"sparsity_config":{}}})"));
  CHECK(!losa::io::find_sparsity_config(R"({"quantization_config":{"sparsity_config":{"format":"dense"}}})"));
  CHECK(!losa::io::find_sparsity_config(R"({"quantization_config":{}})"));

  // What an entry holds beside is of no matter as long as it does not say that weights are quantised (0.8.1, and
  // later).
  CHECK(losa::io::find_sparsity_config(
      R"({"quantization_config":{"quant_method":"compressed-tensors","config_groups":{},"kv_cache_scheme":null,)"
      R"("format":"dense","quantization_status":"compressed","global_compression_ratio":1.0,"ignore":["lm_head"],)"
      R"("sparsity_config":{"format":"sparse-bitmask","registry_requires_subclass":false}}})"));
}

TEST_CASE("compressed: a dense model's config.json has no entry at all") {
  const std::string plain = "{\"a\":1,  \"b\": [2]}";
  CHECK(losa::io::remove_sparsity_config(plain) == plain);
  for (const char* key : {"quantization_config", "compression_config"})
    for (const char* value : {"null", "{}", R"({"sparsity_config":{"format":"dense"}})"}) {
      const std::string text =
          losa::io::remove_sparsity_config(losa::detail::text("{\"a\":1,\"", key, "\":", value, ",\"b\":2}"));
      CHECK(text == "{\n  \"a\": 1,\n  \"b\": 2\n}\n");
    }
}

TEST_CASE("compressed: every mistake of config.json is refused in one sentence") {
  const auto refusal = [](const std::string& text) { return sentence([&] { losa::io::find_sparsity_config(text); }); };
  const auto in_sparsity = [&](const std::string& text) {
    return refusal(R"({"quantization_config":{"sparsity_config":{"format":"sparse-bitmask",)" + text + "}}}");
  };
  CHECK(refusal("{") == "config.json: not valid JSON at byte 2");
  CHECK(refusal("[]") == "config.json: is not a JSON object");
  CHECK(refusal(std::string(100000, '[')) != "");
  CHECK(refusal(R"({"quantization_config":1})") == "config.json: quantization_config must be an object");
  CHECK(refusal(R"({"quantization_config":{"quant_method":"gptq"}})") ==
        "config.json: quant_method must be \"compressed-tensors\", got \"gptq\"");
  CHECK(refusal(R"({"quantization_config":{"config_groups":{"group_0":{}}}})") ==
        "config.json: quantization_config holds \"config_groups\": quantised weights cannot be read");
  CHECK(refusal(R"({"quantization_config":{"transform_config":{"a":1}}})") ==
        "config.json: quantization_config holds \"transform_config\": quantised weights cannot be read");
  CHECK(refusal(R"({"quantization_config":{"sparsity_config":1}})") ==
        "config.json: sparsity_config must be an object");
  CHECK(refusal(R"({"quantization_config":{"sparsity_config":{"ignore":[]}}})") ==
        "config.json: format of sparsity_config must be a string");
  CHECK(refusal(R"({"quantization_config":{"sparsity_config":{"format":"sparse-24-bitmask"}}})") ==
        "config.json: format of sparsity_config must be \"sparse-bitmask\" or \"dense\", got \"sparse-24-bitmask\"");
  CHECK(in_sparsity(R"("global_sparsity":1.5)") ==
        "config.json: global_sparsity of sparsity_config must be in [0, 1], got \"1.5\"");
  CHECK(in_sparsity(R"("global_sparsity":"x")") ==
        "config.json: global_sparsity of sparsity_config must be in [0, 1], got \"\"x\"\"");
  CHECK(in_sparsity(R"("sparsity_structure":24)") ==
        "config.json: sparsity_structure of sparsity_config must be a string");
  CHECK(in_sparsity(R"("targets":"Linear")") == "config.json: targets of sparsity_config must be an array of strings");
  CHECK(in_sparsity(R"("ignore":[1])") == "config.json: ignore of sparsity_config must be an array of strings");
}

TEST_CASE("compressed: live round trip with compressed-tensors from PyPI") {
  const char* wanted = std::getenv("LOSA_TEST_PYPI");
  if (wanted == nullptr || std::string(wanted) != "1") {
    MESSAGE(
        "skipped: set LOSA_TEST_PYPI=1 to install compressed-tensors and run it (LOSA_PYTHON names an interpreter)");
    return;
  }
  TempDir dir;
  std::filesystem::create_directory(dir / "ours");
  const auto first = random_packed<bf16>(48, 130, 0.3, 1);  // holds kept zeros
  const auto second = random_packed<float>(31, 64, 0.5, 2);
  const auto third = random_packed<f16>(5, 9, 0.0, 3);
  const std::vector<float> bias{1, -2, 3};
  const std::vector<float> a = dense(first);
  const std::vector<float> b = dense(second);
  const std::vector<float> c = dense(third);
  {
    SafetensorsWriter ours(dir / "ours/model.safetensors");
    add_compressed(ours, "model.a.weight", first);
    add_compressed(ours, "model.b.weight", second);
    add_compressed(ours, "c.weight", third);
    ours.add<float>("model.a.bias", {3}, bias);
    ours.commit();
    SafetensorsWriter expected(dir / "ours/dense.safetensors");
    expected.add_as<bf16>("model.a.weight", {48, 130}, losa::view(a.data(), 48, 130));
    expected.add_as<float>("model.b.weight", {31, 64}, losa::view(b.data(), 31, 64));
    expected.add_as<f16>("c.weight", {5, 9}, losa::view(c.data(), 5, 9));
    expected.add<float>("model.a.bias", {3}, bias);
    expected.commit();
  }
  losa::io::write_file(
      dir / "ours/config.json",
      losa::io::add_sparsity_config("{}", {.global_sparsity = 0.6, .targets = {"model.a", "model.b", "c"}}));
  const char* python = std::getenv("LOSA_PYTHON");
  const std::string command = std::string(python ? python : "python3") +
                              " " LOSA_TEST_DATA "/../io/compressed_roundtrip.py " + (dir / "ours") + " " +
                              (dir / "theirs");
  REQUIRE(std::system(command.c_str()) == 0);

  const losa::io::ShardedCheckpoint theirs(dir / "theirs");
  CHECK(theirs.tensors().size() == 13);
  CHECK(dense(read_compressed<bf16>(theirs, "model.a.weight")) == a);
  CHECK(dense(read_compressed<float>(theirs, "model.b.weight")) == b);
  CHECK(dense(read_compressed<f16>(theirs, "c.weight")) == c);
}
