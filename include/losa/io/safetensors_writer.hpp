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
//
// Or, where tensors come into being one after the other and none is to wait in memory, all are declared first, and then
// written in any order:
//
//   for (...) writer.declare(name, losa::io::Dtype::bf16, {out, in});
//   for (...) writer.put(name, [&](losa::io::TensorSink& sink) { sink.write(values); });
//   writer.commit();

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
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
/// Closes the header, pads it with spaces to a multiple of 8 bytes and writes it after its length. Returns where the
/// data begins.
inline std::size_t write_header(io::AtomicFile& file, std::string header) {
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = header.size();
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(header);
  return sizeof length + header.size();
}

}  // namespace detail

namespace io {

/// Takes the bytes of one tensor, in pieces.
class TensorSink {
 public:
  /// At the end of the file, or at `offset`.
  TensorSink(AtomicFile& file, std::string_view name, std::size_t size, std::optional<std::size_t> offset = {})
      : file_(file), name_(name), left_(size), offset_(offset) {
    if (offset_) buffer_.reserve(std::min(size, buffer_limit));
  }

  /// Throws FileError if more comes than the tensor holds, or if the file cannot be written.
  void write(std::span<const std::byte> bytes) {
    if (bytes.size() > left_)
      detail::raise<FileError>(file_.path(), ": tensor ", detail::quote_name(name_), ": got ", bytes.size() - left_,
                               " bytes more than it holds");
    left_ -= bytes.size();
    if (!offset_) return file_.write(bytes);
    if (buffer_.size() + bytes.size() > buffer_limit) flush();
    if (bytes.size() < buffer_limit) {
      buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
    } else {
      file_.write_at(*offset_, bytes);
      *offset_ += bytes.size();
    }
    if (left_ == 0) flush();
  }
  template <class Element>
  void write(std::span<const Element> values) {
    write(std::as_bytes(values));
  }
  /// Bytes that are still missing.
  std::size_t left() const noexcept { return left_; }

 private:
  static constexpr std::size_t buffer_limit = std::size_t{1} << 18;  // rows of a few KiB come one by one

  void flush() {
    file_.write_at(*offset_, buffer_);
    *offset_ += buffer_.size();
    buffer_.clear();
  }

  AtomicFile& file_;
  std::string_view name_;
  std::size_t left_;
  std::optional<std::size_t> offset_;
  std::vector<std::byte> buffer_;
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
  template <Storage Element>
  void add(std::string name, MatrixView<const Element> values) {
    add(std::move(name), dtype_of<Element>(), {values.rows, values.cols}, [values](TensorSink& sink) {
      for (std::size_t r = 0; r < values.rows; ++r) sink.write(std::span<const Element>(values.row(r)));
    });
  }
  template <Storage Element>
  void add(std::string name, MatrixView<Element> values) {
    add(std::move(name), MatrixView<const Element>(values));
  }
  /// Values in row-major order, of the given shape; they must outlive commit().
  template <class Element>
  void add(std::string name, std::vector<std::size_t> shape, std::span<const Element> values) {
    add(std::move(name), dtype_of<Element>(), std::move(shape), [values](TensorSink& sink) { sink.write(values); });
  }
  /// A float matrix, narrowed to Element as it is written; it must outlive commit().
  template <Storage Element>
  void add_as(std::string name, std::vector<std::size_t> shape, MatrixView<const float> values) {
    add(std::move(name), dtype_of<Element>(), std::move(shape), [values](TensorSink& sink) {
      std::vector<Element> row(values.cols);
      for (std::size_t r = 0; r < values.rows; ++r) {
        for (std::size_t c = 0; c < values.cols; ++c) row[c] = narrow<Element>(values(r, c));
        sink.write(std::span<const Element>(row));
      }
    });
  }
  /// A tensor of another file, byte for byte, whatever its dtype; that file must outlive commit(). `written` is told of
  /// every piece, of at most 16 MiB, that has been written: release_pages lets go of what was mapped. `name` is the
  /// tensor's own unless given.
  void copy(const Tensor& tensor, std::function<void(std::span<const std::byte>)> written = {}, std::string name = {}) {
    insert({{name.empty() ? tensor.name : std::move(name), tensor.dtype_name, tensor.shape, tensor.bytes.size(),
             size_of(tensor.dtype)},
            [bytes = tensor.bytes, tell = std::move(written)](TensorSink& sink) {
              constexpr std::size_t most = std::size_t{16} << 20;
              for (std::size_t at = 0; at < bytes.size(); at += most) {
                const std::span<const std::byte> piece = bytes.subspan(at, std::min(most, bytes.size() - at));
                sink.write(piece);
                if (tell) tell(piece);
              }
            }});
  }

  /// A tensor that is filled or put later. Throws as add does.
  void declare(std::string name, Dtype dtype, std::vector<std::size_t> shape) {
    add(std::move(name), dtype, std::move(shape), {});
  }
  /// The bytes of a declared tensor come from `produce` during commit(). Throws FileError for a name that was not
  /// declared or has its bytes already.
  void fill(std::string_view name, Producer produce) { declared(name).produce = std::move(produce); }
  /// Writes a declared tensor now; nothing can be added or declared from then on. Throws as fill does, and FileError if
  /// `produce` writes too little or too much, and if the target is a device or pipe.
  void put(std::string_view name, const Producer& produce) {
    Entry& entry = declared(name);
    entry.put = true;
    place();
    const auto placed = std::ranges::find(entries_, name, &Entry::name);
    write(*placed, produce, placed->offset);
  }

  /// Writes header and data and makes the file appear. Throws FileError if a producer wrote too little or too much, or
  /// the file cannot be written; then the target stays what it was.
  void commit() {
    const bool in_order = !placed_;
    place();
    for (Entry& entry : entries_) {
      if (entry.put) continue;
      if (!entry.produce)
        detail::raise<FileError>(file_.path(), ": tensor ", detail::quote_name(entry.name),
                                 ": declared, never written");
      write(entry, entry.produce, in_order ? std::optional<std::size_t>() : entry.offset);
    }
    file_.commit();
  }

 private:
  struct Entry : detail::HeaderEntry {
    Producer produce;
    std::size_t offset = 0;  // in the file
    bool put = false;
  };

  void insert(Entry entry) {
    if (placed_)
      detail::raise<FileError>(file_.path(), ": tensor ", detail::quote_name(entry.name), ": added too late");
    if (entry.name == "__metadata__" || !names_.insert(entry.name).second)
      detail::raise<FileError>(file_.path(), ": tensor ", detail::quote_name(entry.name),
                               entry.name == "__metadata__" ? ": the name is reserved" : ": added twice");
    entries_.push_back(std::move(entry));
  }
  Entry& declared(std::string_view name) {
    const auto found = std::ranges::find(entries_, name, &Entry::name);
    if (found == entries_.end() || found->produce || found->put)
      detail::raise<FileError>(file_.path(), ": tensor ", detail::quote_name(name),
                               found == entries_.end() ? ": was not declared" : ": written twice");
    return *found;
  }
  /// Writes the header; every tensor's place is fixed from then on.
  void place() {
    if (placed_) return;
    placed_ = true;
    std::stable_sort(entries_.begin(), entries_.end(),
                     [](const Entry& a, const Entry& b) { return a.alignment > b.alignment; });
    std::string header = detail::header_start(metadata_, file_.path());
    std::size_t offset = 0;
    for (Entry& entry : entries_) {
      entry.offset = offset;
      detail::append_entry(header, entry, offset, file_.path());
    }
    const std::size_t start = detail::write_header(file_, std::move(header));
    for (Entry& entry : entries_) entry.offset += start;
  }
  void write(const Entry& entry, const Producer& produce, std::optional<std::size_t> offset) {
    TensorSink sink(file_, entry.name, entry.bytes, offset);
    produce(sink);
    if (sink.left() != 0)
      detail::raise<FileError>(file_.path(), ": tensor ", detail::quote_name(entry.name), ": got ", sink.left(),
                               " bytes too few");
  }

  AtomicFile file_;
  std::map<std::string, std::string> metadata_{{"format", "pt"}};
  std::vector<Entry> entries_;
  std::unordered_set<std::string> names_;
  bool placed_ = false;
};

}  // namespace io
}  // namespace losa::inline v0
