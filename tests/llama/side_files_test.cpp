#include "side_files.hpp"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "toy_model.hpp"

using llama::find_side_files;
using llama::LeftOut;
using llama::SideFile;
using llama::SideFiles;

namespace {

/// Names with a space behind each, in their order.
std::string joined(const std::vector<std::string>& names) {
  std::string all;
  for (const std::string& name : names) all += name + " ";
  return all;
}
std::string copied(const SideFiles& files) {
  std::string names;
  for (const SideFile& one : files.copied) names += one.name + " ";
  return names;
}
std::string left(const SideFiles& files) {
  std::string names;
  for (const LeftOut& one : files.left_out) names += one.name + " ";
  return names;
}
std::string why(const SideFiles& files, const std::string& name) {
  const auto found = std::ranges::find(files.left_out, name, &LeftOut::name);
  return found == files.left_out.end() ? "" : found->why;
}

/// A model with some files beside it.
struct Beside : toy::Folder {
  Beside() { toy::write_model(path / "m"); }
  void add(const std::string& name, const std::string& content) {
    toy::fs::create_directories((path / "m" / name).parent_path());
    toy::write_text(path / "m" / name, content);
  }
  void add_large(const std::string& name, std::size_t bytes) {
    add(name, "x");
    REQUIRE(::truncate((path / "m" / name).c_str(), static_cast<off_t>(bytes)) == 0);
  }
  SideFiles find() const { return find_side_files(path / "m"); }
};

}  // namespace

TEST_CASE("side files: what belongs to any model of this kind is copied, nothing else") {
  Beside model;
  const std::vector<std::string> belong{"LICENSE",
                                        "LICENSE.txt",
                                        "NOTICE",
                                        "README.md",
                                        "USE_POLICY.md",
                                        "added_tokens.json",
                                        "chat_template.jinja",
                                        "generation_config.json",
                                        "merges.txt",
                                        "note",
                                        "notes/more.txt",
                                        "preprocessor_config.json",
                                        "special_tokens_map.json",
                                        "tokenization_own.py",
                                        "tokenizer.json",
                                        "tokenizer.model",
                                        "tokenizer.model.v3",
                                        "tokenizer_config.json",
                                        "vocab.json",
                                        "additional_chat_templates/tool_use.jinja",
                                        "qwen.tiktoken",
                                        "spiece.model",
                                        "tekken.json"};
  for (const std::string& name : belong) model.add(name, "x");
  const std::vector<std::string> stay{"model.onnx_data",
                                      "pytorch_model.bin",
                                      "consolidated.00.pth",
                                      "rust_model.ot",
                                      "model.mlmodel",
                                      "model.tflite",
                                      "m.gguf",
                                      "optimizer.pt",
                                      "training_args.bin",
                                      "flax_model.msgpack",
                                      "tf_model.h5",
                                      "pytorch_model.bin.index.json",
                                      "other.safetensors.index.json",
                                      "other.safetensors",
                                      "picture.png",
                                      "adapter_config.json",
                                      "original/params.json",
                                      "onnx/config.json",
                                      "checkpoint-100/vocab.json",
                                      "other/model.onnx",
                                      "other/config.json",
                                      "onnx/model.onnx",
                                      "onnx/model.onnx_data",
                                      "model.pdparams",
                                      "weights.npz",
                                      "tokenizer.safetensors",
                                      "notes/tokenizer.model"};
  for (const std::string& name : stay) model.add(name, "x");  // not told by what they hold alone
  std::vector<std::string> expected = belong;
  std::ranges::sort(expected);
  CHECK(copied(model.find()) == joined(expected));
  expected = stay;
  std::ranges::sort(expected);
  CHECK(left(model.find()) == joined(expected));
}

TEST_CASE("side files: names that promise text are held to it, large ones stay, tokenisers may be large") {
  Beside model;
  model.add("weights", std::string("\0\1\2\3", 4));
  model.add("data.json", std::string("{}\0", 3));
  model.add("latin.txt",
            "Gr\xfc\xdf"
            "e aus K\xf6ln, wie man so sagt; es ist sonst nichts los hier.");
  model.add("noise.txt", "\x9f\xa8\xe3\xff\xfe\x80\x91");
  model.add("empty", "");
  model.add("pointer.md", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n");
  model.add_large("huge", 5'000'000'000);
  model.add_large("huge.json", 1'000'001);
  model.add_large("tokenizer.json", 17'000'000);
  model.add_large("tokenizer_corpus.txt", 4'000'000'000);
  model.add_large("LICENSE.pdf", 2'000'000);
  const SideFiles files = model.find();
  CHECK(copied(files) == joined({"LICENSE.pdf", "empty", "latin.txt", "tokenizer.json"}));
  CHECK(left(files) ==
        joined({"data.json", "huge", "huge.json", "noise.txt", "pointer.md", "tokenizer_corpus.txt", "weights"}));
  CHECK(why(files, "data.json") == "is no text");
  for (const char* name : {"huge", "huge.json", "tokenizer_corpus.txt"}) CHECK(why(files, name) == "is too large");
  CHECK(why(files, "pointer.md") == "is a Git LFS pointer");
  CHECK(std::ranges::find(files.left_out, "huge", &LeftOut::name)->bytes == 5'000'000'000);
}

TEST_CASE("side files: hidden files and folders are counted, full folders named once") {
  Beside model;
  model.add(".gitattributes", "x");
  model.add(".git/config", "abc");
  model.add(".git/objects/aa/bb", "abcd");
  model.add(".cache/huggingface/download/tokenizer.json.metadata", "x");
  for (int i = 0; i < 30; ++i) model.add("runs/event." + std::to_string(i), "xy");
  for (int i = 0; i < 3; ++i) model.add("onnx/part." + std::to_string(i), "xy");
  for (int i = 0; i < 60; ++i) model.add("venv/lib/" + std::to_string(i) + ".py", "xyz");
  for (int i = 0; i < 50; ++i) model.add("notes/" + std::to_string(i) + ".txt", "xyz");
  const SideFiles files = model.find();
  CHECK(left(files) ==
        joined({".cache/", ".git/", ".gitattributes", "onnx/part.0", "onnx/part.1", "onnx/part.2", "runs/", "venv/"}));
  const LeftOut& git = files.left_out[1];
  CHECK(git.files == 2);
  CHECK(git.bytes == 7);
  CHECK(files.copied.size() == 50);
  const LeftOut& runs = *std::ranges::find(files.left_out, "runs/", &LeftOut::name);
  CHECK(runs.files == 30);
  CHECK(runs.bytes == 60);
  CHECK(files.left_out.back().files == 60);
  CHECK(files.left_out.back().bytes == 180);
}

TEST_CASE("side files: the model's own files and results of runs are passed over in silence") {
  Beside model;
  for (const char* name :
       {"report.json", "compressed/config.json", "adapter/adapter.safetensors", "deep/run/report.json",
        "deep/run/compressed/x.txt", "deep/run/adapter/x.txt", "out/x.txt", "staged/x.txt"})
    model.add(name, "x");
  const SideFiles files = find_side_files(model / "m", {.out = model / "m/staged", .own = model / "m/out"});
  CHECK(copied(files) == "");
  CHECK(left(files) == "");

  // Of two forms of the weights one was read.
  model.add("model.safetensors.index.json", "{\"weight_map\": {\"a\": \"part-1.safetensors\"}}");
  model.add("part-1.safetensors", "x");
  CHECK(why(model.find(), "part-1.safetensors") == "is named as weights");
  toy::fs::remove(model / "m/model.safetensors");
  CHECK(why(model.find(), "part-1.safetensors") == "");
}

TEST_CASE("side files: links to files are copied as files, links to folders are not entered, loops end") {
  Beside model;
  toy::fs::create_directories(model / "blobs");
  toy::write_text(model / "blobs/1", "{}");
  toy::write_text(model / "blobs/2", "hello");
  toy::fs::create_symlink("../blobs/1", model / "m/tokenizer.json");
  toy::fs::create_symlink(model / "blobs/2", model / "m/README.md");
  toy::fs::create_directory_symlink("../blobs", model / "m/linked");
  toy::fs::create_directory_symlink(".", model / "m/loop");
  toy::fs::create_symlink("nowhere", model / "m/dangling.txt");
  toy::fs::create_symlink("round.txt", model / "m/round.txt");
  REQUIRE(::mkfifo((model / "m/pipe.txt").c_str(), 0600) == 0);
  toy::fs::create_symlink("/dev/zero", model / "m/zero.txt");
  const SideFiles files = model.find();
  CHECK(copied(files) == joined({"README.md", "tokenizer.json"}));
  CHECK(left(files) == joined({"dangling.txt", "linked/", "loop/", "pipe.txt", "round.txt", "zero.txt"}));
  CHECK(why(files, "dangling.txt") == "is a link that leads nowhere");
  CHECK(why(files, "linked/") == "is a link to a folder");
  CHECK(why(files, "pipe.txt") == "is no regular file");
  llama::copy_side_files(files, model / "out");
  for (const char* name : {"README.md", "tokenizer.json"}) {
    CHECK_FALSE(toy::fs::is_symlink(model / "out" / name));
    CHECK(toy::read_text(model / "out" / name) == toy::read_text(model / "m" / name));
  }
}

TEST_CASE("side files: a tokeniser that cannot be read is an error, anything else is named") {
  for (const char* name : {"tokenizer.json", "chat_template.jinja", "generation_config.json", "vocab.json"}) {
    Beside model;
    toy::fs::create_symlink("nowhere", model / "m" / name);
    CHECK_THROWS_WITH_AS(model.find(), doctest::Contains("is a link that leads nowhere; mend or remove it"),
                         losa::FileError);
    toy::fs::remove(model / "m" / name);
    REQUIRE(::mkfifo((model / "m" / name).c_str(), 0600) == 0);
    CHECK_THROWS_WITH_AS(model.find(), doctest::Contains("is no regular file; mend or remove it"), losa::FileError);
  }
}

TEST_CASE("side files: copies are the same bytes, up to a size") {
  Beside model;
  std::string large(3'000'000, 'x');
  for (std::size_t i = 0; i < large.size(); ++i) large[i] = static_cast<char>(i * 2654435761u >> 13);
  model.add("tokenizer.json", large);
  model.add("notes/small.txt", "small");
  model.add("empty", "");
  const SideFiles files = model.find();
  llama::copy_side_files(files, model / "all");
  llama::copy_side_files(files, model / "small", llama::small_file);
  CHECK(toy::read_text(model / "all/tokenizer.json") == large);
  CHECK_FALSE(toy::fs::exists(model / "small/tokenizer.json"));
  for (const char* out : {"all", "small"}) {
    CHECK(toy::read_text(model / out / "notes/small.txt") == "small");
    CHECK(toy::fs::file_size(model / out / "empty") == 0);
  }
  toy::fs::remove(model / "m/notes/small.txt");
  CHECK_THROWS_WITH_AS(llama::copy_side_files(files, model / "late"), doctest::Contains("small.txt: cannot open"),
                       losa::FileError);
}

TEST_CASE("side files: of a result's compressed/, large files are taken from the directory above") {
  Beside model;
  model.add("report.json", "{}");
  model.add("adapter/adapter.safetensors", "x");
  model.add("tokenizer.json", std::string(1'500'000, ' '));
  model.add("README.md", "of the result");
  toy::write_model(model / "m/compressed");
  toy::write_text(model / "m/compressed/README.md", "its own");
  const SideFiles files = find_side_files(model / "m/compressed/");
  CHECK(copied(files) == joined({"README.md", "tokenizer.json"}));
  CHECK(files.copied[0].bytes == 7);
  CHECK(files.copied[1].source.parent_path().filename() == "m");
}
