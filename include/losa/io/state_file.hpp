#pragma once
// State of a computation on disk: what an object shows a visitor, written to one safetensors file, whole or not at all,
// and read back to the last bit, the sign of zeros and the bits of NaNs included. A checksum tells a damaged file, a
// fingerprint (any text: the arguments of a run, say) a state that belongs to something else.
//
//   struct Trainer {
//     template <class Visitor> void visit(Visitor& v) {
//       v("step", step_);
//       v.group("adapter.", [&] { v("a", a_); });              // → "adapter.a"
//     }
//   };
//   losa::io::save_state(path, fingerprint, [&](auto& v) { trainer.visit(v); });
//   losa::io::load_state(path, fingerprint, [&](auto& v) { trainer.visit(v); });
//
// A visitor takes bool, integers, float, double, std::string, Mask, vectors and spans of numbers, and matrix views;
// vectors, strings and masks take the size that was saved, spans and views must have it. On saving, the function is
// called several times and must show the same each time; on loading once, so that a count may be read before what it
// counts.

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_set>
#include <utility>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/core/mask.hpp>
#include <losa/core/view.hpp>
#include <losa/io/atomic_file.hpp>
#include <losa/io/dtype.hpp>
#include <losa/io/safetensors_file.hpp>
#include <losa/io/safetensors_writer.hpp>
#include <losa/io/tensor.hpp>

namespace losa::inline v0 {

namespace detail {

/// 64-bit hash of bytes that come in pieces. Every step is a bijection of what went before, so a single changed word
/// always changes the result.
class Hash64 {
 public:
  void update(std::span<const std::byte> bytes) noexcept {
    length_ += bytes.size();
    while (!bytes.empty()) {
      if (pending_ == 0)
        for (; bytes.size() >= 8; bytes = bytes.subspan(8)) {
          std::uint64_t word = 0;
          std::memcpy(&word, bytes.data(), 8);
          mix(word);
        }
      const std::size_t n = std::min(bytes.size(), 8 - pending_);
      std::copy_n(bytes.begin(), n, word_.begin() + static_cast<std::ptrdiff_t>(pending_));
      bytes = bytes.subspan(n);
      pending_ += n;
      if (pending_ == 8) {
        mix(std::bit_cast<std::uint64_t>(word_));
        word_ = {};
        pending_ = 0;
      }
    }
  }
  void update(std::string_view text) noexcept { update(std::as_bytes(std::span(text))); }
  /// Of all bytes so far; the object is spent.
  std::uint64_t finish() noexcept {
    mix(std::bit_cast<std::uint64_t>(word_));
    mix(length_);
    state_ = (state_ ^ (state_ >> 32)) * 0xD6E8FEB86659FD93u;
    return state_ ^ (state_ >> 32);
  }

 private:
  void mix(std::uint64_t word) noexcept { state_ = (std::rotl(state_, 29) ^ word) * 0x9E3779B97F4A7C15u; }

  std::uint64_t state_ = 0;
  std::uint64_t length_ = 0;
  std::array<std::byte, 8> word_{};
  std::size_t pending_ = 0;
};

/// Hash of one tensor, name and description included.
class TensorHash {
 public:
  TensorHash(std::string_view name, std::string_view dtype, std::span<const std::size_t> shape) {
    hash_.update(name);
    hash_.update(text("\n", dtype, shape_text(shape)));
  }
  void update(std::span<const std::byte> bytes) noexcept { hash_.update(bytes); }
  std::uint64_t finish() noexcept { return hash_.finish(); }

 private:
  Hash64 hash_;
};

inline std::string hex(std::uint64_t value) {
  std::string out(16, '0');
  for (std::size_t i = 0; i < 16; ++i) out[i] = "0123456789abcdef"[(value >> (60 - 4 * i)) & 15u];
  return out;
}

/// What the tensor hashes (summed, so that their order does not matter) and the fingerprint come to.
inline std::string state_checksum(std::uint64_t tensors, std::string_view fingerprint) {
  Hash64 hash;
  hash.update(fingerprint);
  return hex(hash.finish() + tensors);
}

template <class ValueType>
concept StateNumber = std::is_arithmetic_v<ValueType> && io::dtype_of<ValueType>()
!= io::Dtype::other;

template <class ValueType>
constexpr bool is_matrix_view = false;
template <class ValueType>
constexpr bool is_matrix_view<MatrixView<ValueType>> = true;

/// Calls entry(dtype, shape) and then piece(bytes) for the bytes of a value that can be saved.
template <class ValueType, class Entry, class Piece>
void encode_state(const ValueType& value, Entry&& entry, Piece&& piece) {
  if constexpr (std::is_arithmetic_v<ValueType>) {
    static_assert(StateNumber<ValueType>, "state: no dtype holds numbers of this type");
    entry(io::dtype_of<ValueType>(), std::vector<std::size_t>{});
    piece(std::as_bytes(std::span(&value, 1)));
  } else if constexpr (std::same_as<ValueType, std::string>) {
    entry(io::Dtype::u8, std::vector<std::size_t>{value.size()});
    piece(std::as_bytes(std::span(value)));
  } else if constexpr (std::same_as<ValueType, Mask>) {
    const std::uint64_t extents[] = {value.rows(), value.cols()};
    entry(io::Dtype::u64, std::vector<std::size_t>{2 + value.words().size()});
    piece(std::as_bytes(std::span(extents)));
    piece(std::as_bytes(value.words()));
  } else if constexpr (is_matrix_view<ValueType>) {
    entry(io::dtype_of<std::remove_const_t<std::remove_pointer_t<decltype(value.data)>>>(),
          std::vector<std::size_t>{value.rows, value.cols});
    for (std::size_t r = 0; r < value.rows; ++r) piece(std::as_bytes(value.row(r)));
  } else {
    using Element = std::remove_cvref_t<decltype(value[0])>;
    static_assert(StateNumber<Element> && !std::same_as<Element, bool>,
                  "state: only vectors and spans of numbers other than bool can be saved");
    entry(io::dtype_of<Element>(), std::vector<std::size_t>{value.size()});
    piece(std::as_bytes(std::span(value)));
  }
}

/// Prefixes of the names inside groups.
class NamePrefix {
 public:
  std::string operator()(std::string_view name) const { return prefix_ + std::string(name); }
  template <class Function>
  void within(std::string_view prefix, Function&& f) {
    const std::size_t size = prefix_.size();
    prefix_ += prefix;
    f();
    prefix_.resize(size);
  }

 private:
  std::string prefix_;
};

}  // namespace detail

namespace io {

/// The visitor that saves. Made by save_state.
class StateWriter {
 public:
  explicit StateWriter(std::string path) : file_(std::move(path)) {}

  /// Shows `value` under a name that no other value of the state has. Throws FileError.
  template <class ValueType>
  void operator()(std::string_view name, const ValueType& value) {
    std::string full = prefix_(name);
    if (measuring_) {
      detail::HeaderEntry entry;
      detail::TensorHash hash("", "", {});
      detail::encode_state(
          value,
          [&](Dtype dtype, std::vector<std::size_t> shape) {
            entry = {full, std::string(io::name(dtype)), std::move(shape), 0, size_of(dtype)};
            hash = detail::TensorHash(full, entry.dtype, entry.shape);
          },
          [&](std::span<const std::byte> bytes) {
            entry.bytes += bytes.size();
            hash.update(bytes);
          });
      if (!names_.insert(full).second || full == "__metadata__")
        detail::raise<FileError>(file_.path(), ": state ", detail::quote_name(full), " is shown twice");
      hash_ += hash.finish();
      entries_.push_back(std::move(entry));
      return;
    }
    detail::encode_state(
        value, [&](Dtype dtype, const std::vector<std::size_t>&) { writing_ = size_of(dtype) == alignment_; },
        [&](std::span<const std::byte> bytes) {
          if (!writing_) return;
          written_ += bytes.size();
          file_.write(bytes);
        });
  }
  /// f shows values whose names get `prefix` in front.
  template <class Function>
  void group(std::string_view prefix, Function&& f) {
    prefix_.within(prefix, f);
  }

 private:
  template <class Function>
  friend void save_state(const std::string& path, std::string_view fingerprint, Function&& f);

  template <class Function>
  void save(std::string_view fingerprint, Function&& f) {
    f(*this);
    measuring_ = false;
    // Elements of one size at a time, the widest first, so that everything in the file is aligned.
    std::stable_sort(entries_.begin(), entries_.end(),
                     [](const auto& a, const auto& b) { return a.alignment > b.alignment; });
    std::string header = detail::header_start({{"format", "pt"},
                                               {"losa.state", "1"},
                                               {"losa.checksum", detail::state_checksum(hash_, fingerprint)},
                                               {"losa.fingerprint", std::string(fingerprint)}},
                                              file_.path());
    std::size_t offset = 0;
    for (const auto& entry : entries_) detail::append_entry(header, entry, offset, file_.path());
    detail::write_header(file_, std::move(header));
    for (std::size_t alignment : {8u, 4u, 2u, 1u}) {
      alignment_ = alignment;
      if (std::ranges::any_of(entries_, [&](const auto& entry) { return entry.alignment == alignment; })) f(*this);
    }
    if (written_ != offset)
      detail::raise<FileError>(file_.path(), ": the state changed while it was being saved: ", written_,
                               " bytes after ", offset);
    file_.commit();
  }

  AtomicFile file_;
  detail::NamePrefix prefix_;
  bool measuring_ = true;
  std::vector<detail::HeaderEntry> entries_;
  std::unordered_set<std::string> names_;
  std::uint64_t hash_ = 0;
  std::size_t alignment_ = 0;
  bool writing_ = false;
  std::size_t written_ = 0;
};

/// The visitor that loads.
class StateReader {
 public:
  /// Opens and checks all of the file. Throws FileError if it is damaged, no state, or has another fingerprint.
  StateReader(const std::string& path, std::string_view fingerprint)
      : StateReader(SafetensorsFile(path), fingerprint) {}
  StateReader(SafetensorsFile file, std::string_view fingerprint) : file_(std::move(file)) {
    if (entry("losa.state") != "1") detail::raise<FileError>(file_.path(), ": is not a saved state of this version");
    const std::string saved = entry("losa.fingerprint");
    std::uint64_t hash = 0;
    for (const Tensor& tensor : file_.tensors()) {
      detail::TensorHash tensor_hash(tensor.name, tensor.dtype_name, tensor.shape);
      tensor_hash.update(tensor.bytes);
      hash += tensor_hash.finish();
    }
    if (entry("losa.checksum") != detail::state_checksum(hash, saved))
      detail::raise<FileError>(file_.path(), ": saved state is damaged: its checksum does not match");
    if (saved != fingerprint) {
      // Of two long texts, the parts around the first difference.
      const std::size_t same = static_cast<std::size_t>(std::ranges::mismatch(saved, fingerprint).in1 - saved.begin());
      const std::size_t start = same > 60 ? same - 60 : 0;
      detail::raise<FileError>(file_.path(), ": saved state belongs to ",
                               detail::quote_name(std::string_view(saved).substr(start)), ", not to ",
                               detail::quote_name(fingerprint.substr(start)));
    }
  }

  /// Loads `value`. Throws FileError if the state has no such name or holds another type or size.
  template <class ValueType>
  void operator()(std::string_view name, ValueType&& value) {
    const Tensor& tensor = file_.at(prefix_(name));
    ++loaded_;
    using Value = std::remove_cvref_t<ValueType>;
    if constexpr (std::is_arithmetic_v<Value>) {
      expect(tensor, dtype_of<Value>(), {});
      copy(tensor.bytes, std::span(&value, 1));
    } else if constexpr (std::same_as<Value, std::string>) {
      expect(tensor, Dtype::u8, {tensor.elements()});
      value.resize(tensor.elements());
      copy(tensor.bytes, std::span(value));
    } else if constexpr (std::same_as<Value, Mask>) {
      value = load_mask(tensor);
    } else if constexpr (detail::is_matrix_view<Value>) {
      expect(tensor, dtype_of<std::remove_pointer_t<decltype(value.data)>>(), {value.rows, value.cols});
      const std::size_t row_bytes = value.cols * sizeof(*value.data);
      for (std::size_t r = 0; r < value.rows; ++r) copy(tensor.bytes.subspan(r * row_bytes, row_bytes), value.row(r));
    } else {
      using Element = std::remove_cvref_t<decltype(value[0])>;
      if constexpr (requires { value.resize(std::size_t{}); }) {
        expect(tensor, dtype_of<Element>(), {tensor.elements()});
        value.resize(tensor.elements());
      } else {
        expect(tensor, dtype_of<Element>(), {value.size()});
      }
      copy(tensor.bytes, std::span(value));
    }
  }
  template <class Function>
  void group(std::string_view prefix, Function&& f) {
    prefix_.within(prefix, f);
  }
  /// True if the state holds this name, with the prefix of the group.
  bool contains(std::string_view name) const { return file_.find(prefix_(name)) != nullptr; }
  /// Throws FileError unless as many values were loaded as the state holds.
  void finish() const {
    if (loaded_ != file_.tensors().size())
      detail::raise<FileError>(file_.path(), ": saved state holds ", file_.tensors().size(), " values, of which ",
                               loaded_, " were asked for");
  }

 private:
  std::string entry(std::string_view key) const {
    const auto found = file_.metadata().find(key);
    return found == file_.metadata().end() ? std::string() : found->second;
  }
  static void expect(const Tensor& tensor, Dtype dtype, const std::vector<std::size_t>& shape) {
    if (tensor.dtype != dtype || tensor.shape != shape)
      detail::raise_tensor(tensor, "must be ", name(dtype), " of shape ", detail::shape_text(shape), ", got ",
                           tensor.dtype_name, " of shape ", detail::shape_text(tensor.shape));
  }
  template <class ValueType, std::size_t Extent>
  static void copy(std::span<const std::byte> bytes, std::span<ValueType, Extent> out) {
    if constexpr (std::same_as<ValueType, bool>) {
      out[0] = bytes[0] != std::byte{0};
    } else if (!bytes.empty()) {
      std::memcpy(out.data(), bytes.data(), bytes.size());
    }
  }
  static Mask load_mask(const Tensor& tensor) {
    const std::vector<std::uint64_t> words = read_values<std::uint64_t>(tensor);
    if (words.size() < 2) detail::raise_tensor(tensor, "is too short for a mask");
    const std::uint64_t rows = words[0];
    const std::uint64_t cols = words[1];
    const std::uint64_t per_row = cols / 64 + (cols % 64 != 0);
    std::uint64_t expected = 0;
    if (__builtin_mul_overflow(rows, per_row, &expected) || expected != words.size() - 2)
      detail::raise_tensor(tensor, "a mask of ", rows, " × ", cols, " does not have ", words.size() - 2, " words");
    Mask mask(rows, cols);
    for (std::size_t r = 0; r < rows && per_row != 0; ++r)
      for (std::size_t w = 0; w < per_row; ++w) {
        mask.row_words(r)[w] = words[2 + r * per_row + w];
        if ((mask.row_words(r)[w] & ~mask.valid_bits(w)) != 0)
          detail::raise_tensor(tensor, "row ", r, " keeps a weight past the last column, ", cols - 1);
      }
    return mask;
  }

  SafetensorsFile file_;
  detail::NamePrefix prefix_;
  std::size_t loaded_ = 0;
};

/// Saves what f shows to the visitor it is given. The fingerprint is any UTF-8 text. Throws FileError; then the file
/// stays what it was.
template <class Function>
void save_state(const std::string& path, std::string_view fingerprint, Function&& f) {
  StateWriter writer(path);
  writer.save(fingerprint, f);
}

/// Loads everything that f asks the visitor for. Throws FileError if the state is damaged, has another fingerprint, or
/// is not exactly what f asks for; what was loaded before that stays loaded.
template <class Function>
void load_state(const std::string& path, std::string_view fingerprint, Function&& f) {
  StateReader reader(path, fingerprint);
  f(reader);
  reader.finish();
}

}  // namespace io
}  // namespace losa::inline v0
