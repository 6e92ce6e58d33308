#pragma once
// How the four parts of a compressed tensor are called. compressed-tensors has written two layouts:
//
//   now (and ours)   X.weight  →  X.shape, X.bitmask, X.row_offsets, X.compressed       linear layers alone
//   0.8              NAME      →  NAME.shape, NAME.bitmask, NAME.row_offsets, NAME.compressed     every tensor
//
//   losa::io::compressed_prefix(checkpoint, "model.norm.weight");      // "model.norm.weight", "model.norm" or ""
//   losa::io::compressed_owner("model.norm.weight.bitmask");           // "model.norm.weight"

#include <array>
#include <concepts>
#include <string>
#include <string_view>

#include <losa/core/error.hpp>
#include <losa/io/json_events.hpp>
#include <losa/io/tensor.hpp>

namespace losa::inline v0::io {

/// Anything that finds tensors by name: SafetensorsFile, ShardedCheckpoint.
template <class Source>
concept TensorSource = requires(const Source& source, std::string_view name) {
  { source.find(name) } -> std::convertible_to<const Tensor*>;
  { source.at(name) } -> std::convertible_to<const Tensor&>;
};

/// The endings of the parts.
inline constexpr std::array<std::string_view, 4> compressed_parts = {".compressed", ".bitmask", ".row_offsets",
                                                                     ".shape"};

/// What the names of the parts of `tensor` begin with, in whichever layout they are there; empty if it is not stored
/// compressed. Throws FileError if both layouts are there.
template <TensorSource Source>
std::string compressed_prefix(const Source& source, std::string_view tensor) {
  constexpr std::string_view weight = ".weight";
  const std::string whole(tensor);
  const std::string module(tensor.ends_with(weight) ? tensor.substr(0, tensor.size() - weight.size()) : "");
  const bool in_module = !module.empty() && source.find(module + ".compressed") != nullptr;
  const bool in_whole = source.find(whole + ".compressed") != nullptr;
  if (in_module && in_whole)
    detail::raise<FileError>(*source.at(whole + ".compressed").file, ": tensor ", detail::quote_name(tensor),
                             " is compressed twice, as ", detail::quote_name(module + ".compressed"), " and as ",
                             detail::quote_name(whole + ".compressed"));
  return in_module ? module : in_whole ? whole : std::string();
}

/// The tensor that `part` is a part of, by its name alone; empty if the name has none of the endings.
inline std::string compressed_owner(std::string_view part) {
  for (std::string_view ending : compressed_parts) {
    if (!part.ends_with(ending) || part.size() == ending.size()) continue;
    const std::string_view prefix = part.substr(0, part.size() - ending.size());
    const bool whole = prefix.ends_with(".weight") || prefix.ends_with(".bias");
    return std::string(prefix) + (whole ? "" : ".weight");
  }
  return {};
}

}  // namespace losa::inline v0::io
