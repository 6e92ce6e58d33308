#pragma once
// A JSON document as a tree, its members in their order. What an object says twice must be said alike: many readers
// take the last of two members of one name, and a file must not mean two things.
//
//   nlohmann::ordered_json config = losa::detail::parse_json_document(text, "config.json", 64);

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <losa/core/error.hpp>
#include <losa/io/json_events.hpp>

namespace losa::inline v0::detail {

/// The SAX interface of nlohmann-json, building a tree.
class JsonTree {
 public:
  using Json = nlohmann::ordered_json;

  JsonTree(std::string_view where, std::size_t depth_limit) : where_(where), depth_limit_(depth_limit) {}

  bool null() { return put(nullptr); }
  bool boolean(bool value) { return put(value); }
  bool number_integer(std::int64_t value) { return put(value); }
  bool number_unsigned(std::uint64_t value) { return put(value); }
  bool number_float(double value, const std::string&) { return put(value); }
  bool string(std::string& value) { return put(std::move(value)); }
  bool binary(nlohmann::json::binary_t&) { return false; }
  bool start_object(std::size_t) { return enter(Json::object()); }
  bool start_array(std::size_t) { return enter(Json::array()); }
  bool end_object() { return leave(); }
  bool end_array() { return leave(); }
  bool key(std::string& name) {
    open_.back().name = std::move(name);
    return true;
  }
  bool parse_error(std::size_t position, const std::string& last, const nlohmann::json::exception&) {
    // As Python writes them; of "\N" in a string it is the escape that is wrong.
    const bool named = (last.ends_with('N') || last.ends_with('I')) && !last.ends_with("\\N") && !last.ends_with("\\I");
    raise<FileError>(where_, ": not valid JSON at byte ", position,
                     named ? " (NaN and Infinity are no JSON: write null, or a number)" : "");
  }

  Json take() { return std::move(root_); }

 private:
  struct Open {
    Json value;
    std::string name = {};                                        // of the member that comes next
    std::unordered_map<std::string, std::size_t> positions = {};  // of the members: a search would be linear
  };

  bool enter(Json value) {
    if (open_.size() == depth_limit_)
      raise<FileError>(where_, ": JSON is nested deeper than ", depth_limit_, " levels");
    open_.push_back({.value = std::move(value)});
    return true;
  }
  bool leave() {
    Json value = std::move(open_.back().value);
    open_.pop_back();
    return put(std::move(value));
  }
  bool put(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return true;
    }
    Open& parent = open_.back();
    if (parent.value.is_array()) {
      parent.value.push_back(std::move(value));
      return true;
    }
    Json::object_t::Container& members = parent.value.get_ref<Json::object_t&>();
    const auto [position, fresh] = parent.positions.emplace(parent.name, members.size());
    if (fresh)
      members.emplace_back(parent.name, std::move(value));
    else if (members[position->second].second != value)
      raise<FileError>(where_, ": JSON key ", quote_name(parent.name), " appears twice, with different values");
    return true;
  }

  std::string_view where_;
  std::size_t depth_limit_;
  std::vector<Open> open_;
  Json root_;
};

/// The document in `text`. Throws FileError, its sentence starting with `where`, if the text is not JSON, nests deeper
/// than `depth_limit`, or gives two different values to one key of an object.
inline nlohmann::ordered_json parse_json_document(std::string_view text, std::string_view where,
                                                  std::size_t depth_limit) {
  if (text.find_first_not_of(" \t\r\n") == text.npos) raise<FileError>(where, ": is empty, not JSON");
  refuse_nul(text, where);
  JsonTree tree(where, depth_limit);
  nlohmann::json::sax_parse(text.begin(), text.end(), &tree);
  return tree.take();
}

}  // namespace losa::inline v0::detail
