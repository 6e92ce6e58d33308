#pragma once
// The weights that an adaptation run leaves: the merged model as a Hugging Face directory, the same compressed in
// compressed/, adapters and masks in adapter/. Layers come one at a time, as they become final.

#include <filesystem>
#include <losa/adapt/linear.hpp>
#include <losa/io/adapter_file.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "../adapt_engine.hpp"
#include "../export.hpp"

namespace tool {

class ResultFiles {
 public:
  /// Of `adapters` everything but the masks is read; each layer has one. Throws losa::FileError.
  ResultFiles(const std::filesystem::path& model, const std::filesystem::path& out,
              std::span<const llama::LayerPlan> layers, std::span<const losa::io::AdapterView> adapters,
              llama::ExportOptions options)
      : merged_(model, out, layers, options),
        compressed_(model, out / "compressed", layers, with_compression(options)),
        adapter_(adapter_path(out)) {
    for (const losa::io::AdapterView& adapter : adapters) losa::io::declare_adapter(adapter_, adapter, true);
  }

  void put(const std::string& tensor, const losa::PackedMatrix<float>& weight, const losa::io::AdapterView& adapter) {
    merged_.put(tensor, weight);
    compressed_.put(tensor, weight);
    losa::io::put_adapter(adapter_, adapter);
  }

  void finish() {
    merged_.finish();
    compressed_.finish();
    adapter_.commit();
  }

  /// What lay beside the model's weights.
  const llama::SideFiles& side_files() const { return merged_.side_files(); }

 private:
  static llama::ExportOptions with_compression(llama::ExportOptions options) {
    options.compress = true;
    options.largest_side_file = llama::small_file;  // larger ones are in the directory above
    return options;
  }
  static std::string adapter_path(const std::filesystem::path& out) {
    std::filesystem::create_directory(out / "adapter");
    return (out / "adapter" / "adapter.safetensors").string();
  }

  llama::ModelWriter merged_;
  llama::ModelWriter compressed_;
  losa::io::SafetensorsWriter adapter_;
};

/// What the files must know of an engine's layers before the first is written; `zeros` per layer in model order.
template <losa::Adapter A>
std::vector<llama::LayerPlan> layer_plans(llama::AdaptEngine<A>& engine, std::span<const std::size_t> zeros) {
  std::vector<llama::LayerPlan> plans;
  for (std::size_t b = 0; b < engine.blocks(); ++b)
    for (const losa::AdaptedLinear<A>& layer : engine.linears(b))
      plans.push_back(
          {layer.name + ".weight", layer.out(), layer.in(), layer.out() * layer.in() - zeros[plans.size()]});
  return plans;
}

}  // namespace tool
