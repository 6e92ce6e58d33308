#include "export.hpp"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <losa/io/atomic_file.hpp>
#include <losa/io/compressed.hpp>
#include <losa/io/compressed_config.hpp>
#include <losa/io/mapped_file.hpp>
#include <losa/io/safetensors_writer.hpp>
#include <losa/io/sharded_checkpoint.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>
#include <vector>

#include "checkpoint.hpp"

namespace llama {

namespace fs = std::filesystem;
using losa::detail::raise;
using losa::io::Dtype;
using losa::io::Tensor;

namespace {

constexpr std::string_view index_name = "model.safetensors.index.json";

std::string_view text_of(const losa::io::MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.size()};
}

void write_text(const fs::path& path, std::string_view text) {
  losa::io::AtomicFile file(path.string());
  file.write(std::as_bytes(std::span(text.data(), text.size())));
  file.commit();
}

void make_directory(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) raise<losa::FileError>(path.string(), ": cannot be made: ", error.message());
}

}  // namespace

class ModelWriter::Writer {
 public:
  Writer(const fs::path& model, const fs::path& out, std::span<const LayerPlan> layers, const ExportOptions& options)
      : model_(model),
        out_(out),
        options_(options),
        compress_(options.compress),
        files_(model.string()),
        prefix_(base_prefix(files_)),
        head_prefix_(head_prefix(files_)) {
    for (const LayerPlan& layer : layers) planned_.emplace(layer.tensor, Planned{layer, {}, nullptr});
    make_directory(out_);
    lay_out();
    for (const auto& [name, planned] : planned_)
      if (planned.file == nullptr)
        raise<losa::FileError>(model_.string(), ": lacks the merged layer ", losa::detail::quote_name(name));
    // First, as a file that cannot be read must not cost the work that follows.
    side_files_ = find_side_files(model_, {.out = out_, .own = options_.own});
    copy_side_files(side_files_, out_, options_.largest_side_file);
  }

  void put(const std::string& tensor, const losa::PackedMatrix<float>& packed) {
    const auto found = planned_.find(tensor);
    if (found == planned_.end())
      raise<losa::FileError>(out_.string(), ": layer ", losa::detail::quote_name(tensor), " was not planned");
    const Planned& planned = found->second;
    if (packed.rows() != planned.plan.out || packed.cols() != planned.plan.in || packed.kept() != planned.plan.kept)
      raise<losa::FileError>(out_.string(), ": layer ", losa::detail::quote_name(tensor), ": planned were ",
                             planned.plan.kept, " kept weights of ", planned.plan.out, " × ", planned.plan.in, ", got ",
                             packed.kept(), " of ", packed.rows(), " × ", packed.cols());
    with_type(planned.type, [&](auto value) {
      using T = decltype(value);
      if (compress_)
        losa::io::put_compressed_as<T>(*planned.file, tensor, packed);
      else
        planned.file->put(tensor, [&](losa::io::TensorSink& sink) { write_dense<T>(sink, packed); });
    });
  }

  void finish() {
    for (Shard& shard : shards_) shard.writer->commit();
    write_config();
    if (shards_.size() > 1) write_index();
  }

  const SideFiles& side_files() const { return side_files_; }

 private:
  struct Planned {
    LayerPlan plan;
    Dtype type;
    losa::io::SafetensorsWriter* file;
  };
  struct Shard {
    std::string name;
    std::unique_ptr<losa::io::SafetensorsWriter> writer;
  };

  template <class F>
  static void with_type(Dtype type, F&& f) {
    if (type == Dtype::bf16) return f(losa::bf16{});
    if (type == Dtype::f16) return f(losa::f16{});
    if (type == Dtype::f64) return f(double{});
    f(float{});
  }
  template <class T>
  static void write_dense(losa::io::TensorSink& sink, const losa::PackedMatrix<float>& packed) {
    std::vector<T> row(packed.cols());
    for (std::size_t r = 0; r < packed.rows(); ++r) {
      std::ranges::fill(row, T{});
      packed.for_each_kept(r, [&](std::size_t c, std::size_t k) { row[c] = losa::narrow<T>(packed.values()[k]); });
      sink.write(std::span<const T>(row));
    }
  }

  // The tensor that this one holds a part of, if it is one of a compressed one's four.
  std::string owner_of(const Tensor& tensor) const {
    std::string owner = losa::io::compressed_owner(tensor.name);
    return !owner.empty() && losa::io::is_compressed(files_, owner) ? owner : std::string();
  }
  /// A matrix called X.weight, which is what the layout that is written can hold.
  bool fits_layout(const std::string& owner) const {
    return owner.ends_with(".weight") && !losa::io::find_compressed(files_, owner).vector;
  }

  Dtype output_type(const Tensor& source) const {
    switch (options_.dtype) {
      case OutputType::f32:
        return Dtype::f32;
      case OutputType::bf16:
        return Dtype::bf16;
      case OutputType::f16:
        return Dtype::f16;
      case OutputType::as_input:
        break;
    }
    return source.dtype;
  }

  // One tensor of the output: what it takes, and how it is entered in a file.
  struct Item {
    std::vector<std::pair<std::string, std::size_t>> parts;  // names in the output and their bytes
    std::function<void(losa::io::SafetensorsWriter&)> enter;

    std::size_t bytes() const {
      std::size_t sum = 0;
      for (const auto& part : parts) sum += part.second;
      return sum;
    }
  };

  Item planned_item(Planned& planned) {
    const LayerPlan& plan = planned.plan;
    const std::size_t value = losa::io::size_of(planned.type);
    if (!compress_)
      return {{{plan.tensor, plan.out * plan.in * value}}, [&planned](losa::io::SafetensorsWriter& writer) {
                planned.file = &writer;
                writer.declare(planned.plan.tensor, planned.type, {planned.plan.out, planned.plan.in});
              }};
    const std::string prefix = prefix_of(plan.tensor);
    targets_.push_back(prefix);
    zeros_ += plan.out * plan.in - plan.kept;
    weights_ += plan.out * plan.in;
    return {{{prefix + ".compressed", plan.kept * value},
             {prefix + ".bitmask", plan.out * ((plan.in + 7) / 8)},
             {prefix + ".row_offsets", plan.out * 8},
             {prefix + ".shape", 16}},
            [&planned](losa::io::SafetensorsWriter& writer) {
              const LayerPlan& p = planned.plan;
              planned.file = &writer;
              losa::io::declare_compressed(writer, p.tensor, planned.type, p.out, p.in, p.kept);
            }};
  }
  // A compressed tensor that was not adapted, for a dense output.
  Item expanded_item(const std::string& name, Dtype type) {
    const auto stored = losa::io::find_compressed(files_, name);
    std::vector<std::size_t> shape{stored.rows, stored.cols};
    if (stored.vector) shape.erase(shape.begin());
    const std::string written = usual_name(name, prefix_, head_prefix_);
    return {{{written, stored.rows * stored.cols * losa::io::size_of(type)}},
            [this, name, written, type, shape](losa::io::SafetensorsWriter& writer) {
              writer.add(written, type, shape, [this, name, type](losa::io::TensorSink& sink) {
                const auto packed = losa::io::read_compressed<float>(files_, name);
                with_type(type, [&](auto value) { write_dense<decltype(value)>(sink, packed); });
              });
            }};
  }
  // A tensor as it is; a part of a compressed weight gets the name that today's layout gives it.
  Item copied_item(const Tensor& tensor, const std::string& owner) {
    std::string name = tensor.name;
    if (!owner.empty() && name.starts_with(owner)) name = prefix_of(owner) + name.substr(owner.size());
    name = usual_name(name, prefix_, head_prefix_);
    return {{{name, tensor.bytes.size()}}, [&tensor, name](losa::io::SafetensorsWriter& writer) {
              writer.copy(tensor, losa::io::release_pages, name);
            }};
  }

  void lay_out() {
    std::vector<Item> items;
    for (const auto& shard : files_.shards())
      for (const Tensor& tensor : shard.tensors()) {
        const std::string owner = owner_of(tensor);
        const auto found = planned_.find(usual_name(owner.empty() ? tensor.name : owner, prefix_, head_prefix_));
        const bool values = owner.empty() || tensor.name.ends_with(".compressed");
        if (found != planned_.end()) {
          if (!values) continue;
          found->second.type = output_type(tensor);
          items.push_back(planned_item(found->second));
        } else if (owner.empty() || (compress_ && fits_layout(owner))) {
          items.push_back(copied_item(tensor, owner));
        } else if (values) {
          items.push_back(expanded_item(owner, tensor.dtype));
        }
      }
    // Which item goes into which file, so that the number of files is known.
    std::vector<std::size_t> first{0};
    std::size_t size = 0;
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (size != 0 && size + items[i].bytes() > options_.shard_bytes) {
        first.push_back(i);
        size = 0;
      }
      size += items[i].bytes();
    }
    first.push_back(items.size());
    for (std::size_t n = 0; n + 1 < first.size(); ++n) {
      Shard& shard = shards_.emplace_back();
      char name[64] = "model.safetensors";
      if (first.size() > 2)
        std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", n + 1, first.size() - 1);
      shard.name = name;
      shard.writer = std::make_unique<losa::io::SafetensorsWriter>((out_ / name).string());
      for (const auto& [key, value] : files_.shards().front().metadata()) shard.writer->metadata(key, value);
      for (std::size_t i = first[n]; i < first[n + 1]; ++i) {
        items[i].enter(*shard.writer);
        for (const auto& [tensor, bytes] : items[i].parts) {
          placed_[tensor] = shard.name;
          total_bytes_ += bytes;
        }
      }
    }
  }

  static std::string prefix_of(const std::string& weight) {
    return weight.substr(0, weight.size() - std::string_view(".weight").size());
  }

  /// The model's config.json, but that loaders must not round weights that are written as f32.
  std::string config_text(const std::string& where) const {
    const losa::io::MappedFile file((model_ / "config.json").string());
    if (options_.dtype != OutputType::f32) return std::string(text_of(file));
    auto json = losa::detail::parse_document(text_of(file), where);
    bool narrow = false;
    for (const char* key : {"torch_dtype", "dtype"})
      if (json.contains(key) && json[key] != "float32") {
        json[key] = "float32";
        narrow = true;
      }
    return narrow ? json.dump(2) + "\n" : std::string(text_of(file));
  }

  // A compressed model says so, a dense one never does; otherwise untouched.
  void write_config() {
    const std::string where = (model_ / "config.json").string();
    const std::string text = config_text(where);
    if (!compress_) return write_text(out_ / "config.json", losa::io::remove_sparsity_config(text, where));
    std::size_t zeros = zeros_, weights = weights_;
    std::vector<std::string> targets = targets_;
    for (const Tensor* tensor : files_.tensors()) {  // compressed before and copied
      const std::string owner = owner_of(*tensor);
      if (!tensor->name.ends_with(".compressed") || owner.empty() ||
          planned_.contains(usual_name(owner, prefix_, head_prefix_)) || !fits_layout(owner))
        continue;
      const auto stored = losa::io::find_compressed(files_, owner);
      zeros += stored.rows * stored.cols - stored.kept;
      weights += stored.rows * stored.cols;
      targets.push_back(prefix_of(usual_name(owner, prefix_, head_prefix_)));
    }
    losa::io::SparsityConfig sparsity;
    sparsity.global_sparsity = weights == 0 ? 0.0 : static_cast<double>(zeros) / static_cast<double>(weights);
    sparsity.sparsity_structure = options_.structure;
    sparsity.targets = std::move(targets);
    write_text(out_ / "config.json", losa::io::add_sparsity_config(text, sparsity, where));
  }

  void write_index() {
    nlohmann::ordered_json index;
    index["metadata"]["total_size"] = total_bytes_;
    index["weight_map"] = nlohmann::ordered_json::object();
    for (const auto& [tensor, file] : placed_) index["weight_map"][tensor] = file;
    write_text(out_ / index_name, index.dump(2) + "\n");
  }

  fs::path model_;
  fs::path out_;
  ExportOptions options_;
  bool compress_;
  SideFiles side_files_;
  losa::io::ShardedCheckpoint files_;
  std::string prefix_;
  std::string head_prefix_;
  std::map<std::string, Planned> planned_;
  std::vector<Shard> shards_;
  std::map<std::string, std::string> placed_;  // tensor → file
  std::size_t total_bytes_ = 0;
  std::vector<std::string> targets_;  // compressed now
  std::size_t zeros_ = 0;
  std::size_t weights_ = 0;
};

ModelWriter::ModelWriter(const fs::path& model, const fs::path& out, std::span<const LayerPlan> layers,
                         const ExportOptions& options)
    : writer_(std::make_unique<Writer>(model, out, layers, options)) {}
ModelWriter::~ModelWriter() = default;
void ModelWriter::put(const std::string& tensor, const losa::PackedMatrix<float>& weight) {
  writer_->put(tensor, weight);
}
void ModelWriter::finish() { writer_->finish(); }
const SideFiles& ModelWriter::side_files() const { return writer_->side_files(); }

void export_model(const fs::path& model, const fs::path& out, std::span<const MergedWeight> merged,
                  ExportOptions options) {
  std::vector<LayerPlan> plans;
  for (const MergedWeight& one : merged)
    plans.push_back({one.tensor, one.weight.rows(), one.weight.cols(), one.weight.kept()});
  ModelWriter writer(model, out, plans, options);
  for (const MergedWeight& one : merged) writer.put(one.tensor, one.weight);
  writer.finish();
}

void export_compressed(const fs::path& model, const fs::path& out, std::span<const MergedWeight> merged,
                       ExportOptions options) {
  options.compress = true;
  export_model(model, out, merged, std::move(options));
}

}  // namespace llama
