#pragma once
// The tensors of a Hugging Face model directory: one model.safetensors, or shards named by
// model.safetensors.index.json ({"weight_map": {tensor: file}}). As in transformers, the index says which files are
// read; what they hold says where a tensor is. A tensor that is listed and held by no file is an error when it is asked
// for.
//
//   losa::io::ShardedCheckpoint checkpoint("smollm2");
//   losa::io::read_f32(checkpoint.at("model.norm.weight"), norm);

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/io/directory_hints.hpp>
#include <losa/io/file_kind.hpp>
#include <losa/io/json_events.hpp>
#include <losa/io/mapped_file.hpp>
#include <losa/io/safetensors_file.hpp>
#include <losa/io/tensor.hpp>

namespace losa::inline v0 {

namespace detail {

/// Takes {"weight_map": {tensor: file}, ...} apart. Of a key that is there twice the last counts, as in transformers:
/// what a shard holds is decided by the shard.
class ShardIndex {
 public:
  static constexpr bool repeats = true;
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
    if (depth_ == 1 && in_map_) {
      found = true;
      weight_map.clear();
    }
    if (depth_ == 2 && in_map_) tensor_ = text;
  }
  void scalar(const JsonScalar& value) {
    if (depth_ == 0) raise<FileError>(path_, ": is not a JSON object");
    if (depth_ == 1 && in_map_) raise<FileError>(path_, ": weight_map is not a JSON object");
    if (depth_ != 2 || !in_map_) return;
    if (value.kind != JsonScalar::Kind::string) refuse_entry();
    std::string inside = path_inside(value.text);
    if (inside.empty())
      raise<FileError>(path_, ": tensor ", quote_name(tensor_), ": ", quote_name(value.text),
                       " is not the name of a file in the same directory or below it");
    weight_map.insert_or_assign(tensor_, std::move(inside));
  }

 private:
  /// Names joined by single slashes, none of them ".."; without those that are ".". Empty for anything else.
  static std::string path_inside(std::string_view file) {
    std::string path;
    if (file.find_first_of(std::string_view("\\\0", 2)) != std::string_view::npos) return {};
    for (std::size_t begin = 0; begin <= file.size();) {
      const std::size_t end = std::min(file.find('/', begin), file.size());
      const std::string_view name = file.substr(begin, end - begin);
      if (name.empty() || name == ".." || (name == "." && end == file.size())) return {};
      if (name != ".") path += (path.empty() ? "" : "/") + std::string(name);
      begin = end + 1;
    }
    return path;
  }
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
  io::refuse_other_content(std::as_bytes(std::span(text)), path, io::FileContent::json);
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
  /// a tensor that two shards hold with different values.
  explicit ShardedCheckpoint(const std::string& directory) : path_(directory) {
    const std::filesystem::path folder(directory);
    const std::string single = (folder / "model.safetensors").string();
    index_path_ = (folder / "model.safetensors.index.json").string();
    std::error_code error;
    if (std::filesystem::exists(single, error)) {
      shards_.emplace_back(single);
      collect();
    } else if (std::filesystem::exists(index_path_, error)) {
      open_shards(folder);
    } else {
      detail::expect_directory(folder);
      for (const std::string& path : {single, index_path_})
        if (std::filesystem::is_symlink(path, error))
          detail::raise<FileError>(path,
                                   ": is a link that leads nowhere; the directory holds neither model.safetensors "
                                   "nor model.safetensors.index.json");
      detail::raise<FileError>(directory, ": holds neither model.safetensors nor model.safetensors.index.json",
                               detail::largest_file_in_words(folder));
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
    if (const auto listed = unheld_.find(name); listed != unheld_.end())
      detail::raise<FileError>(index_path_, ": tensor ", detail::quote_name(name), " is listed in ",
                               detail::quote_name(listed->second), ", but neither that nor another shard holds it");
    detail::raise<FileError>(path_, ": tensor ", detail::quote_name(name), " is missing");
  }

 private:
  void open_shards(const std::filesystem::path& folder) {
    const MappedFile file(index_path_);
    auto weight_map =
        detail::parse_shard_index({reinterpret_cast<const char*>(file.bytes().data()), file.size()}, index_path_);
    std::set<std::string> names;
    for (const auto& [tensor, shard] : weight_map) names.insert(shard);
    for (const std::string& shard : names) shards_.emplace_back((folder / shard).string());
    collect();
    for (auto& [tensor, shard] : weight_map)
      if (find(tensor) == nullptr) unheld_.emplace(tensor, std::move(shard));
  }
  void collect() {
    for (const SafetensorsFile& shard : shards_)
      for (const Tensor& tensor : shard.tensors()) {
        const auto [other, fresh] = index_.emplace(tensor.name, &tensor);
        if (fresh)
          tensors_.push_back(&tensor);
        else if (!same(*other->second, tensor))
          detail::raise<FileError>(path_, ": tensor ", detail::quote_name(tensor.name), " is in both ",
                                   detail::quote_name(*other->second->file), " and ", detail::quote_name(*tensor.file),
                                   ", with different values");
      }
  }
  static bool same(const Tensor& left, const Tensor& right) {
    return left.dtype_name == right.dtype_name && left.shape == right.shape &&
           std::equal(left.bytes.begin(), left.bytes.end(), right.bytes.begin(), right.bytes.end());
  }

  std::string path_;
  std::string index_path_;
  std::vector<SafetensorsFile> shards_;
  std::vector<const Tensor*> tensors_;
  std::unordered_map<std::string, const Tensor*, detail::NameHash, std::equal_to<>> index_;
  std::map<std::string, std::string, std::less<>> unheld_;  // tensors that only the index knows → the shard it names
};

}  // namespace io
}  // namespace losa::inline v0
