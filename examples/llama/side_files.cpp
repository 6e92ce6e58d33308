#include "side_files.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <limits>
#include <losa/core/error.hpp>
#include <losa/io/atomic_file.hpp>
#include <losa/io/file_kind.hpp>
#include <losa/io/file_services.hpp>
#include <losa/io/mapped_file.hpp>
#include <losa/io/sharded_checkpoint.hpp>
#include <map>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include "text_bytes.hpp"

namespace llama {

namespace fs = std::filesystem;
using losa::detail::raise;

namespace {

/// No tokeniser and no licence comes near it.
constexpr std::size_t largest_by_name = 128'000'000;
constexpr int deepest = 16;                   // levels of folders
constexpr std::size_t most_of_a_folder = 20;  // that are named one by one
// A folder with more texts (another project's sources, a virtual environment) is none of the model's.
constexpr std::size_t most_texts_of_a_folder = 50;

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

/// A tokeniser, a template or a configuration: a result without it is not the model that it was.
bool is_needed(const std::string& name) {
  static const std::set<std::string, std::less<>> names{"generation_config.json",
                                                        "special_tokens_map.json",
                                                        "added_tokens.json",
                                                        "preprocessor_config.json",
                                                        "processor_config.json",
                                                        "vocab.json",
                                                        "vocab.txt",
                                                        "vocab.bpe",
                                                        "merges.txt",
                                                        "encoder.json",
                                                        "tekken.json"};
  const std::string ending = fs::path(name).extension().string();
  return names.contains(name) || name.starts_with("tokenizer") || name.starts_with("chat_template") ||
         ending == ".model" || ending == ".spm" || ending == ".tiktoken" || ending == ".jinja";
}

bool is_licence(const std::string& name) {
  for (const char* begin : {"license", "licence", "notice", "use_policy", "copying", "copyright"})
    if (lower(name).starts_with(begin)) return true;
  return false;
}

/// Endings of text; a name may have none (README), but then the content decides alone.
bool is_named_as_text(const std::string& name) {
  static const std::set<std::string, std::less<>> endings{"",     ".txt",  ".md",   ".rst", ".json", ".jsonl", ".jinja",
                                                          ".py",  ".yaml", ".toml", ".cfg", ".yml",  ".ini",   ".csv",
                                                          ".tsv", ".bib",  ".cff",  ".tex", ".adoc", ".org"};
  return endings.contains(lower(fs::path(name).extension().string()));
}

/// The parts of weights, listed; the weights themselves, should they be named after a tokeniser.
bool is_named_as_weights(const std::string& name) {
  for (const char* end : {".index.json", ".safetensors", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".onnx", ".npz"})
    if (name.ends_with(end)) return true;
  return false;
}

/// What describes files that are not copied: a reader that finds it would look for them, or take the weights for
/// theirs. (With adapter_config.json beside it, transformers loads another model.)
bool is_about_what_is_left(const std::string& name) {
  static const std::set<std::string, std::less<>> names{
      "adapter_config.json",      "genai_config.json",    "hf_quant_config.json", "mlc-chat-config.json",
      "openvino_config.json",     "ort_config.json",      "params.json",          "quant_config.json",
      "quantization_config.json", "quantize_config.json", "recipe.yaml",          "trainer_state.json"};
  return names.contains(name) || name.starts_with("training_args");
}

/// Folders of the same model in another form, or at another time.
bool holds_another_form(const std::string& folder) {
  return folder == "onnx" || folder == "openvino" || folder == "original" || folder == "coreml" ||
         folder.starts_with("checkpoint-");
}

/// A file beside which, in a folder, every text is about it.
bool is_main_file(const std::string& name) {
  for (const char* end : {".bin", ".onnx_data", ".msgpack", ".ot", ".tflite", ".mlmodel", ".engine", ".nemo"})
    if (name.ends_with(end)) return true;
  return is_named_as_weights(name);
}

bool is_text(std::span<const std::byte> bytes) {
  const TextCounts n = count_text(bytes);
  return n.control == 0 && (n.broken == 0 || n.printable * 10 >= n.bytes * 9);
}

/// "notes/" of "notes/more/text.txt"; empty for what lies in no folder.
std::string top_folder(const std::string& name) {
  const auto slash = name.find('/');
  return slash == name.npos ? std::string() : name.substr(0, slash + 1);
}

/// "notes/more/" of "notes/more/text.txt".
std::string folder_of(const std::string& name) { return name.substr(0, name.rfind('/') + 1); }

/// Reads as many bytes as there is room for, or the whole file. Empty, or why it cannot be read. (Of a mapped file, a
/// damaged place would end the program.)
std::string read_start(const fs::path& path, std::vector<std::byte>& into) {
  const losa::detail::FileHandle file = losa::detail::open_to_read(path.c_str());
  if (!file) return "cannot open for reading: " + losa::detail::errno_text(errno);
  for (std::size_t done = 0; done < into.size();) {
    const ssize_t n =
        losa::detail::uninterrupted([&] { return ::read(file.get(), into.data() + done, into.size() - done); });
    if (n < 0) return "cannot be read: " + losa::detail::errno_text(errno);
    if (n == 0) into.resize(done);
    done += static_cast<std::size_t>(n);
  }
  return {};
}

bool holds_result(const fs::path& folder) {
  std::error_code ignored;
  return fs::exists(folder / "report.json", ignored) && fs::exists(folder / "compressed", ignored) &&
         fs::exists(folder / "adapter", ignored);
}

/// Names of the files that hold the model's own configuration and weights, and of a run's results.
std::set<std::string> own_files(const fs::path& model) {
  std::set<std::string> names{"config.json", "report.json", "compressed", "adapter", "model.safetensors.index.json"};
  const fs::path single = model / "model.safetensors", index = model / "model.safetensors.index.json";
  std::error_code ignored;
  if (fs::exists(single, ignored)) {
    names.insert("model.safetensors");
  } else if (fs::exists(index, ignored)) {
    const losa::io::MappedFile file(index.string());
    for (const auto& [tensor, shard] : losa::detail::parse_shard_index(
             {reinterpret_cast<const char*>(file.bytes().data()), file.size()}, index.string()))
      names.insert(shard);
  }
  return names;
}

class Search {
 public:
  Search(const fs::path& model, const SideFileOptions& options) : own_(own_files(model)) {
    std::error_code ignored;
    for (const fs::path& folder : {options.out, options.own})
      if (!folder.empty()) excluded_.push_back(fs::weakly_canonical(folder, ignored));
    std::error_code error;
    look_into(model, "", 0, false, error);
    if (error) raise<losa::FileError>(model.string(), ": cannot be listed: ", error.message());
  }

  SideFiles result() {
    std::map<std::string, std::vector<LeftOut>> by_folder;
    SideFiles result;
    for (SideFile& one : copied_) {
      const std::string folder = top_folder(one.name);
      if (lost_its_main_file(folder_of(one.name)))
        by_folder[folder].push_back({one.name, 1, one.bytes, "lies beside what is not copied"});
      else if (!folder.empty() && texts_[folder] > most_texts_of_a_folder)
        by_folder[folder].push_back({one.name, 1, one.bytes, "is one of many"});
      else
        result.copied.push_back(std::move(one));
    }
    for (LeftOut& one : left_out_) {
      const std::string folder = top_folder(one.name);
      (folder.empty() || folder == one.name ? result.left_out : by_folder[folder]).push_back(std::move(one));
    }
    for (auto& [folder, found] : by_folder) {
      if (found.size() <= most_of_a_folder) {
        std::ranges::move(found, std::back_inserter(result.left_out));
        continue;
      }
      LeftOut all{folder, 0, 0, "holds what belongs to no model of this kind"};
      for (const LeftOut& one : found) {
        all.files += one.files;
        all.bytes += one.bytes;
      }
      result.left_out.push_back(std::move(all));
    }
    std::ranges::sort(result.copied, {}, &SideFile::name);
    std::ranges::sort(result.left_out, {}, &LeftOut::name);
    return result;
  }

 private:
  /// Of a folder below the model's, and of those that it lies in.
  bool lost_its_main_file(std::string folder) const {
    for (; !folder.empty(); folder = folder_of(folder.substr(0, folder.size() - 1)))
      if (const auto at = main_files_.find(folder); at != main_files_.end() && at->second.left > at->second.copied)
        return true;
    return false;
  }

  /// `another` is true within a folder of the model in another form.
  void look_into(const fs::path& folder, const std::string& prefix, int depth, bool another, std::error_code& error) {
    for (fs::directory_iterator at(folder, error); !error && at != fs::directory_iterator(); at.increment(error)) {
      const std::string name = prefix + at->path().filename().string();
      if (depth == 0 && own_.contains(name)) continue;
      std::error_code ignored;
      const bool link = at->is_symlink(ignored);
      const fs::file_status status = at->status(ignored);
      if (fs::is_directory(status))
        folder_found(at->path(), name, link, depth, another);
      else if (fs::is_regular_file(status))
        file_found(at->path(), name, depth, another);
      else
        leave(at->path(), name, depth,
              link && !fs::exists(status) ? "is a link that leads nowhere" : "is no regular file");
    }
  }

  void folder_found(const fs::path& path, const std::string& name, bool link, int depth, bool another) {
    std::error_code ignored;
    const fs::path canonical = fs::weakly_canonical(path, ignored);
    if (std::ranges::find(excluded_, canonical) != excluded_.end() || holds_result(path)) return;
    const auto leave_folder = [&](const std::string& why) { left_out_.push_back(counted(path, name, link, why)); };
    if (link) return leave_folder("is a link to a folder");
    if (path.filename().string().starts_with('.')) return leave_folder("is hidden");
    if (depth == deepest) return leave_folder("lies too deep");
    std::error_code error;
    look_into(path, name + "/", depth + 1, another || holds_another_form(path.filename().string()), error);
    if (error) leave_folder("cannot be listed: " + error.message());
  }

  static LeftOut counted(const fs::path& folder, const std::string& name, bool link, std::string why) {
    LeftOut one{name + "/", 0, 0, std::move(why)};
    std::error_code error;
    for (fs::recursive_directory_iterator at(folder, error);
         !link && !error && at != fs::recursive_directory_iterator(); at.increment(error)) {
      std::error_code ignored;
      if (fs::symlink_status(at->path(), ignored).type() != fs::file_type::regular) continue;
      ++one.files;
      one.bytes += at->file_size(ignored);
    }
    return one;
  }

  /// What is no file. Throws losa::FileError in place of one that a result needs.
  void leave(const fs::path& path, const std::string& name, int depth, const std::string& why) {
    if (depth == 0 && is_needed(name))
      raise<losa::FileError>(path.string(), ": ", why, "; mend or remove it: the result needs a copy");
    note_main_file(name, 0);
    left_out_.push_back({name, 1, 0, why});
  }

  void note_main_file(const std::string& name, std::size_t size) {
    std::size_t& left = main_files_[folder_of(name)].left;
    left = std::max(left, is_main_file(name) ? std::numeric_limits<std::size_t>::max() : size);
  }

  void file_found(const fs::path& path, const std::string& name, int depth, bool another) {
    std::error_code error;
    const auto size = static_cast<std::size_t>(fs::file_size(path, error));
    const std::string last = path.filename().string();
    const bool hidden = last.starts_with('.'), about = is_about_what_is_left(last);
    const auto leave_out = [&](std::string why) {
      if (!hidden && !about) note_main_file(name, error ? 0 : size);
      left_out_.push_back({name, 1, error ? 0 : size, std::move(why)});
    };
    if (hidden) return leave_out("is hidden");
    if (another) return leave_out("is of the model in another form");
    if (about) return leave_out("describes what is not copied");
    if (is_named_as_weights(last)) return leave_out("is named as weights");
    const bool needed = depth == 0 && is_needed(last), by_name = needed || (depth == 0 && is_licence(last));
    if (!by_name && !is_named_as_text(last)) return leave_out("is not named as text");
    if (size > (by_name ? largest_by_name : small_file)) return leave_out("is too large");
    const std::string folder = top_folder(name);
    if (!folder.empty() && ++texts_[folder] > most_texts_of_a_folder) return leave_out("is one of many");
    std::vector<std::byte> start(by_name ? std::min<std::size_t>(size, 512) : size);
    if (const std::string reason = read_start(path, start); !reason.empty()) {
      if (needed) raise<losa::FileError>(path.string(), ": ", reason);
      return leave_out(reason);
    }
    const std::string_view head(reinterpret_cast<const char*>(start.data()), start.size());
    if (const auto pointer = losa::detail::find_pointer(head, size)) return leave_out("is " + pointer->what);
    if (!by_name && !is_text(start)) return leave_out("is no text");
    std::size_t& copied = main_files_[folder_of(name)].copied;
    copied = std::max(copied, size);
    copied_.push_back({name, size, path});
  }

  /// The largest file of a folder, of those that are left and those that are copied.
  struct MainFile {
    std::size_t left = 0;
    std::size_t copied = 0;
  };

  std::set<std::string> own_;
  std::vector<fs::path> excluded_;
  std::vector<SideFile> copied_;
  std::vector<LeftOut> left_out_;
  std::map<std::string, std::size_t> texts_;    // by folder in the model's
  std::map<std::string, MainFile> main_files_;  // by folder, at any depth
};

}  // namespace

SideFiles find_side_files(const fs::path& model, const SideFileOptions& options) {
  SideFiles found = Search(model, options).result();
  // compressed/ of a result leaves large files to the directory above.
  std::error_code error;
  const fs::path canonical = fs::weakly_canonical(model, error);
  if (canonical.filename() != "compressed" || !holds_result(canonical.parent_path())) return found;
  for (SideFile& above : Search(canonical.parent_path(), options).result().copied)
    if (above.bytes > small_file && above.name.find('/') == above.name.npos &&
        std::ranges::find(found.copied, above.name, &SideFile::name) == found.copied.end())
      found.copied.push_back(std::move(above));
  std::ranges::sort(found.copied, {}, &SideFile::name);
  return found;
}

void copy_side_files(const SideFiles& files, const fs::path& out, std::size_t most) {
  std::vector<std::byte> piece(std::size_t{1} << 20);
  for (const SideFile& one : files.copied) {
    if (one.bytes > most) continue;
    const losa::detail::FileHandle source = losa::detail::open_to_read(one.source.c_str());
    if (!source)
      raise<losa::FileError>(one.source.string(), ": cannot open for reading: ", losa::detail::errno_text(errno));
    const fs::path target = out / one.name;
    std::error_code error;
    fs::create_directories(target.parent_path(), error);
    if (error) raise<losa::FileError>(target.parent_path().string(), ": cannot be made: ", error.message());
    losa::io::AtomicFile copy(target.string());
    for (;;) {
      const ssize_t n = losa::detail::uninterrupted([&] { return ::read(source.get(), piece.data(), piece.size()); });
      if (n < 0) raise<losa::FileError>(one.source.string(), ": cannot be read: ", losa::detail::errno_text(errno));
      if (n == 0) break;
      copy.write(std::span(piece).first(static_cast<std::size_t>(n)));
    }
    copy.commit();
  }
}

}  // namespace llama
