#pragma once
// Values from a JSON file, made fit for the one line of an error: printable, short.

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace llama::detail {

inline std::string quoted_word(std::string_view word) {
  std::string out = "\"";
  for (char c : word.substr(0, 60)) out += (c >= 0x20 && c < 0x7f) ? c : '?';
  return out + (word.size() > 60 ? "…\"" : "\"");
}

/// `json` is a nlohmann::json or nlohmann::ordered_json.
template <class Json>
std::string shown(const Json& json) {
  if (json.is_string()) return quoted_word(json.template get_ref<const std::string&>());
  if (json.is_boolean()) return json.template get<bool>() ? "true" : "false";
  if (json.is_number()) return json.dump();
  return json.is_object() ? "an object" : json.is_array() ? "an array" : "null";
}

}  // namespace llama::detail
