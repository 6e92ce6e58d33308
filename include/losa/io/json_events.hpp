#pragma once
// Strict reading of JSON that a file may lie in: events in order, no tree. A key that an object has twice (unless the
// handler has a rule for it), nesting deeper than a limit and anything that is not JSON are refused with a sentence;
// memory is linear in the text and the stack does not grow with the nesting.
//
//   losa::detail::parse_json(text, "config.json", 8, handler);
//
// The handler has enter(bool object), leave(), key(std::string&) and scalar(const JsonScalar&). One with a member
// `static constexpr bool repeats = true` takes keys that an object has twice.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include <nlohmann/json.hpp>

#include <losa/core/error.hpp>

namespace losa::inline v0::detail {

/// A name from a file, made fit for a one-line sentence: quoted, control characters replaced, cut after 200 bytes.
inline std::string quote_name(std::string_view name) {
  std::string out = "\"";
  for (char c : name.substr(0, 200)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  if (name.size() > 200) out += "...";
  out += '"';
  return out;
}

/// A JSON value that is neither object nor array.
struct JsonScalar {
  enum class Kind { null, boolean, whole /* 0 … 2⁶⁴ − 1 */, number /* any other */, string };
  Kind kind = Kind::null;
  bool boolean = false;
  std::uint64_t whole = 0;
  double number = 0;
  std::string_view text;  // of a string; valid during the call
};

/// The SAX interface of nlohmann-json, reduced to four events.
template <class Handler>
class JsonEvents {
 public:
  JsonEvents(std::string_view where, std::size_t depth_limit, Handler& handler)
      : where_(where), depth_limit_(depth_limit), handler_(handler) {}

  bool null() { return pass({}); }
  bool boolean(bool value) { return pass({.kind = JsonScalar::Kind::boolean, .boolean = value, .text = {}}); }
  bool number_integer(std::int64_t value) {  // only called for negative numbers
    return pass({.kind = JsonScalar::Kind::number, .number = static_cast<double>(value), .text = {}});
  }
  bool number_unsigned(std::uint64_t value) {
    return pass({.kind = JsonScalar::Kind::whole, .whole = value, .number = static_cast<double>(value), .text = {}});
  }
  bool number_float(double value, const std::string&) {
    return pass({.kind = JsonScalar::Kind::number, .number = value, .text = {}});
  }
  bool string(std::string& value) { return pass({.kind = JsonScalar::Kind::string, .text = value}); }
  bool binary(nlohmann::json::binary_t&) { return false; }
  bool start_object(std::size_t) { return enter(true); }
  bool start_array(std::size_t) { return enter(false); }
  bool end_object() { return leave(); }
  bool end_array() { return leave(); }
  bool key(std::string& name) {
    if constexpr (!requires { requires Handler::repeats; })
      if (!keys_.back().insert(name).second)
        raise<FileError>(where_, ": JSON key ", quote_name(name), " appears twice");
    handler_.key(name);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) {
    raise<FileError>(where_, ": not valid JSON at byte ", position);
  }

 private:
  bool pass(const JsonScalar& value) {
    handler_.scalar(value);
    return true;
  }
  bool enter(bool object) {
    if (keys_.size() == depth_limit_)
      raise<FileError>(where_, ": JSON is nested deeper than ", depth_limit_, " levels");
    keys_.emplace_back();
    handler_.enter(object);
    return true;
  }
  bool leave() {
    keys_.pop_back();
    handler_.leave();
    return true;
  }

  std::string_view where_;
  std::size_t depth_limit_;
  Handler& handler_;
  std::vector<std::unordered_set<std::string>> keys_;  // of the objects that are open
};

/// The parser takes a NUL for the end of the text.
inline void refuse_nul(std::string_view text, std::string_view where) {
  if (const std::size_t at = text.find('\0'); at != text.npos)
    raise<FileError>(where, ": not valid JSON at byte ", at + 1, ", a NUL");
}

/// Feeds the events of `text` to the handler. Throws FileError, its sentence starting with `where`, if the text is not
/// JSON, repeats a key or nests deeper than `depth_limit`.
template <class Handler>
void parse_json(std::string_view text, std::string_view where, std::size_t depth_limit, Handler& handler) {
  refuse_nul(text, where);
  if (text.starts_with("\xef\xbb\xbf"))  // which the parser passes over
    raise<FileError>(where, ": not valid JSON at byte 1, a byte-order mark");
  JsonEvents<Handler> events(where, depth_limit, handler);
  nlohmann::json::sax_parse(text.begin(), text.end(), &events);
}

/// `text` in JSON's quotes. Throws FileError if it is not UTF-8.
inline std::string json_string(std::string_view text, std::string_view where) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    raise<FileError>(where, ": ", quote_name(text), " is not UTF-8");
  }
}

}  // namespace losa::inline v0::detail
