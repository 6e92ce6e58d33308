#pragma once
// Writing an adapted model: a Hugging Face directory (dense with zeros), the same in compressed/ (sparse-bitmask), and
// adapter and mask in adapter/.
//
//   llama::export_model("smollm2", "out", merged, {.dtype = llama::OutputType::bf16});
//   llama::export_compressed("smollm2", "out/compressed", merged);

#include <cstddef>
#include <filesystem>
#include <functional>
#include <losa/core/mask.hpp>
#include <losa/core/view.hpp>
#include <string>
#include <vector>

namespace llama {

/// One layer to write in place of the checkpoint's.
struct MergedWeight {
  std::string tensor;  // "model.layers.0.mlp.up_proj.weight"
  const losa::Mask* mask = nullptr;
  std::function<void(std::size_t row, std::span<float> out)> row;  // merged weights of a row, +0 where pruned
};

enum class OutputType { as_input, f32, bf16, f16 };

struct ExportOptions {
  OutputType dtype = OutputType::as_input;  // of the merged layers; all other tensors are copied byte for byte
};

/// Writes into `out` the files of `model` with the merged layers in place of its own: shards keep their names and their
/// order of tensors; every other file is copied. Throws losa::FileError.
void export_model(const std::filesystem::path& model, const std::filesystem::path& out,
                  const std::vector<MergedWeight>& merged, const ExportOptions& options = {});

/// The same with the merged layers compressed, and the layout described in config.json.
void export_compressed(const std::filesystem::path& model, const std::filesystem::path& out,
                       const std::vector<MergedWeight>& merged, const ExportOptions& options = {});

/// One factor pair and mask to write unmerged.
struct AdapterWeight {
  std::string layer;                 // "model.layers.0.mlp.up_proj"
  losa::MatrixView<const float> a;   // (rank, in)
  losa::MatrixView<const float> bt;  // (rank, out)
  double scale = 1;
  const losa::Mask* mask = nullptr;
};

/// adapter.safetensors in `out`: "<layer>.lora_A" (rank, in), "<layer>.lora_B" (out, rank), f32; "<layer>.mask"
/// (out, ⌈in/8⌉), U8, bit c % 8 of byte c / 8 belongs to column c; scales in the metadata. Throws losa::FileError.
void export_adapter(const std::filesystem::path& out, const std::vector<AdapterWeight>& adapters);

}  // namespace llama
