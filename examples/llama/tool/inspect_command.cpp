// losa-llama inspect: the layers of a model, their shapes, sparsity and ranks.

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <vector>

#include "../model.hpp"
#include "common.hpp"
#include "storage.hpp"

namespace tool {
namespace {

struct InspectArguments {
  Common common;
  std::string model;
};

/// Ranks by layer name from the report.json of an adapted model; empty where there is none.
std::map<std::string, std::size_t> ranks_of(const std::string& directory) {
  std::map<std::string, std::size_t> ranks;
  const std::filesystem::path path = std::filesystem::path(directory) / "report.json";
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return ranks;
  std::ifstream file(path);
  if (!file) return ranks;
  const auto report = nlohmann::json::parse(file, nullptr, false);
  if (!report.is_object() || !report.contains("layers") || !report["layers"].is_array()) return ranks;
  for (const auto& layer : report["layers"])
    if (layer.is_object() && layer.contains("name") && layer["name"].is_string() && layer.contains("rank") &&
        layer["rank"].is_number_unsigned())
      ranks[layer["name"].get<std::string>()] = layer["rank"].get<std::size_t>();
  return ranks;
}

/// A token id, or null.
nlohmann::ordered_json token_json(const std::optional<std::size_t>& token) {
  return token ? nlohmann::ordered_json(*token) : nlohmann::ordered_json();
}

/// The tokens by which text begins and ends, and the one that pads: "begin 1   end 2 3   pad -".
std::string token_words(const llama::Config& config) {
  const auto words = [](const auto& ids) {
    std::string out;
    for (std::size_t id : ids) out += " " + std::to_string(id);
    return out.empty() ? std::string(" -") : out;
  };
  const auto one = [](const std::optional<std::size_t>& id) {
    return id ? std::vector<std::size_t>{*id} : std::vector<std::size_t>{};
  };
  return "begin" + words(one(config.begin)) + "   end" + words(config.ends) + "   pad" + words(one(config.pad));
}

void run_inspect(const InspectArguments& a) {
  Threads pool(a.common);
  const llama::Config config = llama::read_config(a.model);
  note_unmapped(a.model);
  const std::vector<llama::LinearSummary> tensors = llama::inspect(a.model, pool);
  pool.begin_work();
  const auto ranks = ranks_of(a.model);
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  std::size_t weights = 0;
  std::size_t zeros = 0;
  std::size_t stored = 0;    // layers whose mask is in the file
  std::size_t unstored = 0;  // layers with at least a tenth of zeros and no mask
  say(a.common, "layer                                          shape          type   sparsity  rank  mask");
  for (const llama::LinearSummary& tensor : tensors) {
    const std::size_t size = tensor.out * tensor.in;
    weights += size;
    zeros += tensor.zeros;
    const double sparsity = size == 0 ? 0 : static_cast<double>(tensor.zeros) / static_cast<double>(size);
    stored += tensor.compressed;
    unstored += !tensor.compressed && sparsity >= llama::notable_sparsity;
    const auto rank = ranks.find(tensor.name);
    const std::string shape = std::to_string(tensor.out) + " × " + std::to_string(tensor.in);
    char text[256];
    std::snprintf(text, sizeof text, "%-46s %-15s %-6s %8.4f  %4s  %s", tensor.name.c_str(), shape.c_str(),
                  tensor.dtype.c_str(), sparsity, rank == ranks.end() ? "-" : std::to_string(rank->second).c_str(),
                  tensor.compressed ? "stored" : "-");
    say(a.common, text);
    nlohmann::ordered_json entry{{"name", tensor.name},
                                 {"out", tensor.out},
                                 {"in", tensor.in},
                                 {"dtype", tensor.dtype},
                                 {"zeros", tensor.zeros},
                                 {"sparsity", sparsity},
                                 {"compressed", tensor.compressed},
                                 {"mask_stored", tensor.compressed}};
    if (tensor.compressed) entry["kept_zeros"] = tensor.kept_zeros;
    if (rank != ranks.end()) entry["rank"] = rank->second;
    json.push_back(std::move(entry));
  }
  char text[128];
  std::snprintf(text, sizeof text, "all: %zu weights, %zu zeros, sparsity %.6f", weights, zeros,
                weights == 0 ? 0.0 : static_cast<double>(zeros) / static_cast<double>(weights));
  say(a.common, text);
  if (stored != 0)
    say(a.common,
        "masks: stored in " + std::to_string(stored) + " layers; adapt keeps their zeros (--no-keep-mask: not)");
  if (unstored != 0)
    say(a.common, "zeros without a mask: at least a tenth of " + std::to_string(unstored) +
                      " layers; adapt keeps them with --keep-mask, and may move them without");
  say(a.common, "tokens: " + token_words(config));
  write_json(a.common, {{"layers", std::move(json)},
                        {"weights", weights},
                        {"zeros", zeros},
                        {"masks_stored", stored},
                        {"sparse_without_mask", unstored},
                        {"sparsity", weights == 0 ? 0.0 : static_cast<double>(zeros) / static_cast<double>(weights)},
                        {"bos_token_id", token_json(config.begin)},
                        {"eos_token_id", config.ends},
                        {"pad_token_id", token_json(config.pad)}});
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto a = std::make_shared<InspectArguments>();
  CLI::App* sub =
      app.add_subcommand("inspect", "Layers of a model: shapes, types, sparsity, ranks; tokens that end a text");
  sub->footer("Example:\n  losa-llama inspect --model tiny-70 --json layers.json");
  sub->add_option("--model", a->model, "Hugging Face directory: dense, merged or compressed")->required();
  add_common(*sub, a->common);
  sub->callback([a] { run_inspect(*a); });
}

}  // namespace tool
