#include "adapt_report.hpp"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <limits>
#include <losa/version.hpp>

#include "common.hpp"
#include "notes.hpp"
#include "perplexity.hpp"

namespace tool {

using Json = nlohmann::ordered_json;

nlohmann::ordered_json report_json(const std::vector<ReportLayer>& layers, std::size_t blocks,
                                   const losa::AdaptReport& report) {
  Json json;
  json["losa"] = LOSA_VERSION_STRING;
  std::size_t weights = 0;
  std::size_t zeros = 0;
  for (const ReportLayer& layer : layers) {
    weights += layer.out * layer.in;
    zeros += layer.zeros;
  }
  json["weights"] = weights;
  json["zeros"] = zeros;
  json["sparsity"] = static_cast<double>(zeros) / static_cast<double>(weights);
  json["trainable_parameters"] = report.trainable_parameters;

  Json listed = Json::array();
  for (const ReportLayer& layer : layers)
    listed.push_back({{"name", layer.name},
                      {"block", layer.block},
                      {"out", layer.out},
                      {"in", layer.in},
                      {"zeros", layer.zeros},
                      {"sparsity", static_cast<double>(layer.zeros) / static_cast<double>(layer.out * layer.in)},
                      {"rank", layer.rank}});
  json["layers"] = std::move(listed);

  Json steps = Json::array();
  for (std::size_t t = 0; t < report.steps.size(); ++t) {
    const losa::AdaptStep& step = report.steps[t];
    std::vector<std::size_t> block_zeros(blocks), block_weights(blocks);
    std::vector<double> block_rank(blocks), block_layers(blocks);
    for (std::size_t l = 0; l < layers.size(); ++l) {
      block_zeros[layers[l].block] += static_cast<std::size_t>(step.zeros[l]);
      block_weights[layers[l].block] += layers[l].out * layers[l].in;
      block_rank[layers[l].block] += step.rank.empty() ? 0.0 : static_cast<double>(step.rank[l]);
      block_layers[layers[l].block] += 1;
    }
    Json listed_blocks = Json::array();
    for (std::size_t b = 0; b < blocks; ++b) {
      const bool adapted = block_weights[b] != 0;
      Json block{
          {"sparsity", adapted ? static_cast<double>(block_zeros[b]) / static_cast<double>(block_weights[b]) : 0},
          {"error", step.error[b]},
          {"rank", adapted ? block_rank[b] / block_layers[b] : 0}};
      if (!step.importance.empty()) block["importance"] = step.importance[b];
      listed_blocks.push_back(std::move(block));
    }
    Json rmi = Json::array();
    for (std::size_t i = 0; !step.rmi.empty() && i < blocks; ++i)
      rmi.push_back(std::vector<double>(step.rmi.begin() + static_cast<std::ptrdiff_t>(i * blocks),
                                        step.rmi.begin() + static_cast<std::ptrdiff_t>((i + 1) * blocks)));
    steps.push_back({{"step", t + 1},
                     {"target", step.target},
                     {"blocks", std::move(listed_blocks)},
                     {"zeros", step.zeros},
                     {"rank", step.rank},
                     {"rmi", std::move(rmi)}});
  }
  json["steps"] = std::move(steps);
  json["loss"] = report.loss;
  return json;
}

void add_side_files(nlohmann::ordered_json& run, const llama::SideFiles& files) {
  run["left_out"] = Json::array();
  for (const llama::LeftOut& one : files.left_out)
    run["left_out"].push_back({{"name", one.name}, {"files", one.files}, {"bytes", one.bytes}, {"why", one.why}});
  run["single_copy"] = Json::array();
  for (const llama::SideFile& one : files.copied)
    if (one.bytes > llama::small_file) run["single_copy"].push_back(one.name);
}

namespace {

/// "2 files (4.3 GB): model.onnx_data (4.2 GB), original/consolidated.00.pth (100.0 MB)", the largest first.
std::string left_out_text(const Json& left_out) {
  constexpr std::size_t most_names = 5, longest_name = 60;
  std::vector<const Json*> entries;
  std::size_t files = 0, bytes = 0;
  for (const Json& one : left_out) {
    entries.push_back(&one);
    files += one.at("files").get<std::size_t>();
    bytes += one.at("bytes").get<std::size_t>();
  }
  const auto size = [](const Json* one) { return one->at("bytes").get<std::size_t>(); };
  std::ranges::stable_sort(entries, std::greater<>(), size);
  std::string text =
      std::to_string(files) + (files == 1 ? " file (" : " files (") + bytes_text(static_cast<double>(bytes)) + "): ";
  for (std::size_t i = 0; i < std::min(entries.size(), most_names); ++i) {
    std::string name = entries[i]->at("name").get<std::string>();
    if (name.size() > longest_name) name = "…" + name.substr(name.size() - longest_name);
    text += (i == 0 ? "" : ", ") + name + " (" + bytes_text(static_cast<double>(size(entries[i]))) + ")";
  }
  if (entries.size() > most_names) text += " and more, in report.json";
  return one_line(text);
}

}  // namespace

std::vector<std::string> summary(const nlohmann::ordered_json& report) {
  std::vector<std::string> lines;
  char text[160];
  const auto zeros = report.at("zeros").get<std::size_t>();
  const auto weights = report.at("weights").get<std::size_t>();
  std::snprintf(text, sizeof text, "zeros        %zu of %zu block weights (%.4f %%)", zeros, weights,
                100.0 * static_cast<double>(zeros) / static_cast<double>(weights));
  lines.emplace_back(text);
  if (report.at("run").contains("damping")) {
    const auto& damping = report.at("run").at("damping");
    std::snprintf(text, sizeof text,
                  "damping      raised for %zu layers, up to %g: their Hessians were not positive definite",
                  damping.at("layers_raised").get<std::size_t>(), damping.at("largest").get<double>());
    lines.emplace_back(text);
  }
  const auto& loss = report.at("loss");
  if (!loss.empty()) {
    std::snprintf(text, sizeof text, "trained      %zu steps, %zu parameters, loss %.3f → %.3f", loss.size(),
                  report.at("trainable_parameters").get<std::size_t>(), loss.front().get<double>(),
                  loss.back().get<double>());
    lines.emplace_back(text);
  }
  if (report.contains("hold_out")) {
    const auto& held = report.at("hold_out");
    const auto& mean = held.at("mean_nll");
    const double nll = mean.is_null() ? std::numeric_limits<double>::quiet_NaN() : mean.get<double>();
    std::string line = "held out     " + perplexity_text(nll, 3);
    if (held.contains("perplexity_overflows")) {
      std::snprintf(text, sizeof text, " (mean nll %.5f)", nll);
      line += text;
    }
    lines.push_back(line + " on " + std::to_string(held.at("tokens").get<std::size_t>()) + " tokens");
  }
  const auto& run = report.at("run");
  if (!run.at("left_out").empty()) lines.push_back("left out     " + left_out_text(run.at("left_out")));
  if (!run.at("single_copy").empty()) {
    std::string names;
    for (const Json& name : run.at("single_copy")) names += (names.empty() ? "" : ", ") + name.get<std::string>();
    lines.push_back(one_line("one copy     " + names + ": not again in compressed/"));
  }
  return lines;
}

}  // namespace tool
