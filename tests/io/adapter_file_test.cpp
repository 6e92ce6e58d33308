#include <losa/io/adapter_file.hpp>

#include <vector>

#include "io_test.hpp"

using namespace io_test;
using losa::Mask;
using losa::io::AdapterView;
using losa::io::load_adapter;
using losa::io::SafetensorsFile;
using losa::io::save_adapter;

namespace {

constexpr std::size_t rank = 2, in = 11, out = 3;

std::vector<float> ramp(std::size_t n, float start) {
  std::vector<float> values(n);
  for (std::size_t i = 0; i < n; ++i) values[i] = start + static_cast<float>(i) / 3;
  return values;
}

/// A file with one layer `x`, whose parts a test may replace.
struct Parts {
  std::string metadata = R"({"x.scale":"0.5","x.rank":"1"})";
  std::string a = R"("dtype":"F32","shape":[1,2],"data_offsets":[0,8])";
  std::string b = R"("dtype":"F32","shape":[1,1],"data_offsets":[8,12])";
  std::string mask = R"("dtype":"U8","shape":[1,1],"data_offsets":[12,13])";
  std::string data = raw<float>({1, 2, 3}) + "\x02";

  std::string refusal() const {
    const std::string bytes =
        safetensors("{\"__metadata__\":" + metadata + ",\"x.lora_A\":{" + a + "}" +
                        (b.empty() ? "" : ",\"x.lora_B\":{" + b + "}") + ",\"x.mask\":{" + mask + "}}",
                    data);
    return sentence([&] { load_adapter(SafetensorsFile::from_memory(bytes_of(bytes), "m")); });
  }
};

}  // namespace

TEST_CASE("adapter file: factors, scale and mask come back bit for bit") {
  TempDir dir;
  const std::vector<float> a = ramp(rank * in, -1);
  const std::vector<float> bt = ramp(rank * out, 5);
  Mask mask(out, in);
  mask.set(0, 0, true);
  mask.set(1, 10, true);
  mask.set(2, 7, true);
  const std::vector<float> none;
  const std::vector<AdapterView> adapters{
      {.name = "layer.1",
       .a = losa::view(a.data(), rank, in),
       .bt = losa::view(bt.data(), rank, out),
       .scale = 1.0 / 3,
       .mask = &mask},
      {.name = "layer.0", .a = losa::view(a.data(), 1, 4), .bt = losa::view(bt.data(), 1, 6), .scale = -2},
      {.name = "none", .a = losa::view(none.data(), 0, 4), .bt = losa::view(none.data(), 0, 6), .scale = 1}};
  save_adapter(dir / "x", adapters);

  const auto loaded = load_adapter(dir / "x");
  REQUIRE(loaded.size() == 3);
  CHECK(loaded[0].name == "layer.0");
  CHECK(loaded[0].rank == 1);
  CHECK(loaded[0].in == 4);
  CHECK(loaded[0].out == 6);
  CHECK(loaded[0].scale == -2);
  CHECK(!loaded[0].mask);
  CHECK(loaded[1].name == "layer.1");
  CHECK(loaded[1].rank == rank);
  CHECK(loaded[1].a == a);
  CHECK(loaded[1].bt == bt);
  CHECK(loaded[1].scale == 1.0 / 3);
  REQUIRE(loaded[1].mask);
  CHECK(*loaded[1].mask == mask);
  CHECK(loaded[2].rank == 0);
  CHECK(loaded[2].out == 6);

  // Others read B as (out, rank).
  const SafetensorsFile file(dir / "x");
  CHECK(file.metadata().at("layer.1.rank") == "2");
  const auto b = losa::io::read_values<float>(file.at("layer.1.lora_B"));
  CHECK(file.at("layer.1.lora_B").shape == std::vector<std::size_t>{out, rank});
  for (std::size_t o = 0; o < out; ++o)
    for (std::size_t k = 0; k < rank; ++k) CHECK(b[o * rank + k] == bt[k * out + o]);
}

TEST_CASE("adapter file: factors and masks that do not fit are refused") {
  TempDir dir;
  const std::vector<float> values = ramp(100, 0);
  const Mask mask(out, in);
  AdapterView adapter{.name = "x", .a = losa::view(values.data(), 2, 5), .bt = losa::view(values.data(), 3, 4)};
  CHECK(sentence<losa::ShapeError>([&] { save_adapter(dir / "x", std::span(&adapter, 1)); }) ==
        "add_adapter: x: bt must be 2 × 4, got 3 × 4");
  adapter.bt = losa::view(values.data(), 2, 4);
  adapter.mask = &mask;
  CHECK(sentence<losa::ShapeError>([&] { save_adapter(dir / "x", std::span(&adapter, 1)); }) ==
        "add_adapter: x: mask must be 4 × 5, got 3 × 11");
  CHECK(dir.names().empty());
}

TEST_CASE("adapter file: every lie is refused in one sentence") {
  CHECK(Parts{}.refusal() == "");
  const auto check = [](auto&& lie, const std::string& expected) {
    Parts parts;
    lie(parts);
    CHECK(parts.refusal() == expected);
  };
  check([](Parts& p) { p.b.clear(); }, "m: tensor \"x.lora_B\" is missing");
  check([](Parts& p) { p.a = R"("dtype":"F32","shape":[2],"data_offsets":[0,8])"; },
        "m: tensor \"x.lora_A\": must be F32 of shape [rank, in], got F32 of shape [2]");
  check([](Parts& p) { p.a = R"("dtype":"BF16","shape":[1,4],"data_offsets":[0,8])"; },
        "m: tensor \"x.lora_A\": must be F32 of shape [rank, in], got BF16 of shape [1, 4]");
  check([](Parts& p) { p.a = R"("dtype":"F32","shape":[2,1],"data_offsets":[0,8])"; },
        "m: tensor \"x.lora_B\": must be F32 of shape [out, 2], got F32 of shape [1, 1]");
  check([](Parts& p) { p.metadata = "{}"; }, "m: metadata \"x.scale\" is missing");
  for (const char* scale : {"", "x", "1x", "nan", "inf", "1e999"})
    check([&](Parts& p) { p.metadata = losa::detail::text(R"({"x.scale":")", scale, "\"}"); },
          losa::detail::text("m: metadata \"x.scale\" must be a number, got \"", scale, "\""));
  check([](Parts& p) { p.mask = R"("dtype":"BOOL","shape":[1,1],"data_offsets":[12,13])"; },
        "m: tensor \"x.mask\": must be U8 of shape [1, 1], got BOOL of shape [1, 1]");
  check([](Parts& p) { p.data.back() = '\x04'; }, "m: tensor \"x.mask\": row 0 keeps a weight past the last column, 1");
  check([](Parts& p) { p.data.replace(4, 4, raw<std::uint32_t>({0x7fc00000})); },
        "m: tensor \"x.lora_A\": NaN at [0, 1]");
  check([](Parts& p) { p.data.replace(8, 4, raw<std::uint32_t>({0xff800000})); },
        "m: tensor \"x.lora_B\": -Inf at [0, 0]");
  check(
      [](Parts& p) {
        p.a = R"("dtype":"F32","shape":[1,0],"data_offsets":[0,0])";
        p.mask = R"("dtype":"U8","shape":[1,0],"data_offsets":[12,12])";
      },
      "m: tensor \"x.mask\": has rows without columns");
}
