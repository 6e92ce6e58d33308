// Arbitrary bytes as a safetensors file, as a shard index, as a saved adapter and as tokens: refused with a FileError
// of one line, or every tensor can be read.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include <losa/io/adapter_file.hpp>
#include <losa/io/file_kind.hpp>
#include <losa/io/safetensors_file.hpp>
#include <losa/io/sharded_checkpoint.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    const auto file = losa::io::SafetensorsFile::from_memory(bytes, "fuzz");
    for (const losa::io::Tensor& tensor : file.tensors()) {
      if (&file.at(tensor.name) != &tensor) __builtin_trap();
      std::vector<float> row(tensor.rows() == 0 ? 0 : tensor.elements() / tensor.rows());
      try {
        for (std::size_t r = 0; r < tensor.rows() && !row.empty(); ++r)
          read_f32(tensor, losa::view(row.data(), 1, row.size()), {.first_row = r});
      } catch (const losa::FileError&) {
      }
    }
    try {
      losa::io::load_adapter(file);
    } catch (const losa::FileError&) {
    }
  } catch (const losa::FileError&) {
  }
  try {
    losa::detail::parse_shard_index({reinterpret_cast<const char*>(data), size}, "fuzz");
  } catch (const losa::FileError&) {
  }
  using losa::io::FileContent;
  for (const auto content : {FileContent::safetensors, FileContent::json, FileContent::tokens, FileContent::text}) {
    try {
      losa::io::refuse_other_content(bytes, "fuzz", content);
    } catch (const losa::FileError& error) {
      if (std::string_view(error.what()).find('\n') != std::string_view::npos) __builtin_trap();
    }
  }
  return 0;
}
