#pragma once
// Writing an adapted model: a Hugging Face directory (dense with zeros), or the same with its sparse layers compressed
// (sparse-bitmask). Adapters and masks are written by losa::io::save_adapter.
//
//   auto merged = llama::merged_weights(engine);                                    // all at once
//   llama::export_model("smollm2", "out", merged, {.dtype = llama::OutputType::bf16});
//   llama::export_compressed("smollm2", "out/compressed", merged);
//
//   llama::ModelWriter writer("smollm2", "out", plans);                             // or as the layers come
//   for (...) writer.put("model.layers.0.mlp.up_proj.weight", packed);
//   writer.finish();

#include <cstddef>
#include <filesystem>
#include <losa/core/executor.hpp>
#include <losa/gemm.hpp>
#include <memory>
#include <span>
#include <string>

#include "side_files.hpp"

namespace llama {

/// A layer to write in place of the checkpoint's.
struct MergedWeight {
  std::string tensor;                // "model.layers.0.mlp.up_proj.weight"
  losa::PackedMatrix<float> weight;  // (out, in)
};

/// What must be known of such a layer before the first is written.
struct LayerPlan {
  std::string tensor;
  std::size_t out = 0;
  std::size_t in = 0;
  std::size_t kept = 0;
};

enum class OutputType { as_input, f32, bf16, f16 };

struct ExportOptions {
  OutputType dtype = OutputType::as_input;  // of the merged layers; every other tensor keeps its own
  std::string structure = "unstructured";   // what config.json of a compressed model says of the masks, or "2:4", …
  bool compress = false;
  std::filesystem::path own = {};  // a directory of the run itself: not copied, should it lie inside the model's
  // A file ends before a tensor that would take it past this many bytes, as in transformers.
  std::size_t shard_bytes = 2'000'000'000;
  // Of the files beside the weights, larger ones are not copied.
  std::size_t largest_side_file = ~std::size_t{0};
};

/// Writes into `out` the files of `model` with the merged layers in place of its own. Other tensors are copied byte for
/// byte (compressed ones that were not adapted are expanded where the output is dense), and so are the files beside the
/// weights that belong to a model (side_files.hpp). Layers may be put in any order, one at a time in memory; nothing
/// has its final name before finish().
class ModelWriter {
 public:
  /// Throws losa::FileError: a planned layer that the model lacks, a file that cannot be made.
  ModelWriter(const std::filesystem::path& model, const std::filesystem::path& out, std::span<const LayerPlan> layers,
              const ExportOptions& options = {});
  ~ModelWriter();
  /// Writes a planned layer. Throws losa::FileError for one that was not planned, is written twice or keeps another
  /// number of weights than planned, or if the file cannot be written.
  void put(const std::string& tensor, const losa::PackedMatrix<float>& weight);
  /// Writes all the rest. Throws losa::FileError, also if a planned layer was not put.
  void finish();
  /// What lay beside the weights: copied, and left out.
  const SideFiles& side_files() const;

 private:
  class Writer;
  std::unique_ptr<Writer> writer_;
};

/// The same for layers that are all there.
void export_model(const std::filesystem::path& model, const std::filesystem::path& out,
                  std::span<const MergedWeight> merged, ExportOptions options = {});
/// … with the merged layers compressed and the layout described in config.json.
void export_compressed(const std::filesystem::path& model, const std::filesystem::path& out,
                       std::span<const MergedWeight> merged, ExportOptions options = {});

}  // namespace llama
