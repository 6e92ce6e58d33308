#include "export.hpp"

#include <algorithm>
#include <losa/io/atomic_file.hpp>
#include <losa/io/compressed.hpp>
#include <losa/io/compressed_config.hpp>
#include <losa/io/mapped_file.hpp>
#include <losa/io/safetensors_writer.hpp>
#include <losa/io/sharded_checkpoint.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <vector>

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

class Exporter {
 public:
  Exporter(const fs::path& model, const fs::path& out, std::span<const MergedWeight> merged,
           const ExportOptions& options, bool compress)
      : model_(model), out_(out), options_(options), compress_(compress), files_(model.string()) {
    for (const MergedWeight& one : merged) merged_.emplace(one.tensor, &one.weight);
  }

  void run() {
    make_directory(out_);
    std::set<std::string> written{"config.json", std::string(index_name)};
    for (const auto& shard : files_.shards()) {
      const std::string name = fs::path(shard.path()).filename().string();
      write_shard(shard, name);
      written.insert(name);
    }
    write_config();
    if (fs::exists(model_ / index_name) && !fs::exists(model_ / "model.safetensors")) write_index();
    copy_others(written);
  }

 private:
  // "X.weight" that this tensor holds a part of, if it is one of a compressed weight's four.
  std::string weight_of(const Tensor& tensor) const {
    for (std::string_view part : {".compressed", ".bitmask", ".row_offsets", ".shape"})
      if (tensor.name.ends_with(part)) {
        const std::string weight = tensor.name.substr(0, tensor.name.size() - part.size()) + ".weight";
        if (losa::io::is_compressed(files_, weight)) return weight;
      }
    return {};
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

  void write_shard(const losa::io::SafetensorsFile& shard, const std::string& name) {
    losa::io::SafetensorsWriter writer((out_ / name).string());
    for (const auto& [key, value] : shard.metadata()) writer.metadata(key, value);
    std::vector<losa::PackedMatrix<float>> expanded;  // alive until commit
    expanded.reserve(shard.tensors().size());
    const auto put = [&](const std::string& weight, const losa::PackedMatrix<float>& packed, Dtype type) {
      if (compress_)
        add_compressed(writer, weight, packed, type, name);
      else
        add_dense(writer, weight, packed, type, name);
    };
    for (const Tensor& tensor : shard.tensors()) {
      const std::string weight = weight_of(tensor);
      const auto found = merged_.find(weight.empty() ? tensor.name : weight);
      if (!weight.empty() && !tensor.name.ends_with(".compressed") && (found != merged_.end() || !compress_)) continue;
      if (found != merged_.end()) {
        put(found->first, *found->second, output_type(tensor));
        ++replaced_;
      } else if (!weight.empty() && !compress_) {
        put(weight, expanded.emplace_back(losa::io::read_compressed<float>(files_, weight)), tensor.dtype);
      } else {
        writer.copy(tensor);
        place(tensor.name, name, tensor.bytes.size());
      }
    }
    writer.commit();
  }

  void add_dense(losa::io::SafetensorsWriter& writer, const std::string& weight,
                 const losa::PackedMatrix<float>& packed, Dtype type, const std::string& file) {
    const auto rows = [&packed]<class T>(losa::io::TensorSink& sink, T) {
      std::vector<T> row(packed.cols());
      for (std::size_t r = 0; r < packed.rows(); ++r) {
        std::ranges::fill(row, T{});
        std::size_t at = packed.row_offset(r);
        packed.mask().for_each_kept(r, [&](std::size_t c) { row[c] = losa::narrow<T>(packed.values()[at++]); });
        sink.write(std::span<const T>(row));
      }
    };
    writer.add(weight, type, {packed.rows(), packed.cols()}, [rows, type](losa::io::TensorSink& sink) {
      if (type == Dtype::bf16)
        rows(sink, losa::bf16{});
      else if (type == Dtype::f16)
        rows(sink, losa::f16{});
      else
        rows(sink, float{});
    });
    place(weight, file, packed.size() * losa::io::size_of(type));
  }

  void add_compressed(losa::io::SafetensorsWriter& writer, const std::string& weight,
                      const losa::PackedMatrix<float>& packed, Dtype type, const std::string& file) {
    if (type == Dtype::bf16)
      losa::io::add_compressed_as<losa::bf16>(writer, weight, packed);
    else if (type == Dtype::f16)
      losa::io::add_compressed_as<losa::f16>(writer, weight, packed);
    else
      losa::io::add_compressed(writer, weight, packed);
    const std::string prefix = weight.substr(0, weight.size() - std::string_view(".weight").size());
    place(prefix + ".compressed", file, packed.kept() * losa::io::size_of(type));
    place(prefix + ".bitmask", file, packed.rows() * ((packed.cols() + 7) / 8));
    place(prefix + ".row_offsets", file, packed.rows() * 8);
    place(prefix + ".shape", file, 16);
    targets_.push_back(prefix);
    zeros_ += packed.mask().zeros();
    weights_ += packed.size();
  }

  void place(const std::string& tensor, const std::string& file, std::size_t bytes) {
    placed_[tensor] = file;
    total_bytes_ += bytes;
  }

  // Untouched where the layout stays dense; a compressed model says so, a model that was compressed says so no more.
  void write_config() {
    if (replaced_ != merged_.size())
      raise<losa::FileError>(model_.string(), ": lacks ", merged_.size() - replaced_, " of the merged layers");
    const losa::io::MappedFile file((model_ / "config.json").string());
    const std::string where = (model_ / "config.json").string();
    const auto before = losa::io::find_sparsity_config(text_of(file), where);
    if (compress_) {
      std::size_t zeros = zeros_, weights = weights_;
      std::vector<std::string> targets = targets_;
      for (const Tensor* tensor : files_.tensors()) {  // compressed before and copied
        const std::string weight = weight_of(*tensor);
        if (!tensor->name.ends_with(".compressed") || weight.empty() || merged_.contains(weight)) continue;
        const auto stored = losa::io::find_compressed(files_, weight);
        zeros += stored.rows * stored.cols - stored.kept;
        weights += stored.rows * stored.cols;
        targets.push_back(weight.substr(0, weight.size() - std::string_view(".weight").size()));
      }
      losa::io::SparsityConfig sparsity;
      sparsity.global_sparsity = weights == 0 ? 0.0 : static_cast<double>(zeros) / static_cast<double>(weights);
      sparsity.sparsity_structure = options_.structure;
      sparsity.targets = std::move(targets);
      write_text(out_ / "config.json", losa::io::add_sparsity_config(text_of(file), sparsity, where));
    } else if (before) {
      auto json = losa::detail::parse_document(text_of(file), where);
      json.erase("quantization_config");
      json.erase("compression_config");
      write_text(out_ / "config.json", json.dump(2) + "\n");
    } else {
      write_text(out_ / "config.json", text_of(file));
    }
  }

  void write_index() {
    nlohmann::ordered_json index;
    index["metadata"]["total_size"] = total_bytes_;
    index["weight_map"] = nlohmann::ordered_json::object();
    for (const auto& [tensor, file] : placed_) index["weight_map"][tensor] = file;
    write_text(out_ / index_name, index.dump(2) + "\n");
  }

  // What an earlier run made beside its merged model belongs to that run.
  std::set<std::string> results_of_earlier_run() const {
    const std::set<std::string> results{"report.json", "compressed", "adapter"};
    return std::ranges::all_of(results, [&](const std::string& name) { return fs::exists(model_ / name); })
               ? results
               : std::set<std::string>();
  }

  void copy_others(const std::set<std::string>& written) {
    const std::set<std::string> left_out = results_of_earlier_run();
    std::error_code error;
    const auto skipped = fs::weakly_canonical(out_, error);
    auto at = fs::recursive_directory_iterator(model_, error);
    for (; !error && at != fs::recursive_directory_iterator(); at.increment(error)) {
      const fs::path relative = at->path().lexically_relative(model_);
      std::error_code ignored;
      if (at->is_directory(ignored)) {
        if (relative.filename().string().starts_with('.') || left_out.contains(relative.string()) ||
            fs::weakly_canonical(at->path(), ignored) == skipped)
          at.disable_recursion_pending();
        else
          make_directory(out_ / relative);
      } else if (at->is_regular_file(ignored) && !written.contains(relative.string()) &&
                 !left_out.contains(relative.string())) {
        const losa::io::MappedFile file(at->path().string());
        write_text(out_ / relative, text_of(file));
      }
    }
    if (error) raise<losa::FileError>(model_.string(), ": cannot be listed: ", error.message());
  }

  fs::path model_;
  fs::path out_;
  ExportOptions options_;
  bool compress_;
  losa::io::ShardedCheckpoint files_;
  std::map<std::string, const losa::PackedMatrix<float>*> merged_;
  std::size_t replaced_ = 0;
  std::map<std::string, std::string> placed_;  // tensor → file
  std::size_t total_bytes_ = 0;
  std::vector<std::string> targets_;  // compressed now
  std::size_t zeros_ = 0;
  std::size_t weights_ = 0;
};

}  // namespace

void export_model(const fs::path& model, const fs::path& out, std::span<const MergedWeight> merged,
                  const ExportOptions& options) {
  Exporter(model, out, merged, options, false).run();
}

void export_compressed(const fs::path& model, const fs::path& out, std::span<const MergedWeight> merged,
                       const ExportOptions& options) {
  Exporter(model, out, merged, options, true).run();
}

}  // namespace llama
