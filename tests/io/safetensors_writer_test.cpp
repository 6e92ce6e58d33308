#include <losa/io/safetensors_writer.hpp>

#include <cmath>
#include <vector>

#include <losa/io/safetensors_file.hpp>

#include "io_test.hpp"

using namespace io_test;
using losa::bf16;
using losa::f16;
using losa::io::Dtype;
using losa::io::read_values;
using losa::io::SafetensorsFile;
using losa::io::SafetensorsWriter;
using losa::io::TensorSink;

TEST_CASE("safetensors writer: what is written is read back, widest elements first, aligned, without holes") {
  TempDir dir;
  const std::vector<float> matrix{1, 2, 3, 99, 4, 5, 6, 99};
  const std::vector<std::uint8_t> bytes{1, 2, 3};
  const std::vector<double> doubles{-0.0};
  const std::vector<std::int64_t> empty;
  {
    SafetensorsWriter writer(dir / "x");
    writer.metadata("who", "me \"and\"\n you");
    writer.add<std::uint8_t>("bytes", {3}, bytes);
    writer.add("matrix", losa::view(matrix.data(), 2, 3, 4));
    writer.add_as<bf16>("narrow", {3, 2}, losa::view(matrix.data(), 2, 3, 4));
    writer.add<double>("scalar", {}, doubles);
    writer.add<std::int64_t>("empty", {0, 5}, empty);
    writer.add_as<f16>("half", {6}, losa::view(matrix.data(), 2, 3, 4));
    writer.add("pieces", Dtype::u16, {4}, [](TensorSink& sink) {
      for (std::uint16_t i = 0; i < 4; ++i) sink.write(std::span<const std::uint16_t>(&i, 1));
      CHECK(sink.left() == 0);
    });
    CHECK(!std::filesystem::exists(dir / "x"));
    writer.commit();
  }
  const SafetensorsFile file(dir / "x");
  CHECK(file.metadata().at("format") == "pt");
  CHECK(file.metadata().at("who") == "me \"and\"\n you");
  std::vector<std::string> order;
  for (const auto& tensor : file.tensors()) {
    order.push_back(tensor.name);
    CHECK(reinterpret_cast<std::uintptr_t>(tensor.bytes.data()) % size_of(tensor.dtype) == 0);
  }
  // `empty` has no bytes, so that it starts where `matrix` starts.
  CHECK(order == std::vector<std::string>{"scalar", "empty", "matrix", "narrow", "half", "pieces", "bytes"});
  CHECK(read_values<float>(file.at("matrix")) == std::vector<float>{1, 2, 3, 4, 5, 6});
  CHECK(read_values<std::uint8_t>(file.at("bytes")) == bytes);
  CHECK(std::signbit(read_values<double>(file.at("scalar")).at(0)));
  CHECK(file.at("empty").shape == std::vector<std::size_t>{0, 5});
  CHECK(file.at("narrow").shape == std::vector<std::size_t>{3, 2});
  std::vector<float> widened(6);
  read_f32(file.at("narrow"), widened);
  CHECK(widened == std::vector<float>{1, 2, 3, 4, 5, 6});
  read_f32(file.at("half"), widened);
  CHECK(widened == std::vector<float>{1, 2, 3, 4, 5, 6});
  CHECK(read_values<std::uint16_t>(file.at("pieces")) == std::vector<std::uint16_t>{0, 1, 2, 3});

  const std::string written = slurp(dir / "x");
  std::uint64_t length = 0;
  std::memcpy(&length, written.data(), 8);
  CHECK(length % 8 == 0);
  CHECK(written.size() == 8 + length + 8 + 24 + 12 + 12 + 8 + 3);
}

TEST_CASE("safetensors writer: copies are byte for byte, also of dtypes that are not read") {
  TempDir dir;
  spit(dir / "in", safetensors(R"({"f":{"dtype":"F8_E4M3","shape":[2,2],"data_offsets":[1,5]},)"
                               R"("n":{"dtype":"F32","shape":[1],"data_offsets":[5,9]}})",
                               "?\x80\x7f\xff\x01" + raw<std::uint32_t>({0x7fc00123})));
  const SafetensorsFile in(dir / "in");
  const auto write = [&](const std::string& path) {
    SafetensorsWriter writer(path);
    for (const auto& tensor : in.tensors()) writer.copy(tensor);
    writer.commit();
  };
  write(dir / "out");
  const SafetensorsFile out(dir / "out");
  REQUIRE(out.tensors().size() == 2);
  for (const auto& tensor : in.tensors()) {
    const auto& copy = out.at(tensor.name);
    CHECK(copy.dtype_name == tensor.dtype_name);
    CHECK(copy.shape == tensor.shape);
    CHECK(std::equal(copy.bytes.begin(), copy.bytes.end(), tensor.bytes.begin(), tensor.bytes.end()));
  }
  write(dir / "again");
  CHECK(slurp(dir / "out") == slurp(dir / "again"));
}

TEST_CASE("safetensors writer: a copy tells of every piece that is written, in order") {
  TempDir dir;
  const std::vector<std::uint8_t> values((std::size_t{16} << 20) + 5, 7);
  {
    SafetensorsWriter writer(dir / "in");
    writer.add<std::uint8_t>("a", {values.size()}, values);
    writer.commit();
  }
  const SafetensorsFile in(dir / "in");
  std::vector<std::size_t> pieces;
  SafetensorsWriter writer(dir / "out");
  writer.copy(in.tensors()[0], [&](std::span<const std::byte> piece) {
    CHECK(piece.data() == in.tensors()[0].bytes.data() + (pieces.empty() ? 0 : pieces[0]));
    pieces.push_back(piece.size());
    losa::io::release_pages(piece);
  });
  writer.commit();
  CHECK(pieces == std::vector<std::size_t>{values.size() - 5, 5});
  CHECK(slurp(dir / "out") == slurp(dir / "in"));
}

TEST_CASE("safetensors writer: mistakes are named, and nothing is written") {
  TempDir dir;
  spit(dir / "x", "before");
  const std::vector<float> values(4);
  {
    SafetensorsWriter writer(dir / "x");
    writer.add<float>("a", {4}, values);
    CHECK(sentence([&] { writer.add<float>("a", {4}, values); }) == (dir / "x") + ": tensor \"a\": added twice");
    CHECK(sentence([&] { writer.add<float>("__metadata__", {4}, values); }) ==
          (dir / "x") + ": tensor \"__metadata__\": the name is reserved");
    CHECK(sentence<losa::RangeError>([&] {
            writer.add<float>("b", {1ull << 62, 4}, values);
          }) == "SafetensorsWriter::add: shape [4611686018427387904, 4] of tensor \"b\" overflows");
    CHECK(sentence<losa::RangeError>([&] { writer.add("c", Dtype::other, {1}, [](TensorSink&) {}); }) ==
          "SafetensorsWriter::add: dtype `other` has no size");
  }
  {
    SafetensorsWriter writer(dir / "x");
    writer.add<float>("short", {5}, values);
    CHECK(sentence([&] { writer.commit(); }) == (dir / "x") + ": tensor \"short\": got 4 bytes too few");
  }
  {
    SafetensorsWriter writer(dir / "x");
    writer.add<float>("long", {3}, values);
    CHECK(sentence([&] { writer.commit(); }) == (dir / "x") + ": tensor \"long\": got 4 bytes more than it holds");
  }
  {
    SafetensorsWriter writer(dir / "x");
    writer.add<float>("\xff", {4}, values);
    CHECK(sentence([&] { writer.commit(); }) == (dir / "x") + ": \"\xff\" is not UTF-8");
  }
  CHECK(slurp(dir / "x") == "before");
  CHECK(dir.names() == std::vector<std::string>{"x"});
  SafetensorsWriter full("/dev/full");
  full.add<float>("a", {4}, values);
  CHECK(sentence([&] { full.commit(); }) == "/dev/full: cannot write: No space left on device");
}

TEST_CASE("safetensors writer: tensors declared first and written in any order give the file that adding gives") {
  TempDir dir;
  const std::vector<float> a{1, 2, 3};
  const std::vector<double> b{4, 5};
  const std::vector<float> large(200'000, 6.5f);
  {
    SafetensorsWriter writer(dir / "added");
    writer.metadata("k", "v");
    writer.add<float>("a", {3}, a);
    writer.add<double>("b", {2, 1}, b);
    writer.add<float>("large", {400, 500}, large);
    writer.add<float>("empty", {0}, std::span<const float>());
    writer.commit();
  }
  SafetensorsWriter writer(dir / "put");
  writer.metadata("k", "v");
  writer.declare("a", Dtype::f32, {3});
  writer.declare("b", Dtype::f64, {2, 1});
  writer.declare("large", Dtype::f32, {400, 500});
  writer.declare("empty", Dtype::f32, {0});
  writer.fill("b", [&](TensorSink& sink) { sink.write(std::span<const double>(b)); });
  writer.put("large", [&](TensorSink& sink) {
    for (std::size_t r = 0; r < 400; ++r) sink.write(std::span<const float>(large).subspan(r * 500, 500));
  });
  writer.put("a", [&](TensorSink& sink) { sink.write(std::span<const float>(a)); });
  writer.put("empty", [](TensorSink&) {});
  CHECK_FALSE(std::filesystem::exists(dir / "put"));
  writer.commit();
  CHECK(slurp(dir / "put") == slurp(dir / "added"));
}

TEST_CASE("safetensors writer: what is declared must be written, once and whole") {
  TempDir dir;
  const std::vector<float> values(4);
  const auto write = [&](TensorSink& sink) { sink.write(std::span<const float>(values)); };
  SafetensorsWriter writer(dir / "x");
  writer.declare("a", Dtype::f32, {4});
  writer.declare("b", Dtype::f32, {5});
  writer.declare("c", Dtype::f32, {3});
  writer.fill("c", write);
  CHECK(sentence([&] { writer.put("z", write); }) == (dir / "x") + ": tensor \"z\": was not declared");
  writer.put("a", write);
  CHECK(sentence([&] { writer.put("a", write); }) == (dir / "x") + ": tensor \"a\": written twice");
  CHECK(sentence([&] { writer.fill("c", write); }) == (dir / "x") + ": tensor \"c\": written twice");
  CHECK(sentence([&] { writer.declare("d", Dtype::f32, {1}); }) == (dir / "x") + ": tensor \"d\": added too late");
  CHECK(sentence([&] { writer.put("b", write); }) == (dir / "x") + ": tensor \"b\": got 4 bytes too few");
  SafetensorsWriter forgetful(dir / "y");
  forgetful.declare("a", Dtype::f32, {4});
  CHECK(sentence([&] { forgetful.commit(); }) == (dir / "y") + ": tensor \"a\": declared, never written");
  SafetensorsWriter device("/dev/null");
  device.declare("a", Dtype::f32, {4});
  CHECK(sentence([&] { device.put("a", write); }) == "/dev/null: cannot write in any order: Illegal seek");
  CHECK_FALSE(std::filesystem::exists(dir / "x"));
  CHECK_FALSE(std::filesystem::exists(dir / "y"));
}
