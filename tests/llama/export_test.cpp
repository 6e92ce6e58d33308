#include "export.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <losa/adapter/masked_lora.hpp>
#include <losa/io/adapter_file.hpp>
#include <losa/io/safetensors_file.hpp>
#include <losa/mask/counts.hpp>
#include <set>

#include "adapt_engine.hpp"
#include "model.hpp"
#include "toy_model.hpp"

using llama::Matrix;
using llama::Model;
using llama::Weights;
using Engine = llama::AdaptEngine<losa::MaskedLora>;

namespace {

// Prunes exactly half of every layer; adapters that change every kept weight.
void prune(Engine& engine) {
  std::uint64_t stream = 0;
  for (std::size_t b = 0; b < engine.blocks(); ++b)
    for (auto& layer : engine.linears(b)) {
      losa::Mask mask(layer.out(), layer.in());
      for (std::size_t r = 0; r < layer.out(); ++r)
        for (std::size_t c = 0; c < layer.in(); ++c) mask.set(r, c, (r + c) % 2 == 0);
      layer.set_mask(std::move(mask));
      layer.attach({layer.out(), layer.in(), {.rank = 2, .seed = 1, .stream = ++stream}});
      for (auto span : layer.adapter().parameters())
        for (std::size_t i = 0; i < span.size(); ++i)
          span[i] = static_cast<float>(0.1 * losa::Random{.seed = 2, .stream = stream}.normal(i + span.size()));
      layer.refresh();
    }
}

Matrix logits_of(const Model& model, const std::vector<llama::Token>& tokens) {
  Matrix hidden, logits(tokens.size(), model.config().vocabulary);
  model.forward(tokens, tokens.size(), hidden);
  model.head(hidden.cview(), logits.view());
  return logits;
}
double difference(const Matrix& a, const Matrix& b) {
  double worst = 0;
  for (std::size_t i = 0; i < a.rows() * a.cols(); ++i)
    worst = std::max(worst, static_cast<double>(std::abs(a.view().data[i] - b.view().data[i])));
  return worst;
}
bool same_bits(const Matrix& a, const Matrix& b) { return std::memcmp(a.view().data, b.view().data, a.bytes()) == 0; }

bool same_tensor(const losa::io::Tensor& a, const losa::io::Tensor& b) {
  return a.dtype == b.dtype && a.shape == b.shape && std::ranges::equal(a.bytes, b.bytes);
}

}  // namespace

TEST_CASE("export: merged and compressed models are the adapted model, other tensors and files byte for byte") {
  for (const char* dtype : {"float32", "bfloat16"})
    for (const bool sharded : {false, true}) {
      CAPTURE(dtype);
      CAPTURE(sharded);
      const toy::Folder folder;
      const auto model = folder / "m", out = folder / "out";
      toy::write_model(model, {}, dtype);
      if (sharded) {
        toy::fs::remove(model / "model.safetensors");
        nlohmann::json index;
        const auto shard = [](const std::string& n) {
          return n.find("layers.1") == std::string::npos ? "a.safetensors" : "b.safetensors";
        };
        for (const auto& [name, values] : toy::tensors({})) index["weight_map"][name] = shard(name);
        for (const char* file : {"a.safetensors", "b.safetensors"})
          toy::write_safetensors(model / file, toy::tensors({}), dtype,
                                 [&](const std::string& n) { return shard(n) == std::string(file); });
        toy::write_text(model / "model.safetensors.index.json", index.dump());
      }
      toy::write_text(model / "tokenizer.json", std::string("not\0text", 8));
      toy::write_text(model / "empty", "");
      toy::fs::create_directories(model / "extra");
      toy::write_text(model / "extra/note", "n");
      toy::fs::create_directories(model / ".git");
      toy::write_text(model / ".git/config", "c");

      const auto tokens = toy::tokens(30, 19);
      Engine engine(model, tokens, tokens,
                    {.calibration_sequences = 1, .calibration_context = 8, .context = 8, .skip = "1.mlp.gate"});
      prune(engine);
      const auto merged = llama::merged_weights(engine);
      CHECK(merged.size() == 13);
      llama::export_model(model, out, merged);
      llama::export_compressed(model, out / "compressed", merged, {.structure = "2:4"});

      for (const char* name : {"tokenizer.json", "empty", "extra/note"})
        for (const char* where : {"", "compressed/"})
          CHECK(toy::read_text(out / (std::string(where) + name)) == toy::read_text(model / name));
      CHECK_FALSE(toy::fs::exists(out / ".git"));
      CHECK(toy::read_text(out / "config.json") == toy::read_text(model / "config.json"));
      CHECK(toy::fs::exists(out / "model.safetensors"));
      CHECK_FALSE(toy::fs::exists(out / "model.safetensors.index.json"));
      const losa::io::ShardedCheckpoint before(model.string()), after(out.string());
      CHECK(before.tensors().size() == after.tensors().size());
      for (const auto* tensor : before.tensors())
        if (tensor->name.find("_proj") == std::string::npos || tensor->name.find("1.mlp.gate") != std::string::npos)
          CHECK(same_tensor(*tensor, after.at(tensor->name)));
        else
          CHECK(after.at(tensor->name).dtype == tensor->dtype);

      const Model dense = Model::load(out), sparse = Model::load(out, {.weights = Weights::sparse});
      const Model compressed = Model::load(out / "compressed"),
                  expanded = Model::load(out / "compressed", {.weights = Weights::dense});
      CHECK(sparse.linear(0, llama::query).packed);
      CHECK(compressed.linear(0, llama::query).packed);
      CHECK(compressed.linear(1, llama::gate).dense);
      std::size_t zeros = 0;
      for (const auto& one : merged) zeros += one.weight.size() / 2;
      CHECK(dense.linear_zeros() == zeros);
      CHECK(compressed.linear_zeros() == zeros);
      CHECK(compressed.linear_bytes() == sparse.linear_bytes());
      const Matrix a = logits_of(dense, tokens), b = logits_of(sparse, tokens);
      CHECK(same_bits(a, logits_of(expanded, tokens)));
      CHECK(same_bits(b, logits_of(compressed, tokens)));
      CHECK(difference(a, b) < 1e-4);
      Matrix adapted(30, 19);
      engine.logits(tokens, adapted.view());
      if (std::string(dtype) == "float32") CHECK(difference(b, adapted) < 1e-6);
      CHECK(difference(b, adapted) < 0.2);
      CHECK(toy::read_text(out / "compressed/config.json").find("\"2:4\"") != std::string::npos);
    }
}

TEST_CASE("export: a kept weight that came out as 0 stays kept where the mask is stored") {
  const toy::Folder folder;
  toy::write_model(folder / "m");
  const auto tokens = toy::tokens(30, 19);
  Engine engine(folder / "m", tokens, tokens, {.calibration_sequences = 1, .calibration_context = 8, .context = 8});
  prune(engine);
  auto merged = llama::merged_weights(engine);
  for (auto& one : merged) one.weight.values()[3] = one.weight.values()[17] = 0.0f;
  llama::export_model(folder / "m", folder / "d", merged);
  llama::export_compressed(folder / "m", folder / "c", merged);
  const Model d = Model::load(folder / "d"), c = Model::load(folder / "c");
  CHECK(d.linear_zeros() == c.linear_zeros() + 2 * merged.size());
  for (std::size_t b = 0; b < 2; ++b)
    for (std::size_t which = 0; which < llama::linears_per_block; ++which)
      CHECK(c.linear(b, which).packed->mask() == merged[b * llama::linears_per_block + which].weight.mask());
  const Model expanded = Model::load(folder / "c", {.weights = Weights::dense});
  CHECK(expanded.linear_zeros() == c.linear_zeros());
  CHECK(same_bits(logits_of(d, tokens), logits_of(expanded, tokens)));
  CHECK(difference(logits_of(d, tokens), logits_of(c, tokens)) < 1e-5);
}

TEST_CASE("export: another dtype for the merged layers alone") {
  const toy::Folder folder;
  toy::write_model(folder / "m");
  const auto tokens = toy::tokens(30, 19);
  Engine engine(folder / "m", tokens, tokens, {.calibration_sequences = 1, .calibration_context = 8, .context = 8});
  prune(engine);
  const auto merged = llama::merged_weights(engine);
  llama::export_model(folder / "m", folder / "half", merged, {.dtype = llama::OutputType::bf16});
  llama::export_compressed(folder / "m", folder / "f16", merged, {.dtype = llama::OutputType::f16});
  const losa::io::SafetensorsFile half((folder / "half/model.safetensors").string()),
      f16((folder / "f16/model.safetensors").string());
  CHECK(half.at("model.layers.0.mlp.up_proj.weight").dtype == losa::io::Dtype::bf16);
  CHECK(half.at("model.norm.weight").dtype == losa::io::Dtype::f32);
  CHECK(f16.at("model.layers.0.mlp.up_proj.compressed").dtype == losa::io::Dtype::f16);

  // The model with its merged weights rounded is the exported one, to the bit.
  Engine rounded(folder / "m", tokens, tokens, {.calibration_sequences = 1, .calibration_context = 8, .context = 8});
  std::size_t at = 0;
  for (std::size_t b = 0; b < 2; ++b)
    for (auto& layer : rounded.linears(b)) {
      merged[at].weight.to_dense(layer.weight);
      for (std::size_t r = 0; r < layer.out(); ++r)
        for (float& w : layer.weight.row(r)) w = losa::widen(losa::narrow<losa::bf16>(w));
      ++at;
    }
  Matrix expected(30, 19);
  rounded.logits(tokens, expected.view());
  CHECK(same_bits(logits_of(Model::load(folder / "half"), tokens), expected));
}

TEST_CASE("export: a compressed model can be adapted and written dense again") {
  const toy::Folder folder;
  toy::write_model(folder / "m");
  const auto tokens = toy::tokens(30, 19);
  const llama::AdaptEngineOptions options{.calibration_sequences = 1, .calibration_context = 8, .context = 8};
  Engine first(folder / "m", tokens, tokens, options);
  prune(first);
  llama::export_compressed(folder / "m", folder / "c", llama::merged_weights(first));

  llama::AdaptEngineOptions some = options;
  some.skip = "layers.0";
  Engine second(folder / "c", tokens, tokens, some);
  prune(second);
  const auto merged = llama::merged_weights(second);
  llama::export_model(folder / "c", folder / "d", merged);
  llama::export_compressed(folder / "c", folder / "cc", merged);
  CHECK(toy::read_text(folder / "d/config.json").find("quantization_config") == std::string::npos);
  Matrix adapted(30, 19);
  second.logits(tokens, adapted.view());
  const Matrix dense = logits_of(Model::load(folder / "d"), tokens);
  CHECK(difference(dense, adapted) < 1e-5);
  CHECK(same_bits(dense, logits_of(Model::load(folder / "cc", {.weights = Weights::dense}), tokens)));
  CHECK(Model::load(folder / "cc").linear(0, llama::up).packed);
}

TEST_CASE("export: adapter and mask can be read back") {
  const toy::Folder folder;
  toy::write_model(folder / "m");
  const auto tokens = toy::tokens(30, 19);
  Engine engine(folder / "m", tokens, tokens, {.calibration_sequences = 1, .calibration_context = 8, .context = 8});
  for (const auto& view : llama::adapter_views(engine)) CHECK((view.a.rows == 0 && view.mask == nullptr));
  CHECK(llama::merged_weights(engine).empty());
  prune(engine);
  const auto path = (folder / "adapter.safetensors").string();
  losa::io::save_adapter(path, llama::adapter_views(engine));
  const auto loaded = losa::io::load_adapter(path);
  CHECK(loaded.size() == 14);
  for (const auto& one : loaded)
    for (std::size_t b = 0; b < 2; ++b)
      for (const auto& layer : engine.linears(b))
        if (layer.name == one.name) {
          CHECK(one.mask == layer.mask());
          CHECK(one.a[1] == layer.adapter().a()(0, 1));
          CHECK(one.scale == layer.adapter().scale());
        }

  // A mask alone is an adapter of rank 0.
  Engine masked(folder / "m", tokens, tokens, {.calibration_sequences = 1, .calibration_context = 8, .context = 8});
  auto& layer = masked.linears(0)[0];
  layer.set_mask(losa::Mask(layer.out(), layer.in()));
  losa::io::save_adapter(path, llama::adapter_views(masked));
  for (const auto& one : losa::io::load_adapter(path)) {
    CHECK(one.rank == 0);
    CHECK(one.mask.has_value() == (one.name == layer.name));
  }
}

TEST_CASE("export: a directory inside the model's is not copied into itself") {
  const toy::Folder folder;
  toy::write_model(folder / "m");
  toy::fs::create_directories(folder / "m/out");
  toy::write_text(folder / "m/out/left", "");
  llama::export_model(folder / "m", folder / "m/out", {});
  CHECK(toy::fs::exists(folder / "m/out/model.safetensors"));
  CHECK_FALSE(toy::fs::exists(folder / "m/out/out"));
}

TEST_CASE("export: weights in other files and what is named as a run's results stay behind") {
  const toy::Folder folder;
  toy::write_model(folder / "m");
  for (const char* file : {"compressed", "adapter", "pytorch_model.bin", "old-00001.safetensors", "a.index.json",
                           "original/consolidated.00.pth", "notes/report.json", "merges.txt"}) {
    toy::fs::create_directories((folder / "m" / file).parent_path());
    toy::write_text(folder / "m" / file, "x");
  }
  toy::fs::create_directories(folder / "m/report.json");
  toy::write_text(folder / "m/report.json/x", "x");
  llama::export_model(folder / "m", folder / "out", {});
  std::set<std::string> written;
  for (const auto& at : toy::fs::recursive_directory_iterator(folder / "out"))
    if (at.is_regular_file()) written.insert(at.path().lexically_relative(folder / "out").string());
  CHECK(written == std::set<std::string>{"config.json", "model.safetensors", "merges.txt", "notes/report.json"});
}

TEST_CASE("export: what cannot be written is refused") {
  const toy::Folder folder;
  toy::write_model(folder / "m");
  std::vector<llama::MergedWeight> merged;
  merged.push_back({"model.layers.9.mlp.up_proj.weight", losa::PackedMatrix<float>(losa::Mask::full(2, 2))});
  CHECK_THROWS_WITH_AS(llama::export_model(folder / "m", folder / "out", merged),
                       doctest::Contains("lacks the merged layer \"model.layers.9.mlp.up_proj.weight\""),
                       losa::FileError);
  toy::write_text(folder / "file", "");
  CHECK_THROWS_AS(llama::export_model(folder / "m", folder / "file/out", {}), losa::FileError);
  CHECK_THROWS_AS(llama::export_model(folder / "none", folder / "out", {}), losa::FileError);
}

TEST_CASE("export: a model above the size of a file is split as transformers does, and is the same model") {
  const toy::Folder folder;
  toy::write_model(folder / "m");
  const auto tokens = toy::tokens(30, 19);
  Engine engine(folder / "m", tokens, tokens, {.calibration_sequences = 1, .calibration_context = 8, .context = 8});
  prune(engine);
  const auto merged = llama::merged_weights(engine);
  llama::export_model(folder / "m", folder / "one", merged);
  for (const bool compress : {false, true}) {
    const auto out = folder / (compress ? "c" : "d");
    llama::export_model(folder / "m", out, merged, {.compress = compress, .shard_bytes = 3000});
    CHECK_FALSE(toy::fs::exists(out / "model.safetensors"));
    std::size_t files = 0;
    for (const auto& entry : toy::fs::directory_iterator(out)) files += entry.path().extension() == ".safetensors";
    CHECK(files > 2);
    char last[64];
    std::snprintf(last, sizeof last, "model-%05zu-of-%05zu.safetensors", files, files);
    CHECK(toy::fs::exists(out / last));
    CHECK(same_bits(logits_of(Model::load(folder / "one"), tokens),
                    logits_of(Model::load(out, {.weights = Weights::dense}), tokens)));
    // A split model is read, and written whole again.
    llama::export_model(out, folder / (compress ? "c1" : "d1"), {});
    CHECK(toy::fs::exists(folder / (compress ? "c1" : "d1") / "model.safetensors"));
    CHECK_FALSE(toy::fs::exists(folder / (compress ? "c1" : "d1") / last));
    CHECK(same_bits(logits_of(Model::load(folder / "one"), tokens),
                    logits_of(Model::load(folder / (compress ? "c1" : "d1")), tokens)));
  }
}

TEST_CASE("export: layers that do not keep to their plan are refused") {
  const toy::Folder folder;
  toy::write_model(folder / "m");
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  const auto tokens = toy::tokens(30, 19);
  Engine engine(folder / "m", tokens, tokens, {.calibration_sequences = 1, .calibration_context = 8, .context = 8});
  auto& layer = engine.linears(0)[llama::up];
  const losa::PackedMatrix<float> full(losa::Mask::full(layer.out(), layer.in()));
  const std::vector<llama::LayerPlan> plan{{name, layer.out(), layer.in(), full.kept() - 1}};
  llama::ModelWriter writer(folder / "m", folder / "out", plan);
  CHECK_THROWS_WITH_AS(writer.put(name, full), doctest::Contains("kept weights"), losa::FileError);
  CHECK_THROWS_WITH_AS(writer.put("other", full), doctest::Contains("was not planned"), losa::FileError);
  CHECK_THROWS_WITH_AS(writer.finish(), doctest::Contains("declared, never written"), losa::FileError);
}
