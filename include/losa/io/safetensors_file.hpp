#pragma once
// Safetensors files, read. An 8-byte header length, a JSON header that says of every tensor its dtype, shape and
// offsets, then the data. Everything the header claims is checked when the file is opened, before anything is indexed:
// no header, however false, makes a later read leave the file. Bytes after the last tensor and holes between tensors
// are accepted, overlapping tensors are refused, and tensors may lie unaligned. A file that is something else
// altogether (a Git LFS pointer, an archive) is told as what it is.
//
//   losa::io::SafetensorsFile file("model.safetensors");           // mapped, validated, nothing copied
//   losa::io::read_f32(file.at("lm_head.weight"), losa::view(weight.data(), out, in));

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/io/dtype.hpp>
#include <losa/io/file_kind.hpp>
#include <losa/io/json_events.hpp>
#include <losa/io/mapped_file.hpp>
#include <losa/io/tensor.hpp>

namespace losa::inline v0 {

namespace detail {

/// Takes the header's events apart: {name: {dtype, shape, data_offsets}, "__metadata__": {name: text}}.
class SafetensorsHeader {
 public:
  struct Entry {
    std::string name;
    std::string dtype;
    std::vector<std::size_t> shape;
    std::vector<std::uint64_t> offsets;
    bool has_dtype = false;
    bool has_shape = false;
    bool has_offsets = false;
  };
  std::vector<Entry> entries;
  std::map<std::string, std::string, std::less<>> metadata;

  explicit SafetensorsHeader(std::string_view path) : path_(path) {}

  void enter(bool object) {
    ++depth_;
    if (depth_ == 1 && !object) raise<FileError>(path_, ": header is not a JSON object");
    if (depth_ == 2 && !object) refuse_entry();
    if (depth_ == 3 && in_metadata_) refuse_metadata();
    if (depth_ == 3 && (field_ == Field::dtype || object) && field_ != Field::unknown) refuse_field();
    if (depth_ > 3 && field_ != Field::unknown) refuse_field();
    if (depth_ == 3 && field_ == Field::shape) entries.back().has_shape = true;
    if (depth_ == 3 && field_ == Field::offsets) entries.back().has_offsets = true;
  }
  void leave() {
    --depth_;
    if (depth_ == 1 && !in_metadata_) check_complete(entries.back());
  }
  void key(const std::string& text) {
    if (depth_ == 1) {
      in_metadata_ = text == "__metadata__";
      if (!in_metadata_) entries.push_back({.name = text, .dtype = {}, .shape = {}, .offsets = {}});
      field_ = Field::unknown;
    } else if (depth_ == 2 && in_metadata_) {
      metadata_key_ = text;
    } else if (depth_ == 2) {
      field_ = text == "dtype"          ? Field::dtype
               : text == "shape"        ? Field::shape
               : text == "data_offsets" ? Field::offsets
                                        : Field::unknown;
    }
  }
  void scalar(const JsonScalar& value) {
    if (depth_ == 0) raise<FileError>(path_, ": header is not a JSON object");
    if (depth_ == 1 && in_metadata_ && value.kind == JsonScalar::Kind::null) return;  // as if it were not there
    if (depth_ == 1) refuse_entry();
    if (in_metadata_) {
      if (depth_ > 2 || value.kind != JsonScalar::Kind::string) refuse_metadata();
      metadata.emplace(metadata_key_, value.text);
    } else if (depth_ == 2 && field_ == Field::dtype && value.kind == JsonScalar::Kind::string) {
      entries.back().dtype = value.text;
      entries.back().has_dtype = true;
    } else if (depth_ == 2 && field_ != Field::unknown) {
      refuse_field();
    } else if (depth_ == 3 && field_ == Field::shape) {
      entries.back().shape.push_back(whole(value));
    } else if (depth_ == 3 && field_ == Field::offsets) {
      entries.back().offsets.push_back(whole(value));
    }
  }

 private:
  enum class Field { dtype, shape, offsets, unknown };

  [[__noreturn__]] void refuse_entry() const {
    if (in_metadata_) raise<FileError>(path_, ": __metadata__ is not a JSON object");
    raise<FileError>(path_, ": tensor ", quote_name(entries.back().name), ": its description is not a JSON object");
  }
  [[__noreturn__]] void refuse_metadata() const {
    raise<FileError>(path_, ": __metadata__ entry ", quote_name(metadata_key_), " is not a string");
  }
  [[__noreturn__]] void refuse_field() const {
    raise<FileError>(path_, ": tensor ", quote_name(entries.back().name), ": ",
                     field_ == Field::dtype   ? "dtype is not a string"
                     : field_ == Field::shape ? "shape is not an array of whole numbers"
                                              : "data_offsets is not an array of whole numbers");
  }
  std::uint64_t whole(const JsonScalar& value) const {
    if (value.kind != JsonScalar::Kind::whole) refuse_field();
    return value.whole;
  }
  void check_complete(const Entry& entry) const {
    const char* missing = !entry.has_dtype     ? "dtype"
                          : !entry.has_shape   ? "shape"
                          : !entry.has_offsets ? "data_offsets"
                                               : nullptr;
    if (missing) raise<FileError>(path_, ": tensor ", quote_name(entry.name), ": ", missing, " is missing");
    if (entry.offsets.size() != 2)
      raise<FileError>(path_, ": tensor ", quote_name(entry.name), ": data_offsets must be 2 numbers, got ",
                       entry.offsets.size());
  }

  std::string_view path_;
  std::size_t depth_ = 0;
  bool in_metadata_ = false;
  Field field_ = Field::unknown;
  std::string metadata_key_;
};

}  // namespace detail

namespace io {

/// The tensors of one file. Movable; views of its bytes stay valid as long as it (or what it was moved to) lives.
class SafetensorsFile {
 public:
  /// Longest header that is read, the reference implementation's limit, in bytes.
  static constexpr std::size_t header_limit = 100'000'000;

  SafetensorsFile() = default;
  /// Maps and validates. Throws FileError: `path: tensor "x": what is wrong`.
  explicit SafetensorsFile(const std::string& path) : file_(path) { parse(path, file_.bytes()); }
  /// The same for bytes that are in memory already and outlive the object; `name` stands for the path in errors.
  static SafetensorsFile from_memory(std::span<const std::byte> bytes, const std::string& name) {
    SafetensorsFile file;
    file.parse(name, bytes);
    return file;
  }

  const std::string& path() const noexcept { return *path_; }
  /// In the order of their data.
  std::span<const Tensor> tensors() const noexcept { return tensors_; }
  /// Null if there is no tensor of that name.
  const Tensor* find(std::string_view name) const {
    const auto found = index_.find(name);
    return found == index_.end() ? nullptr : &tensors_[found->second];
  }
  /// Throws FileError if there is no tensor of that name.
  const Tensor& at(std::string_view name) const {
    if (const Tensor* tensor = find(name)) return *tensor;
    detail::raise<FileError>(*path_, ": tensor ", detail::quote_name(name), " is missing");
  }
  /// The entries of `__metadata__`.
  const std::map<std::string, std::string, std::less<>>& metadata() const noexcept { return metadata_; }

 private:
  // Deep enough for any honest header (3 levels) with room for fields that newer writers may add.
  static constexpr std::size_t depth_limit = 16;

  void parse(const std::string& path, std::span<const std::byte> bytes) {
    path_ = std::make_shared<const std::string>(path);
    if (bytes.size() < 8)
      detail::raise<FileError>(path, ": ", bytes.size(),
                               " bytes are too few for a safetensors file, which starts with an 8-byte header length");
    refuse_other_content(bytes, path, FileContent::safetensors);
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    bytes = bytes.subspan(8);
    if (length > header_limit)
      detail::raise<FileError>(path, ": header of ", length, " bytes is above the limit of ", header_limit);
    if (length > bytes.size())
      detail::raise<FileError>(path, ": header of ", length, " bytes is cut off after ", bytes.size(),
                               ": download or copy the file again");
    detail::SafetensorsHeader header(path);
    detail::parse_json({reinterpret_cast<const char*>(bytes.data()), length}, path, depth_limit, header);
    metadata_ = std::move(header.metadata);
    const std::span<const std::byte> data = bytes.subspan(length);
    tensors_.reserve(header.entries.size());
    for (auto& entry : header.entries) tensors_.push_back(checked(entry, data));
    refuse_overlaps(data);
    for (std::size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
  }

  Tensor checked(detail::SafetensorsHeader::Entry& entry, std::span<const std::byte> data) const {
    const std::string where = detail::text(*path_, ": tensor ", detail::quote_name(entry.name), ": ");
    const std::uint64_t begin = entry.offsets[0];
    const std::uint64_t end = entry.offsets[1];
    if (begin > end) detail::raise<FileError>(where, "offsets [", begin, ", ", end, ") run backwards");
    if (end > data.size())
      detail::raise<FileError>(where, "offsets [", begin, ", ", end, ") leave the data, which has ", data.size(),
                               " bytes: the file may be cut off, download or copy it again");
    Tensor tensor{.name = std::move(entry.name),
                  .dtype = parse_dtype(entry.dtype),
                  .dtype_name = std::move(entry.dtype),
                  .shape = std::move(entry.shape),
                  .bytes = data.subspan(begin, end - begin),
                  .file = path_};
    // The product of the extents that are not 0 must fit too, so that no product of some of them can overflow.
    std::size_t product = std::max<std::size_t>(size_of(tensor.dtype), 1);
    for (std::size_t extent : tensor.shape)
      if (extent != 0 && __builtin_mul_overflow(product, extent, &product))
        detail::raise<FileError>(where, "shape ", detail::shape_text(tensor.shape), " overflows");
    const std::size_t expected = tensor.elements() * size_of(tensor.dtype);
    if (tensor.dtype != Dtype::other && expected != tensor.bytes.size())
      detail::raise<FileError>(where, name(tensor.dtype), " of shape ", detail::shape_text(tensor.shape), " takes ",
                               expected, " bytes, but offsets [", begin, ", ", end, ") hold ", tensor.bytes.size());
    // Of a type that is not known here an element has a bit at least: who makes room for them is not misled by a shape.
    if (tensor.dtype == Dtype::other && tensor.elements() / 8 > tensor.bytes.size())
      detail::raise<FileError>(where, tensor.dtype_name, " of shape ", detail::shape_text(tensor.shape),
                               " cannot lie in the ", tensor.bytes.size(), " bytes of offsets [", begin, ", ", end,
                               ")");
    return tensor;
  }

  void refuse_overlaps(std::span<const std::byte> data) {
    std::stable_sort(tensors_.begin(), tensors_.end(), [](const Tensor& a, const Tensor& b) {
      return a.bytes.data() != b.bytes.data() ? a.bytes.data() < b.bytes.data() : a.bytes.size() < b.bytes.size();
    });
    const auto begin = [&](const Tensor& t) { return static_cast<std::size_t>(t.bytes.data() - data.data()); };
    const Tensor* previous = nullptr;
    for (const Tensor& tensor : tensors_) {
      if (tensor.bytes.empty()) continue;
      if (previous && begin(tensor) < begin(*previous) + previous->bytes.size())
        detail::raise<FileError>(*path_, ": tensors ", detail::quote_name(previous->name), " and ",
                                 detail::quote_name(tensor.name), " overlap: [", begin(*previous), ", ",
                                 begin(*previous) + previous->bytes.size(), ") and [", begin(tensor), ", ",
                                 begin(tensor) + tensor.bytes.size(), ")");
      previous = &tensor;
    }
  }

  MappedFile file_;
  std::shared_ptr<const std::string> path_ = std::make_shared<const std::string>();
  std::vector<Tensor> tensors_;
  std::unordered_map<std::string, std::size_t, detail::NameHash, std::equal_to<>> index_;
  std::map<std::string, std::string, std::less<>> metadata_;
};

}  // namespace io
}  // namespace losa::inline v0
