#pragma once
// What lies beside a model's weights: which of it belongs to any model of this kind, and is copied into a result, and
// which is left out and named. Tokenisers, chat templates, generation and processor configurations and licences belong
// to it by name; any other small text (a readme, notes, code that a tokeniser names) by content; nothing else does.
//
//   const llama::SideFiles side = llama::find_side_files("smollm2", {.out = "smollm2-70"});
//   llama::copy_side_files(side, "smollm2-70");
//
// So no list has to name the formats that weights, optimiser states, pictures and logs come in: what is not known stays
// behind, and a person is told. With it stays what is about it: adapter_config.json, the state of a trainer, a folder
// whose largest file is not copied (onnx/, original/, checkpoint-100/). Hidden files and folders (.git, .cache) belong
// to other programs. Symbolic links to files are read through, those to folders are not entered, and special files are
// never opened.

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace llama {

/// Text above this size is no side file by its content; a second copy of a larger file is not made.
inline constexpr std::size_t small_file = 1'000'000;

struct SideFile {
  std::string name;  // relative to the model's directory, with slashes
  std::size_t bytes = 0;
  std::filesystem::path source;  // where it is read
};

/// A file, or a folder of them ("runs/"), that stays behind.
struct LeftOut {
  std::string name;
  std::size_t files = 0;
  std::size_t bytes = 0;
  std::string why;  // "is no text"
};

struct SideFiles {
  std::vector<SideFile> copied;   // sorted by name
  std::vector<LeftOut> left_out;  // sorted by name
};

struct SideFileOptions {
  std::filesystem::path out = {};  // where the result is written: not looked into, should it lie inside the model's
  std::filesystem::path own = {};  // … and where it will be published
};

/// Looks through a model's directory. config.json, the weights that were read (model.safetensors or the files of its
/// index), what is named as a run's results (report.json, compressed/, adapter/), and folders that hold another run's
/// result are passed over in silence: a result has its own. Throws losa::FileError if the directory cannot be listed,
/// or a tokeniser, a chat template or a generation configuration cannot be read.
SideFiles find_side_files(const std::filesystem::path& model, const SideFileOptions& options = {});

/// Copies them below `out`, those of at most `most` bytes, each written aside and renamed, in pieces. Throws
/// losa::FileError.
void copy_side_files(const SideFiles& files, const std::filesystem::path& out, std::size_t most = ~std::size_t{0});

}  // namespace llama
