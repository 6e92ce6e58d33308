#pragma once
// The entry of config.json by which loaders recognise a compressed checkpoint:
//
//   "quantization_config": {"version": "0.14.0.1",
//     "sparsity_config": {"format": "sparse-bitmask", "global_sparsity": 0.7, "sparsity_structure": "unstructured",
//                         "targets": ["model.layers.0.mlp.up_proj", ...], "ignore": []}}
//
// compressed-tensors up to 0.14.0.1 reads it so. There is no "quant_method": without one, transformers refuses to load
// the model (vLLM and llama.cpp's converter refuse it too). With "compressed-tensors", today's versions, which no
// longer know the layout, would go on with random weights; with a name they do not know, so would transformers. A call
// that overrides the entry (from_pretrained(…, quantization_config=None)) would load random weights too: so
// "transformers_weights" names a file that is not there, and transformers ends with that name.
//
//   std::string text = losa::io::add_sparsity_config(config, {.global_sparsity = 0.7, .targets = modules});

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <losa/core/error.hpp>
#include <losa/io/json_document.hpp>
#include <losa/io/json_events.hpp>

namespace losa::inline v0::io {

struct SparsityConfig {
  std::string format = "sparse-bitmask";
  double global_sparsity = 0;                       // zeros / weights over the targets
  std::string sparsity_structure = "unstructured";  // or "2:4", "4:8", …
  std::vector<std::string> targets = {};            // modules: the names of their weights without ".weight"
  std::vector<std::string> ignore = {};
};

/// The value of "transformers_weights" in a compressed checkpoint.
inline constexpr std::string_view no_transformers_weights = "transformers-cannot-read-sparse-bitmask.safetensors";

}  // namespace losa::inline v0::io

namespace losa::inline v0::detail {

/// A small JSON document, an object. Throws as parse_json_document.
inline nlohmann::ordered_json parse_document(std::string_view text, std::string_view where) {
  nlohmann::ordered_json document = parse_json_document(text, where, 64);
  if (!document.is_object()) raise<FileError>(where, ": is not a JSON object");
  return document;
}

/// True for what says nothing: null, false, "", [], {}.
inline bool says_nothing(const nlohmann::ordered_json& value) {
  return value.is_null() || value == false || value == "" || (value.is_structured() && value.empty());
}

inline std::vector<std::string> string_list(const nlohmann::ordered_json& object, const char* key,
                                            std::string_view where) {
  std::vector<std::string> list;
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return list;
  if (!found->is_array()) raise<FileError>(where, ": ", key, " of sparsity_config must be an array of strings");
  for (const auto& item : *found) {
    if (!item.is_string()) raise<FileError>(where, ": ", key, " of sparsity_config must be an array of strings");
    list.push_back(item.template get<std::string>());
  }
  return list;
}

}  // namespace losa::inline v0::detail

namespace losa::inline v0::io {

/// `config` (the text of a config.json) with the entry added or replaced; everything else keeps its place and value.
/// Throws FileError, its sentence starting with `where`, if the text is not a JSON object.
inline std::string add_sparsity_config(std::string_view config, const SparsityConfig& sparsity,
                                       std::string_view where = "config.json") {
  nlohmann::ordered_json document = detail::parse_document(config, where);
  document.erase("compression_config");
  document["quantization_config"] = {{"version", "0.14.0.1"},
                                     {"sparsity_config",
                                      {{"format", sparsity.format},
                                       {"global_sparsity", sparsity.global_sparsity},
                                       {"sparsity_structure", sparsity.sparsity_structure},
                                       {"targets", sparsity.targets},
                                       {"ignore", sparsity.ignore}}}};
  document["transformers_weights"] = no_transformers_weights;
  return document.dump(2) + "\n";
}

/// `config` without the entry, for a checkpoint that is dense: some loaders refuse any. The same bytes if it has none.
/// Throws as add_sparsity_config.
inline std::string remove_sparsity_config(std::string_view config, std::string_view where = "config.json") {
  nlohmann::ordered_json document = detail::parse_document(config, where);
  bool there = document.erase("quantization_config") + document.erase("compression_config") != 0;
  if (const auto weights = document.find("transformers_weights");
      weights != document.end() && *weights == no_transformers_weights) {
    document.erase(weights);
    there = true;
  }
  return there ? document.dump(2) + "\n" : std::string(config);
}

/// The entry in the text of a config.json, from `quantization_config` or its older name `compression_config`; nothing
/// if the checkpoint is dense. Throws FileError if the checkpoint is quantised or compressed in a way that this library
/// does not read, or if the entry is not well formed.
inline std::optional<SparsityConfig> find_sparsity_config(std::string_view config,
                                                          std::string_view where = "config.json") {
  const nlohmann::ordered_json document = detail::parse_document(config, where);
  auto entry = document.find("quantization_config");
  if (entry == document.end() || entry->is_null()) entry = document.find("compression_config");
  if (entry == document.end() || entry->is_null()) return std::nullopt;
  if (!entry->is_object()) detail::raise<FileError>(where, ": quantization_config must be an object");
  // What else stands there matters only if it says that weights are quantised.
  if (const auto method = entry->find("quant_method");
      method != entry->end() && !detail::says_nothing(*method) && *method != "compressed-tensors")
    detail::raise<FileError>(where, ": quant_method must be \"compressed-tensors\", got ",
                             detail::quote_name(method->is_string() ? method->get<std::string>() : method->dump()));
  for (const char* key : {"config_groups", "kv_cache_scheme", "transform_config"})
    if (const auto value = entry->find(key); value != entry->end() && !detail::says_nothing(*value))
      detail::raise<FileError>(where, ": quantization_config holds ", detail::quote_name(key),
                               ": quantised weights cannot be read");
  const auto found = entry->find("sparsity_config");
  if (found == entry->end() || detail::says_nothing(*found)) return std::nullopt;
  if (!found->is_object()) detail::raise<FileError>(where, ": sparsity_config must be an object");

  SparsityConfig sparsity;
  const auto format = found->find("format");
  if (format == found->end() || !format->is_string())
    detail::raise<FileError>(where, ": format of sparsity_config must be a string");
  sparsity.format = format->get<std::string>();
  if (sparsity.format == "dense") return std::nullopt;
  if (sparsity.format != "sparse-bitmask")
    detail::raise<FileError>(where, ": format of sparsity_config must be \"sparse-bitmask\" or \"dense\", got ",
                             detail::quote_name(sparsity.format));
  if (const auto value = found->find("global_sparsity"); value != found->end() && !value->is_null()) {
    if (!value->is_number() || !(value->get<double>() >= 0 && value->get<double>() <= 1))
      detail::raise<FileError>(where, ": global_sparsity of sparsity_config must be in [0, 1], got ",
                               detail::quote_name(value->dump()));
    sparsity.global_sparsity = value->get<double>();
  }
  if (const auto value = found->find("sparsity_structure"); value != found->end() && !value->is_null()) {
    if (!value->is_string())
      detail::raise<FileError>(where, ": sparsity_structure of sparsity_config must be a string");
    sparsity.sparsity_structure = value->get<std::string>();
  }
  sparsity.targets = detail::string_list(*found, "targets", where);
  sparsity.ignore = detail::string_list(*found, "ignore", where);
  return sparsity;
}

}  // namespace losa::inline v0::io
