#include <losa/io/sharded_checkpoint.hpp>

#include <filesystem>
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

TEST_CASE("sharded checkpoint: shards say where a tensor is, the index says which shards") {
  TempDir dir;
  const std::string index = dir / "model.safetensors.index.json";
  spit(dir / "one", shard({{"a", 1}}));
  spit(dir / "two", shard({{"b", 2}}));
  spit(index, R"({"weight_map":{"a":"two","b":"one"}})");  // swapped
  CHECK(*ShardedCheckpoint(dir.path()).at("a").file == dir / "one");
  CHECK(*ShardedCheckpoint(dir.path()).at("b").file == dir / "two");

  spit(index, R"({"weight_map":{"a":"one","b":"two","ghost":"two"}})");  // transformers 5.24 loads this
  const ShardedCheckpoint checkpoint(dir.path());
  CHECK(checkpoint.find("ghost") == nullptr);
  CHECK(checkpoint.tensors().size() == 2);
  CHECK(sentence([&] { checkpoint.at("ghost"); }) ==
        index + ": tensor \"ghost\" is listed in \"two\", but neither that nor another shard holds it");
  CHECK(sentence([&] { checkpoint.at("c"); }) == dir.path() + ": tensor \"c\" is missing");

  std::filesystem::create_directory(dir / "sub");
  std::filesystem::rename(dir / "two", dir / "sub/two");
  spit(index, R"({"weight_map":{"a":"one","b":"sub/two"}})");
  CHECK(*ShardedCheckpoint(dir.path()).at("b").file == dir / "sub/two");
  std::filesystem::rename(dir / "sub/two", dir / "two");

  // Of two entries of one name the last counts, as in transformers.
  spit(index, R"({"weight_map":{"x":"none"},"weight_map":{"a":"none","a":"one","b":"two"}})");
  CHECK(ShardedCheckpoint(dir.path()).tensors().size() == 2);
}

TEST_CASE("sharded checkpoint: a tensor in two shards") {
  TempDir dir;
  spit(dir / "model.safetensors.index.json", R"({"weight_map":{"a":"one","b":"two"}})");
  spit(dir / "one", shard({{"a", 1}}));
  spit(dir / "two", shard({{"a", 1}, {"b", 2}}));  // alike
  const ShardedCheckpoint checkpoint(dir.path());
  CHECK(checkpoint.tensors().size() == 2);
  CHECK(*checkpoint.at("a").file == dir / "one");
  const std::string refused = dir.path() + ": tensor \"a\" is in both \"" + (dir / "one") + "\" and \"" +
                              (dir / "two") + "\", with different values";
  const auto refusal = [&] { return sentence([&] { ShardedCheckpoint again(dir.path()); }); };
  spit(dir / "two", shard({{"a", 3}, {"b", 2}}));
  CHECK(refusal() == refused);
  spit(dir / "two", safetensors(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", raw<float>({1})));
  CHECK(refusal() == refused);
  spit(dir / "two", safetensors(R"({"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}})", raw<float>({1})));
  CHECK(refusal() == refused);
}

TEST_CASE("sharded checkpoint: what the directory lacks is named") {
  TempDir dir;
  const auto refusal = [&] { return sentence([&] { ShardedCheckpoint checkpoint(dir.path()); }); };
  const std::string index = dir / "model.safetensors.index.json";
  const std::string neither = dir.path() + ": holds neither model.safetensors nor model.safetensors.index.json";
  CHECK(refusal() == neither);
  CHECK(sentence([&] { ShardedCheckpoint checkpoint(dir / "absent"); }) == (dir / "absent") + ": is not a directory");
  spit(dir / "pytorch_model.bin", std::string("PK\3\4", 4) + std::string(26, '\0') + "archive/data.pkl");
  CHECK(refusal() == neither + "; its largest file is \"pytorch_model.bin\", a PyTorch checkpoint: convert it first");
  CHECK(sentence([&] { ShardedCheckpoint checkpoint(dir / "pytorch_model.bin"); }) ==
        (dir / "pytorch_model.bin") + ": is not a directory but a PyTorch checkpoint: convert it first");
  std::filesystem::create_symlink("nowhere", index);
  CHECK(refusal() == index +
                         ": is a link that leads nowhere; the directory holds neither model.safetensors nor "
                         "model.safetensors.index.json");
  std::filesystem::remove(index);

  spit(index, R"({"weight_map":{"a":"one","b":"two"}})");
  CHECK(refusal() == (dir / "one") + ": cannot open for reading: No such file or directory");
  spit(dir / "one", shard({{"a", 1}}));
  spit(dir / "two", "x");
  CHECK(refusal().starts_with((dir / "two") + ": 1 bytes are too few"));
  spit(dir / "two", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
  CHECK(refusal() == (dir / "two") + ": is a Git LFS pointer, not a safetensors file: run `git lfs pull`");
  spit(index, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
  CHECK(refusal() == index + ": is a Git LFS pointer, not JSON: run `git lfs pull`");
  spit(index, "");
  CHECK(refusal() == index + ": not valid JSON at byte 1");
}

TEST_CASE("sharded checkpoint: every lie of an index is refused in one sentence") {
  for (const char* name : {"", ".", "..", "../one", "/etc/passwd", "sub/", "sub//one", "sub/../one", "sub/.", "./",
                           "./../one", "sub\\\\one", "a\\u0000b"})
    CHECK(index_refusal(losa::detail::text(R"({"weight_map":{"a":")", name, "\"}}"))
              .ends_with(" is not the name of a file in the same directory or below it"));
  for (const auto& [name, file] :
       {std::pair("./one", "one"), std::pair("././one", "one"), std::pair("sub/./one", "sub/one")})
    CHECK(losa::detail::parse_shard_index(losa::detail::text(R"({"weight_map":{"a":")", name, "\"}}"), "i").at("a") ==
          file);
  CHECK(index_refusal(R"({"weight_map":{"a":"../x"}})") ==
        "i: tensor \"a\": \"../x\" is not the name of a file in the same directory or below it");
  CHECK(index_refusal("[]") == "i: is not a JSON object");
  CHECK(index_refusal("7") == "i: is not a JSON object");
  CHECK(index_refusal("{}") == "i: weight_map is missing");
  CHECK(index_refusal(R"({"weight_map":7})") == "i: weight_map is not a JSON object");
  CHECK(index_refusal(R"({"weight_map":[]})") == "i: weight_map is not a JSON object");
  CHECK(index_refusal(R"({"weight_map":{"a":7}})") == "i: tensor \"a\": its file name is not a string");
  CHECK(index_refusal(R"({"weight_map":{"a":["one"]}})") == "i: tensor \"a\": its file name is not a string");
  CHECK(index_refusal(R"({"weight_map":{"a":"one","a":7}})") == "i: tensor \"a\": its file name is not a string");
  CHECK(index_refusal(R"({"x":)" + std::string(100000, '[')) == "i: JSON is nested deeper than 16 levels");
  CHECK(index_refusal(std::string(100'000'001, ' ')) == "i: 100000001 bytes are above the limit of 100000000");
}
