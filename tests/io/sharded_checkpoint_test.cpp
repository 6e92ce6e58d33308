#include <losa/io/sharded_checkpoint.hpp>

#include <vector>

#include "io_test.hpp"

using namespace io_test;
using losa::io::read_values;
using losa::io::ShardedCheckpoint;

namespace {

/// A file with one-element float tensors.
std::string shard(const std::vector<std::pair<std::string, float>>& tensors) {
  std::string header = "{";
  std::vector<float> values;
  for (const auto& [name, value] : tensors) {
    if (!values.empty()) header += ",";
    header += losa::detail::text("\"", name, R"(":{"dtype":"F32","shape":[1],"data_offsets":[)", 4 * values.size(), ",",
                                 4 * values.size() + 4, "]}");
    values.push_back(value);
  }
  return safetensors(header + "}", raw(values));
}
std::string index_refusal(const std::string& text) {
  return sentence([&] { losa::detail::parse_shard_index(text, "i"); });
}

}  // namespace

TEST_CASE("sharded checkpoint: one file") {
  TempDir dir;
  spit(dir / "model.safetensors", shard({{"a", 1}, {"b", 2}}));
  const ShardedCheckpoint checkpoint(dir.path());
  CHECK(checkpoint.path() == dir.path());
  CHECK(checkpoint.shards().size() == 1);
  CHECK(checkpoint.tensors().size() == 2);
  CHECK(read_values<float>(checkpoint.at("b")) == std::vector<float>{2});
  CHECK(checkpoint.find("c") == nullptr);
  CHECK(sentence([&] { checkpoint.at("c"); }) == dir.path() + ": tensor \"c\" is missing");
}

TEST_CASE("sharded checkpoint: an index and its shards") {
  TempDir dir;
  spit(dir / "two.safetensors", shard({{"b", 2}, {"unlisted", 4}}));
  spit(dir / "one.safetensors", shard({{"a", 1}, {"c", 3}}));
  spit(dir / "model.safetensors.index.json", R"({"metadata":{"total_size":16,"more":[{"x":1}]},"weight_map":)"
                                             R"({"a":"one.safetensors","b":"two.safetensors","c":"one.safetensors"}})");
  ShardedCheckpoint first(dir.path());
  const ShardedCheckpoint checkpoint = std::move(first);
  CHECK(checkpoint.shards().size() == 2);
  std::vector<std::string> order;
  for (const auto* tensor : checkpoint.tensors()) order.push_back(tensor->name);
  CHECK(order == std::vector<std::string>{"a", "c", "b", "unlisted"});
  CHECK(read_values<float>(checkpoint.at("c")) == std::vector<float>{3});
  CHECK(read_values<float>(checkpoint.at("unlisted")) == std::vector<float>{4});
  CHECK(*checkpoint.at("b").file == dir / "two.safetensors");
}

TEST_CASE("sharded checkpoint: what the directory lacks is named") {
  TempDir dir;
  const auto refusal = [&] { return sentence([&] { ShardedCheckpoint checkpoint(dir.path()); }); };
  const std::string index = dir / "model.safetensors.index.json";
  CHECK(refusal() == dir.path() + ": holds neither model.safetensors nor model.safetensors.index.json");
  CHECK(sentence([&] { ShardedCheckpoint checkpoint(dir / "absent"); }) == (dir / "absent") + ": is not a directory");

  spit(index, R"({"weight_map":{"a":"one","b":"two"}})");
  CHECK(refusal() == (dir / "one") + ": cannot open for reading: No such file or directory");
  spit(dir / "one", shard({{"a", 1}}));
  spit(dir / "two", shard({{"x", 1}}));
  CHECK(refusal() == index + ": tensor \"b\" is not in \"two\"");
  spit(index, R"({"weight_map":{"a":"two","x":"two"}})");  // with `one` unnamed, nobody holds `a`
  CHECK(refusal() == index + ": tensor \"a\" is not in \"two\"");
  spit(index, R"({"weight_map":{"a":"two","x":"one"}})");
  CHECK(refusal() == index + ": tensor \"a\" is not in \"two\" but in \"" + (dir / "one") + "\"");
  spit(dir / "two", shard({{"a", 1}, {"b", 1}}));
  spit(index, R"({"weight_map":{"a":"one","b":"two"}})");
  CHECK(refusal() == dir.path() + ": tensor \"a\" is in both \"" + (dir / "one") + "\" and \"" + (dir / "two") + "\"");
  spit(dir / "two", "x");
  CHECK(refusal().starts_with((dir / "two") + ": 1 bytes are too few"));
  spit(index, "");
  CHECK(refusal() == index + ": not valid JSON at byte 1");
}

TEST_CASE("sharded checkpoint: every lie of an index is refused in one sentence") {
  for (const char* name : {"", ".", "..", "../one", "/etc/passwd", "sub/one", "sub\\\\one", "a\\u0000b"})
    CHECK(index_refusal(losa::detail::text(R"({"weight_map":{"a":")", name, "\"}}"))
              .ends_with(" is not the name of a file in the same directory"));
  CHECK(index_refusal(R"({"weight_map":{"a":"../x"}})") ==
        "i: tensor \"a\": \"../x\" is not the name of a file in the same directory");
  CHECK(index_refusal("[]") == "i: is not a JSON object");
  CHECK(index_refusal("7") == "i: is not a JSON object");
  CHECK(index_refusal("{}") == "i: weight_map is missing");
  CHECK(index_refusal(R"({"weight_map":7})") == "i: weight_map is not a JSON object");
  CHECK(index_refusal(R"({"weight_map":[]})") == "i: weight_map is not a JSON object");
  CHECK(index_refusal(R"({"weight_map":{"a":7}})") == "i: tensor \"a\": its file name is not a string");
  CHECK(index_refusal(R"({"weight_map":{"a":["one"]}})") == "i: tensor \"a\": its file name is not a string");
  CHECK(index_refusal(R"({"weight_map":{"a":"one","a":"two"}})") == "i: JSON key \"a\" appears twice");
  CHECK(index_refusal(R"({"x":)" + std::string(100000, '[')) == "i: JSON is nested deeper than 16 levels");
  CHECK(index_refusal(std::string(100'000'001, ' ')) == "i: 100000001 bytes are above the limit of 100000000");
}
