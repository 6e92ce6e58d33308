#pragma once
// Safetensors files, written. Tensors are added first, each with what produces its bytes; commit() then writes the
// header and asks one tensor after the other, so that nothing but the caller's own data is ever in memory. The same
// tensors give the same bytes. Data lies in falling order of element size, among equals in the order of adding, which
// keeps every tensor aligned and is what the reference implementation asks of a file: no holes.
//
//   losa::io::SafetensorsWriter writer("model.safetensors");
//   writer.add("norm.weight", losa::view(norm.data(), 1, width));
//   for (const losa::io::Tensor& tensor : source.tensors()) writer.copy(tensor);       // byte for byte
//   writer.commit();                                                                   // written aside, renamed

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/core/types.hpp>
#include <losa/core/view.hpp>
#include <losa/io/atomic_file.hpp>
#include <losa/io/dtype.hpp>
#include <losa/io/json_events.hpp>
#include <losa/io/tensor.hpp>

namespace losa::inline v0 {

namespace detail {

/// What the header says of a tensor.
struct HeaderEntry {
  std::string name;
  std::string dtype;
  std::vector<std::size_t> shape;
  std::size_t bytes = 0;
  std::size_t alignment = 1;
};

/// The header up to the first tensor.
inline std::string header_start(const std::map<std::string, std::string>& metadata, std::string_view path) {
  std::string header = "{\"__metadata__\":{";
  for (const auto& [key, value] : metadata) {
    if (header.back() != '{') header += ',';
    header += text(json_string(key, path), ':', json_string(value, path));
  }
  return header + "}";
}
/// Appends a tensor whose data starts at `offset`, and moves `offset` past it.
inline void append_entry(std::string& header, const HeaderEntry& entry, std::size_t& offset, std::string_view path) {
  header += text(',', json_string(entry.name, path), ":{\"dtype\":", json_string(entry.dtype, path), ",\"shape\":[");
  for (std::size_t i = 0; i < entry.shape.size(); ++i) {
    if (i != 0) header += ',';
    append(header, entry.shape[i]);
  }
  header += text("],\"data_offsets\":[", offset, ",", offset + entry.bytes, "]}");
  offset += entry.bytes;
}
/// Closes the header, pads it with spaces to a multiple of 8 bytes and writes it after its length.
inline void write_header(io::AtomicFile& file, std::string header) {
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = header.size();
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(header);
}

}  // namespace detail

namespace io {

/// Takes the bytes of one tensor, in pieces.
class TensorSink {
 public:
  TensorSink(AtomicFile& file, std::string_view name, std::size_t size) : file_(file), name_(name), left_(size) {}

  /// Throws FileError if more comes than the tensor holds, or if the file cannot be written.
  void write(std::span<const std::byte> bytes) {
    if (bytes.size() > left_)
      detail::raise<FileError>(file_.path(), ": tensor ", detail::quote_name(name_), ": got ", bytes.size() - left_,
                               " bytes more than it holds");
    file_.write(bytes);
    left_ -= bytes.size();
  }
  template <class T>
  void write(std::span<const T> values) {
    write(std::as_bytes(values));
  }
  /// Bytes that are still missing.
  std::size_t left() const noexcept { return left_; }

 private:
  AtomicFile& file_;
  std::string_view name_;
  std::size_t left_;
};

class SafetensorsWriter {
 public:
  /// Writes a tensor's bytes into the sink, all of them.
  using Producer = std::function<void(TensorSink&)>;

  /// Opens `path` as AtomicFile does; the file appears at commit(). Throws FileError.
  explicit SafetensorsWriter(std::string path) : file_(std::move(path)) {}

  /// Entry of `__metadata__`; replaces an earlier one. "format" is "pt" unless set: transformers refuses files without.
  void metadata(const std::string& key, std::string value) { metadata_[key] = std::move(value); }

  /// A tensor whose bytes `produce` writes during commit(). Throws FileError on a name that was added already or is
  /// reserved, RangeError if the shape overflows or the dtype is not one of the list.
  void add(std::string name, Dtype dtype, std::vector<std::size_t> shape, Producer produce) {
    std::size_t bytes = size_of(dtype);
    if (dtype == Dtype::other) detail::raise<RangeError>("SafetensorsWriter::add: dtype `other` has no size");
    for (std::size_t extent : shape)
      if (__builtin_mul_overflow(bytes, extent, &bytes))
        detail::raise<RangeError>("SafetensorsWriter::add: shape ", detail::shape_text(shape), " of tensor ",
                                  detail::quote_name(name), " overflows");
    insert(
        {{std::move(name), std::string(io::name(dtype)), std::move(shape), bytes, size_of(dtype)}, std::move(produce)});
  }
  /// A matrix in its own type; it must outlive commit().
  template <Storage T>
  void add(std::string name, MatrixView<const T> values) {
    add(std::move(name), dtype_of<T>(), {values.rows, values.cols}, [values](TensorSink& sink) {
      for (std::size_t r = 0; r < values.rows; ++r) sink.write(std::span<const T>(values.row(r)));
    });
  }
  template <Storage T>
  void add(std::string name, MatrixView<T> values) {
    add(std::move(name), MatrixView<const T>(values));
  }
  /// Values in row-major order, of the given shape; they must outlive commit().
  template <class T>
  void add(std::string name, std::vector<std::size_t> shape, std::span<const T> values) {
    add(std::move(name), dtype_of<T>(), std::move(shape), [values](TensorSink& sink) { sink.write(values); });
  }
  /// A float matrix, narrowed to T as it is written; it must outlive commit().
  template <Storage T>
  void add_as(std::string name, std::vector<std::size_t> shape, MatrixView<const float> values) {
    add(std::move(name), dtype_of<T>(), std::move(shape), [values](TensorSink& sink) {
      std::vector<T> row(values.cols);
      for (std::size_t r = 0; r < values.rows; ++r) {
        for (std::size_t c = 0; c < values.cols; ++c) row[c] = narrow<T>(values(r, c));
        sink.write(std::span<const T>(row));
      }
    });
  }
  /// A tensor of another file, byte for byte, whatever its dtype; that file must outlive commit().
  void copy(const Tensor& tensor) {
    insert({{tensor.name, tensor.dtype_name, tensor.shape, tensor.bytes.size(), size_of(tensor.dtype)},
            [bytes = tensor.bytes](TensorSink& sink) { sink.write(bytes); }});
  }

  /// Writes header and data and makes the file appear. Throws FileError if a producer wrote too little or too much, or
  /// the file cannot be written; then the target stays what it was.
  void commit() {
    std::stable_sort(entries_.begin(), entries_.end(),
                     [](const Entry& a, const Entry& b) { return a.alignment > b.alignment; });
    std::string header = detail::header_start(metadata_, file_.path());
    std::size_t offset = 0;
    for (const Entry& entry : entries_) detail::append_entry(header, entry, offset, file_.path());
    detail::write_header(file_, std::move(header));
    for (const Entry& entry : entries_) {
      TensorSink sink(file_, entry.name, entry.bytes);
      entry.produce(sink);
      if (sink.left() != 0)
        detail::raise<FileError>(file_.path(), ": tensor ", detail::quote_name(entry.name), ": got ", sink.left(),
                                 " bytes too few");
    }
    file_.commit();
  }

 private:
  struct Entry : detail::HeaderEntry {
    Producer produce;
  };

  void insert(Entry entry) {
    if (entry.name == "__metadata__" || !names_.insert(entry.name).second)
      detail::raise<FileError>(file_.path(), ": tensor ", detail::quote_name(entry.name),
                               entry.name == "__metadata__" ? ": the name is reserved" : ": added twice");
    entries_.push_back(std::move(entry));
  }
  AtomicFile file_;
  std::map<std::string, std::string> metadata_{{"format", "pt"}};
  std::vector<Entry> entries_;
  std::unordered_set<std::string> names_;
};

}  // namespace io
}  // namespace losa::inline v0
