// Arbitrary bytes as a compressed checkpoint, as its config.json and as a saved state: refused with a FileError, or
// what is read is consistent.
//
// Random bytes hardly ever are four tensors that agree, so the input is also used as their content under a header that
// is made here: byte 0 chooses the extents, the rest is cut into mask, offsets and values.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <losa/io/compressed.hpp>
#include <losa/io/compressed_config.hpp>
#include <losa/io/safetensors_file.hpp>
#include <losa/io/state_file.hpp>

namespace {

template <class T>
void read_all(const losa::io::SafetensorsFile& file) {
  for (const losa::io::Tensor& tensor : file.tensors()) {
    if (!tensor.name.ends_with(".compressed")) continue;
    const std::string owner = losa::io::compressed_owner(tensor.name);
    try {
      const losa::io::CompressedWeight stored = losa::io::find_compressed(file, owner);
      const auto packed = losa::io::read_compressed<T>(stored);
      if (packed.kept() != packed.mask().kept() || packed.mask() != stored.mask()) __builtin_trap();
      std::vector<float> whole(stored.rows * stored.cols), row(stored.cols);
      packed.to_dense(losa::view(whole.data(), stored.rows, stored.cols));
      for (std::size_t r = 0; r < stored.rows; ++r) {
        losa::io::read_compressed_rows(stored, r, losa::view(row.data(), 1, stored.cols));
        if (!std::equal(row.begin(), row.end(), whole.begin() + static_cast<std::ptrdiff_t>(r * stored.cols)))
          __builtin_trap();
      }
    } catch (const losa::FileError&) {
    }
  }
}

void read_file(std::span<const std::byte> bytes) {
  try {
    const auto file = losa::io::SafetensorsFile::from_memory(bytes, "fuzz");
    read_all<float>(file);
    read_all<losa::bf16>(file);
    read_all<losa::f16>(file);
  } catch (const losa::FileError&) {
  }
}

/// A file whose four tensors have the right shapes for extents and a number of values that the input chooses.
std::string with_header(std::span<const std::uint8_t> input) {
  const char* prefix = input[0] & 128u ? "x" : "x.weight";
  const std::size_t rows = 1 + (input[0] & 7u);
  const std::size_t cols = 1 + (input[0] >> 3 & 15u);
  const std::size_t values = input[1];
  std::string data;
  std::string header = "{";
  const auto add = [&](const char* name, const char* dtype, const std::string& shape, std::size_t bytes) {
    if (header.size() > 1) header += ",";
    header += losa::detail::text("\"", prefix, ".", name, R"(":{"dtype":")", dtype, R"(","shape":)", shape,
                                 R"(,"data_offsets":[)", data.size(), ",", data.size() + bytes, "]}");
    data.resize(data.size() + bytes);
  };
  add("bitmask", "U8", losa::detail::text("[", rows, ",", (cols + 7) / 8, "]"), rows * ((cols + 7) / 8));
  add("compressed", "BF16", losa::detail::text("[", values, "]"), 2 * values);
  const std::size_t content = data.size();
  add("row_offsets", "I64", losa::detail::text("[", rows, "]"), 8 * rows);
  add("shape", "I64", "[2]", 16);
  input = input.subspan(2);
  std::copy_n(input.begin(), std::min(input.size(), content), data.begin());
  std::uint64_t offset = 0;
  for (std::size_t r = 0; r < rows; ++r) {  // mostly true offsets, so that the rest is reached
    const bool lie = r < input.size() && input[input.size() - 1 - r] == 0xff;
    const std::uint64_t written = lie ? offset + 1 : offset;
    std::memcpy(data.data() + content + 8 * r, &written, 8);
    for (std::size_t b = 0; b < (cols + 7) / 8; ++b)
      offset +=
          static_cast<std::uint64_t>(__builtin_popcount(static_cast<unsigned char>(data[r * ((cols + 7) / 8) + b])));
  }
  const std::uint64_t extents[] = {rows, cols};
  std::memcpy(data.data() + content + 8 * rows, extents, 16);
  header += "}";
  const std::uint64_t length = header.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  return out + header + data;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  read_file(bytes);
  if (size >= 2) {
    const std::string whole = with_header({data, size});
    read_file(std::as_bytes(std::span(whole)));
  }
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    losa::io::find_sparsity_config(text);
    losa::io::add_sparsity_config(text, {});
    losa::io::find_sparsity_config(losa::io::remove_sparsity_config(text));
  } catch (const losa::FileError&) {
  }
  try {
    losa::io::StateReader reader(losa::io::SafetensorsFile::from_memory(bytes, "fuzz"), "");
    losa::Mask mask;
    reader("mask", mask);
  } catch (const losa::FileError&) {
  }
  return 0;
}
