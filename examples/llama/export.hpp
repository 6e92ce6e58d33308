#pragma once
// Writing an adapted model: a Hugging Face directory (dense with zeros), or the same with its sparse layers compressed
// (sparse-bitmask). Adapters and masks are written by losa::io::save_adapter.
//
//   auto merged = llama::merged_weights(engine);
//   llama::export_model("smollm2", "out", merged, {.dtype = llama::OutputType::bf16});
//   llama::export_compressed("smollm2", "out/compressed", merged);

#include <cstddef>
#include <filesystem>
#include <losa/core/executor.hpp>
#include <losa/gemm.hpp>
#include <span>
#include <string>

namespace llama {

/// A layer to write in place of the checkpoint's.
struct MergedWeight {
  std::string tensor;                // "model.layers.0.mlp.up_proj.weight"
  losa::PackedMatrix<float> weight;  // (out, in)
};

enum class OutputType { as_input, f32, bf16, f16 };

struct ExportOptions {
  OutputType dtype = OutputType::as_input;  // of the merged layers; every other tensor keeps its own
  std::string structure = "unstructured";   // what config.json of a compressed model says of the masks, or "2:4", …
};

/// Writes into `out` the files of `model` with the merged layers in place of its own. Shards keep their names, other
/// tensors are copied byte for byte (compressed ones that were not adapted are expanded), and so is every other file,
/// folders that start with a dot excepted. Throws losa::FileError.
void export_model(const std::filesystem::path& model, const std::filesystem::path& out,
                  std::span<const MergedWeight> merged, const ExportOptions& options = {});

/// The same with the merged layers compressed and the layout described in config.json.
void export_compressed(const std::filesystem::path& model, const std::filesystem::path& out,
                       std::span<const MergedWeight> merged, const ExportOptions& options = {});

}  // namespace llama
