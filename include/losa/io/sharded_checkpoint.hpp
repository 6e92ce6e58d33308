#pragma once
// The tensors of a Hugging Face model directory: one model.safetensors, or shards named by
// model.safetensors.index.json ({"weight_map": {tensor: file}}). The index is held to what the shards hold.
//
//   losa::io::ShardedCheckpoint checkpoint("smollm2");
//   losa::io::read_f32(checkpoint.at("model.norm.weight"), norm);

#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/io/json_events.hpp>
#include <losa/io/mapped_file.hpp>
#include <losa/io/safetensors_file.hpp>
#include <losa/io/tensor.hpp>

namespace losa::inline v0 {

namespace detail {

/// Takes {"weight_map": {tensor: file}, ...} apart.
class ShardIndex {
 public:
  std::map<std::string, std::string> weight_map;
  bool found = false;

  explicit ShardIndex(std::string_view path) : path_(path) {}

  void enter(bool object) {
    ++depth_;
    if (depth_ == 1 && !object) raise<FileError>(path_, ": is not a JSON object");
    if (depth_ == 2 && in_map_ && !object) raise<FileError>(path_, ": weight_map is not a JSON object");
    if (depth_ == 3 && in_map_) refuse_entry();
  }
  void leave() { --depth_; }
  void key(const std::string& text) {
    if (depth_ == 1) in_map_ = text == "weight_map";
    if (depth_ == 1 && in_map_) found = true;
    if (depth_ == 2 && in_map_) tensor_ = text;
  }
  void scalar(const JsonScalar& value) {
    if (depth_ == 0) raise<FileError>(path_, ": is not a JSON object");
    if (depth_ == 1 && in_map_) raise<FileError>(path_, ": weight_map is not a JSON object");
    if (depth_ != 2 || !in_map_) return;
    if (value.kind != JsonScalar::Kind::string) refuse_entry();
    if (value.text.empty() || value.text == "." || value.text == ".." ||
        value.text.find_first_of(std::string_view("/\\\0", 3)) != std::string_view::npos)
      raise<FileError>(path_, ": tensor ", quote_name(tensor_), ": ", quote_name(value.text),
                       " is not the name of a file in the same directory");
    weight_map.emplace(tensor_, value.text);
  }

 private:
  [[__noreturn__]] void refuse_entry() const {
    raise<FileError>(path_, ": tensor ", quote_name(tensor_), ": its file name is not a string");
  }

  std::string_view path_;
  std::size_t depth_ = 0;
  bool in_map_ = false;
  std::string tensor_;
};

/// The weight map in an index's text. Throws FileError, its sentence starting with `path`.
inline std::map<std::string, std::string> parse_shard_index(std::string_view text, std::string_view path) {
  if (text.size() > io::SafetensorsFile::header_limit)
    raise<FileError>(path, ": ", text.size(), " bytes are above the limit of ", io::SafetensorsFile::header_limit);
  ShardIndex shard_index(path);
  parse_json(text, path, 16, shard_index);
  if (!shard_index.found) raise<FileError>(path, ": weight_map is missing");
  return std::move(shard_index.weight_map);
}

}  // namespace detail

namespace io {

/// All tensors of a directory, whatever number of files they are in. Movable; views stay valid as long as it lives.
class ShardedCheckpoint {
 public:
  /// Maps and validates every file. As in transformers, model.safetensors is taken where both forms are present.
  /// Throws FileError: neither is present, an index that is not valid or leaves the directory, a shard that is missing,
  /// a tensor that its shard lacks or that two shards hold.
  explicit ShardedCheckpoint(const std::string& directory) : path_(directory) {
    const std::filesystem::path folder(directory);
    const std::string single = (folder / "model.safetensors").string();
    const std::string shard_index = (folder / "model.safetensors.index.json").string();
    std::error_code error;
    if (std::filesystem::exists(single, error)) {
      shards_.emplace_back(single);
      collect();
    } else if (std::filesystem::exists(shard_index, error)) {
      open_shards(folder, shard_index);
    } else if (!std::filesystem::is_directory(folder, error)) {
      detail::raise<FileError>(directory, ": is not a directory");
    } else {
      detail::raise<FileError>(directory, ": holds neither model.safetensors nor model.safetensors.index.json");
    }
  }

  const std::string& path() const noexcept { return path_; }
  /// The files, in the order of their names.
  std::span<const SafetensorsFile> shards() const noexcept { return shards_; }
  /// File by file, in the order of their data.
  std::span<const Tensor* const> tensors() const noexcept { return tensors_; }
  /// Null if there is no tensor of that name.
  const Tensor* find(std::string_view name) const {
    const auto found = index_.find(name);
    return found == index_.end() ? nullptr : found->second;
  }
  /// Throws FileError if there is no tensor of that name.
  const Tensor& at(std::string_view name) const {
    if (const Tensor* tensor = find(name)) return *tensor;
    detail::raise<FileError>(path_, ": tensor ", detail::quote_name(name), " is missing");
  }

 private:
  void open_shards(const std::filesystem::path& folder, const std::string& index_path) {
    const MappedFile file(index_path);
    const auto weight_map =
        detail::parse_shard_index({reinterpret_cast<const char*>(file.bytes().data()), file.size()}, index_path);
    std::map<std::string, std::size_t> number;  // of each shard
    for (const auto& [tensor, shard] : weight_map) number.emplace(shard, 0);
    for (auto& [shard, n] : number) {
      n = shards_.size();
      shards_.emplace_back((folder / shard).string());
    }
    collect();
    for (const auto& [tensor, shard] : weight_map)
      if (shards_[number[shard]].find(tensor) == nullptr) {
        const Tensor* elsewhere = find(tensor);
        detail::raise<FileError>(index_path, ": tensor ", detail::quote_name(tensor), " is not in ",
                                 detail::quote_name(shard), elsewhere ? " but in " : "",
                                 elsewhere ? detail::quote_name(*elsewhere->file) : std::string());
      }
  }
  void collect() {
    for (const SafetensorsFile& shard : shards_)
      for (const Tensor& tensor : shard.tensors()) {
        const auto [other, fresh] = index_.emplace(tensor.name, &tensor);
        if (!fresh)
          detail::raise<FileError>(path_, ": tensor ", detail::quote_name(tensor.name), " is in both ",
                                   detail::quote_name(*other->second->file), " and ", detail::quote_name(*tensor.file));
        tensors_.push_back(&tensor);
      }
  }

  std::string path_;
  std::vector<SafetensorsFile> shards_;
  std::vector<const Tensor*> tensors_;
  std::unordered_map<std::string, const Tensor*, detail::NameHash, std::equal_to<>> index_;
};

}  // namespace io
}  // namespace losa::inline v0
