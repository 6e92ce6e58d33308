#include "config.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <losa/core/error.hpp>
#include <losa/io/compressed_config.hpp>
#include <losa/io/directory_hints.hpp>
#include <losa/io/file_kind.hpp>
#include <losa/io/json_document.hpp>
#include <losa/io/mapped_file.hpp>

#include "json_text.hpp"

namespace llama {

using detail::quoted_word;
using detail::shown;
using losa::detail::raise;
using losa::detail::text;
using Json = nlohmann::ordered_json;

std::pair<std::size_t, std::size_t> linear_shape(const Config& c, std::size_t which) {
  switch (which) {
    case query:
      return {c.query_width(), c.hidden};
    case key:
    case value:
      return {c.kv_width(), c.hidden};
    case output:
      return {c.hidden, c.query_width()};
    case gate:
    case up:
      return {c.intermediate, c.hidden};
    case down:
      return {c.hidden, c.intermediate};
    default:
      raise<losa::RangeError>("linear_shape: a block has ", std::size_t{linears_per_block}, " linears, got ", which);
  }
}

std::string block_tensor(std::size_t block, std::string_view name) { return text("model.layers.", block, ".", name); }

std::string linear_tensor(std::size_t block, std::size_t which) {
  return text("model.layers.", block, ".", linear_names[which], ".weight");
}

std::string bias_tensor(std::size_t block, std::size_t which) {
  return text("model.layers.", block, ".", linear_names[which], ".bias");
}

namespace {

// Reads one object field by field; a field that is absent or null gives the default.
class Reader {
 public:
  Reader(const Json& object, std::string_view where) : object_(object), where_(where) {}

  const Json* find(const char* name) const {
    const auto at = object_.find(name);
    return at == object_.end() || at->is_null() ? nullptr : &*at;
  }

  [[noreturn]] void wrong_type(const char* name, std::string_view expected, const Json& got) const {
    raise<losa::FileError>(where_, ": ", name, " must be ", expected, ", got ", shown(got));
  }

  std::size_t size(const char* name, std::size_t most, std::size_t absent = 0) const {
    const Json* j = find(name);
    if (j == nullptr) {
      if (absent == 0) raise<losa::FileError>(where_, ": ", name, " is missing");
      return absent;
    }
    if (!j->is_number_integer()) wrong_type(name, "an integer", *j);
    if (!j->is_number_unsigned() || j->get<std::uint64_t>() < 1 || j->get<std::uint64_t>() > most)
      raise<losa::RangeError>(where_, ": ", name, " must be in [1, ", most, "], got ", shown(*j));
    return j->get<std::size_t>();
  }

  double number(const char* name, double absent, double above, double below) const {
    const Json* j = find(name);
    if (j == nullptr) return absent;
    if (!j->is_number()) wrong_type(name, "a number", *j);
    const double got = j->get<double>();
    if (!(got > above && got < below))
      raise<losa::RangeError>(where_, ": ", name, " must lie between ", above, " and ", below, ", got ", shown(*j));
    return got;
  }

  double needed(const char* name, double least, double most) const {
    const Json* j = find(name);
    if (j == nullptr) raise<losa::FileError>(where_, ": ", name, " is missing");
    if (!j->is_number()) wrong_type(name, "a number", *j);
    const double got = j->get<double>();
    if (!(got >= least && got <= most))
      raise<losa::RangeError>(where_, ": ", name, " must be in [", least, ", ", most, "], got ", shown(*j));
    return got;
  }

  bool boolean(const char* name, bool absent) const {
    const Json* j = find(name);
    if (j == nullptr) return absent;
    if (!j->is_boolean()) wrong_type(name, "true or false", *j);
    return j->get<bool>();
  }

  void must_be_false(const char* name) const {
    if (boolean(name, false))
      raise<losa::UnsupportedError>(where_, ": ", name, " is true, which this engine does not support");
  }

  void must_be_one(const char* name) const {
    if (find(name) != nullptr && number(name, 1, -1e300, 1e300) != 1.0)
      raise<losa::UnsupportedError>(where_, ": ", name, " ", shown(*find(name)), " is not supported; supported: 1");
  }

  // A field that must hold one of a few words; another word is refused by name.
  std::string word(const char* name, std::initializer_list<std::string_view> known) const {
    const Json* j = find(name);
    if (j == nullptr) return {};
    if (!j->is_string()) wrong_type(name, "a string", *j);
    for (std::string_view k : known)
      if (j->get_ref<const std::string&>() == k) return std::string(k);
    std::string list;
    for (std::string_view k : known) list += (list.empty() ? "" : ", ") + std::string(k);
    raise<losa::UnsupportedError>(where_, ": ", name, " ", shown(*j), " is not supported; supported: ", list);
  }

  // Token ids: one, or with `several` a list of them. Of an id that is negative or outside the vocabulary nothing is
  // kept, since no text holds it (tools write −1 for "none"); transformers loads such a model.
  std::vector<std::size_t> ids(const char* name, std::size_t vocabulary, bool several) const {
    std::vector<std::size_t> out;
    const Json* j = find(name);
    if (j == nullptr) return out;
    const auto one = [&](const Json& id) {
      if (!id.is_number() || id.get<double>() != std::floor(id.get<double>()))
        wrong_type(name, several ? "a token id, a list of token ids or null" : "a token id or null", id);
      if (id.get<double>() >= 0 && id.get<double>() < static_cast<double>(vocabulary))
        out.push_back(id.get<std::size_t>());
    };
    if (several && j->is_array())
      for (const Json& id : *j) one(id);
    else
      one(*j);
    return out;
  }

  std::optional<std::size_t> id(const char* name, std::size_t vocabulary) const {
    const auto found = ids(name, vocabulary, false);
    return found.empty() ? std::nullopt : std::optional(found.front());
  }

  std::string_view where() const { return where_; }

 private:
  const Json& object_;
  std::string_view where_;
};

// model_type decides, as in transformers; architectures is asked only where that is missing.
void check_architecture(const Reader& r) {
  if (!r.word("model_type", {"llama"}).empty()) return;
  const Json* list = r.find("architectures");
  if (list == nullptr)
    raise<losa::FileError>(r.where(), ": neither model_type nor architectures says what this model is");
  const Json names = list->is_array() ? *list : Json::array({*list});
  if (std::ranges::find(names, Json("LlamaForCausalLM")) == names.end())
    raise<losa::UnsupportedError>(r.where(), ": model_type is missing, and architectures is ",
                                  names.empty() ? "empty" : shown(names.front()), "; supported: LlamaForCausalLM");
}

// Every layer looks at all tokens before it, and at none after it; and so it does in the Llama of transformers 5.24,
// whatever window the configuration gives and whichever layers it names.
void check_attention(const Reader& r) {
  if (!r.boolean("is_causal", true))
    raise<losa::UnsupportedError>(r.where(), ": is_causal is false (a token sees those after it), which this engine ",
                                  "does not support");
  for (const char* field : {"sliding_window", "attention_chunk_size"})
    if (const Json* window = r.find(field); window != nullptr && !window->is_number())
      r.wrong_type(field, "a number or null", *window);
  const Json* types = r.find("layer_types");
  if (types != nullptr && !types->is_array()) r.wrong_type("layer_types", "a list of words", *types);
  if (types != nullptr)
    for (const Json& type : *types)
      if (type != "full_attention" && type != "sliding_attention" && type != "chunked_attention")
        raise<losa::UnsupportedError>(r.where(), ": layer_types holds ", shown(type),
                                      ", which is not supported; supported: full_attention");
  const Json* layers = r.find("per_layer_config");
  if (layers != nullptr && !layers->empty())
    raise<losa::UnsupportedError>(r.where(), ": per_layer_config (layers of different sizes) is not supported");
}

// `r` is rope_scaling or rope_parameters, `outer` the whole configuration, whose original_max_position_embeddings wins.
// `dynamic` stretches frequencies for texts longer than max_position_embeddings alone, which this engine refuses.
RopeScaling read_scaling(const Reader& r, const Reader& outer, std::size_t positions) {
  const auto known = {std::string_view("default"), std::string_view("none"), std::string_view("dynamic"),
                      std::string_view("linear"), std::string_view("llama3")};
  const std::string type = r.word(r.find("rope_type") != nullptr ? "rope_type" : "type", known);
  RopeScaling scaling;
  if (type != "linear" && type != "llama3") return scaling;
  scaling.factor = r.needed("factor", 1, 1e6);
  if (type == "linear") {
    scaling.kind = RopeScaling::Kind::linear;
    return scaling;
  }
  scaling.kind = RopeScaling::Kind::llama3;
  scaling.low_frequency = r.needed("low_freq_factor", 1e-6, 1e6);
  scaling.high_frequency = r.needed("high_freq_factor", 1e-6, 1e6);
  if (!(scaling.low_frequency < scaling.high_frequency))
    raise<losa::RangeError>(r.where(), ": low_freq_factor ", scaling.low_frequency, " must be below high_freq_factor ",
                            scaling.high_frequency);
  constexpr const char* first = "original_max_position_embeddings";
  const Reader& says = outer.find(first) != nullptr ? outer : r;
  scaling.first_context = says.find(first) == nullptr ? static_cast<double>(positions) : says.needed(first, 1, 1 << 24);
  return scaling;
}

// Rotary embedding in both spellings: rope_theta beside rope_scaling, or both inside rope_parameters. Where they
// differ, it is as in transformers 5.24: rope_scaling is asked alone if it holds anything, and an inner rope_theta
// wins.
void read_rope(const Reader& r, Config& config) {
  config.rope_theta = r.number("rope_theta", config.rope_theta, 0, 1e12);
  const auto holds = [&](const char* field) {
    const Json* j = r.find(field);
    if (j == nullptr || (j->is_structured() && j->empty())) return false;
    if (!j->is_object()) r.wrong_type(field, "an object or null", *j);
    return true;
  };
  const bool scaling = holds("rope_scaling"), parameters = holds("rope_parameters");
  if (scaling || parameters) {
    const char* field = scaling ? "rope_scaling" : "rope_parameters";
    const Json& j = *r.find(field);
    const std::string where = text(r.where(), ": ", field);
    for (const auto& [name, value] : j.items())
      if (value.is_object())
        raise<losa::UnsupportedError>(where, ": parameters for each kind of layer (", quoted_word(name),
                                      ") are not supported");
    const Reader inner(j, where);
    inner.must_be_one("partial_rotary_factor");
    config.rope_scaling = read_scaling(inner, r, config.positions);
    config.rope_theta = inner.number("rope_theta", config.rope_theta, 0, 1e12);
  }
  r.must_be_one("partial_rotary_factor");
  r.must_be_false("rope_interleaved");
}

Json parse_object(std::string_view text_of_file, std::string_view where) {
  losa::io::refuse_other_content(std::as_bytes(std::span(text_of_file)), where, losa::io::FileContent::json);
  Json json = losa::detail::parse_json_document(text_of_file, where, 64);
  if (!json.is_object()) raise<losa::FileError>(where, ": must hold a JSON object, got ", shown(json));
  return json;
}

// What the object does not say stays as it was.
void read_special_tokens(const Reader& r, Config& c) {
  if (r.find("eos_token_id") != nullptr) c.ends = r.ids("eos_token_id", c.vocabulary, true);
  if (r.find("bos_token_id") != nullptr) c.begin = r.id("bos_token_id", c.vocabulary);
  if (r.find("pad_token_id") != nullptr) c.pad = r.id("pad_token_id", c.vocabulary);
}

std::string_view text_of(const losa::io::MappedFile& file) {
  constexpr std::size_t most = std::size_t{16} << 20;
  if (file.size() > most)
    raise<losa::FileError>(file.path(), ": ", file.size(), " bytes are above the limit of ", most);
  return {reinterpret_cast<const char*>(file.bytes().data()), file.size()};
}

// A directory without config.json: says what it is instead.
[[noreturn]] void refuse_without_config(const std::filesystem::path& directory) {
  const auto has = [&](const char* name) {
    std::error_code error;
    return std::filesystem::exists(directory / name, error);
  };
  raise<losa::FileError>((directory / "config.json").string(), ": cannot open for reading: No such file or directory",
                         has("adapter_config.json")
                             ? "; the directory holds a PEFT adapter: merge it into its model, and give that"
                         : has("snapshots") ? "; the directory is one of a hub's cache: give one of those in snapshots"
                         : has("params.json") ? "; the directory holds params.json, Meta's own form: convert it first"
                                              : losa::detail::largest_file_in_words(directory));
}

}  // namespace

Config parse_config(std::string_view text_of_file, std::string_view where) {
  const Json json = parse_object(text_of_file, where);
  const Reader r(json, where);
  check_architecture(r);

  // The bounds keep every product of two sizes far from overflow; the largest published Llamas lie well inside.
  constexpr std::size_t most = std::size_t{1} << 24;
  Config c;
  c.vocabulary = r.size("vocab_size", most);
  c.hidden = r.size("hidden_size", most);
  c.intermediate = r.size("intermediate_size", most);
  c.blocks = r.size("num_hidden_layers", 4096);
  c.heads = r.size("num_attention_heads", 65536);
  c.kv_heads = r.size("num_key_value_heads", 65536, c.heads);
  c.positions = r.size("max_position_embeddings", most, c.positions);
  if (c.heads % c.kv_heads != 0)
    raise<losa::RangeError>(where, ": num_key_value_heads ", c.kv_heads, " does not divide num_attention_heads ",
                            c.heads);
  if (r.find("head_dim") == nullptr && c.hidden % c.heads != 0)
    raise<losa::RangeError>(where, ": num_attention_heads ", c.heads, " does not divide hidden_size ", c.hidden,
                            " and there is no head_dim");
  c.head_dim = r.size("head_dim", 65536, std::max<std::size_t>(1, c.hidden / c.heads));
  if (c.head_dim % 2 != 0) raise<losa::RangeError>(where, ": head_dim must be even, got ", c.head_dim);
  if (r.find("rms_norm_eps") != nullptr) c.norm_epsilon = r.needed("rms_norm_eps", 0, 1);
  c.tied = r.boolean("tie_word_embeddings", c.tied);

  read_rope(r, c);
  check_attention(r);
  losa::io::find_sparsity_config(json.dump(), where);  // refuses quantised weights
  r.word("hidden_act", {"silu", "swish"});
  r.word("transformers_weights",
         {"model.safetensors", "model.safetensors.index.json", losa::io::no_transformers_weights});
  c.attention_bias = r.boolean("attention_bias", c.attention_bias);
  c.mlp_bias = r.boolean("mlp_bias", c.mlp_bias);
  read_special_tokens(r, c);
  return c;
}

void parse_generation_config(std::string_view text_of_file, Config& config, std::string_view where) {
  const Json json = parse_object(text_of_file, where);
  read_special_tokens(Reader(json, where), config);
}

Config read_config(const std::filesystem::path& directory) {
  if (directory.empty()) raise<losa::FileError>("the name of the model's directory is empty");
  losa::detail::expect_directory(directory);
  std::error_code error;
  if (!std::filesystem::exists(std::filesystem::symlink_status(directory / "config.json", error)))
    refuse_without_config(directory);
  const losa::io::MappedFile file((directory / "config.json").string());
  Config config = parse_config(text_of(file), file.path());
  const std::filesystem::path generation = directory / "generation_config.json";
  if (std::filesystem::exists(generation, error)) {
    const losa::io::MappedFile of_generation(generation.string());
    parse_generation_config(text_of(of_generation), config, of_generation.path());
  }
  return config;
}

}  // namespace llama
