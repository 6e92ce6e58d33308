#pragma once
// report.json of an adaptation run, and the lines of it that a person sees.

#include <losa/adapt/report.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "../adapt_engine.hpp"
#include "../side_files.hpp"

namespace tool {

/// A layer as the report lists it.
struct ReportLayer {
  std::string name;
  std::size_t block = 0;
  std::size_t out = 0, in = 0, zeros = 0, rank = 0;
};

/// Deterministic: the same run gives the same text, whatever the number of threads.
nlohmann::ordered_json report_json(const std::vector<ReportLayer>& layers, std::size_t blocks,
                                   const losa::AdaptReport& report);

template <losa::Adapter A>
nlohmann::ordered_json report_json(llama::AdaptEngine<A>& engine, const losa::AdaptReport& report) {
  std::vector<ReportLayer> layers;
  for (std::size_t b = 0; b < engine.blocks(); ++b)
    for (auto& linear : engine.linears(b))
      layers.push_back({linear.name, b, linear.out(), linear.in(), linear.zeros(),
                        linear.has_adapter() ? linear.adapter().rank() : 0});
  return report_json(layers, engine.blocks(), report);
}

/// Sets "left_out", what of the model's directory was not copied ([{name, files, bytes, why}]), and "single_copy", what
/// compressed/ leaves to the directory above.
void add_side_files(nlohmann::ordered_json& run, const llama::SideFiles& files);

/// What is printed at the end.
std::vector<std::string> summary(const nlohmann::ordered_json& report);

}  // namespace tool
