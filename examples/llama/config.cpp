#include "config.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <losa/core/error.hpp>
#include <losa/io/compressed_config.hpp>
#include <losa/io/mapped_file.hpp>
#include <nlohmann/json.hpp>

#include "json_text.hpp"

namespace llama {

using detail::quoted_word;
using detail::shown;
using losa::detail::raise;
using losa::detail::text;
using Json = nlohmann::json;

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

  // A token id or a list of them, each below the vocabulary; −1 is written by some tools for "none".
  std::vector<std::size_t> ids(const char* name, std::size_t vocabulary) const {
    std::vector<std::size_t> out;
    const Json* j = find(name);
    if (j == nullptr) return out;
    const auto one = [&](const Json& id) {
      if (!id.is_number_integer()) wrong_type(name, "a token id, a list of token ids or null", id);
      if (id == -1) return;
      if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= vocabulary)
        raise<losa::RangeError>(where_, ": ", name, " ", shown(id), " is outside the vocabulary of ", vocabulary);
      out.push_back(id.get<std::size_t>());
    };
    if (j->is_array())
      for (const Json& id : *j) one(id);
    else
      one(*j);
    return out;
  }

  std::string_view where() const { return where_; }

 private:
  const Json& object_;
  std::string_view where_;
};

void check_architecture(const Reader& r) {
  const Json* list = r.find("architectures");
  if (list != nullptr) {
    if (!list->is_array() || list->size() != 1 || !list->front().is_string())
      r.wrong_type("architectures", "a list of one name", *list);
    if (list->front() != "LlamaForCausalLM")
      raise<losa::UnsupportedError>(r.where(), ": architecture ", shown(list->front()),
                                    " is not supported; supported: LlamaForCausalLM");
  }
  if (r.word("model_type", {"llama"}).empty() && list == nullptr)
    raise<losa::FileError>(r.where(), ": neither architectures nor model_type says what this model is");
}

RopeScaling read_scaling(const Reader& r) {
  const auto known = {std::string_view("default"), std::string_view("none"), std::string_view("linear"),
                      std::string_view("llama3")};
  const std::string now = r.word("rope_type", known), before = r.word("type", known);
  if (!now.empty() && !before.empty() && now != before)
    raise<losa::RangeError>(r.where(), ": rope_type \"", now, "\" contradicts type \"", before, "\"");
  const std::string& type = now.empty() ? before : now;
  if (type.empty() && r.find("factor") != nullptr) raise<losa::FileError>(r.where(), ": rope_type is missing");
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
  scaling.first_context = static_cast<double>(r.size("original_max_position_embeddings", std::size_t{1} << 24));
  return scaling;
}

// Rotary embedding in both spellings: rope_theta beside rope_scaling, or both inside rope_parameters. What is said
// twice must be said alike.
void read_rope(const Reader& r, Config& config) {
  bool scaled = false, based = r.find("rope_theta") != nullptr;
  config.rope_theta = r.number("rope_theta", config.rope_theta, 0, 1e12);
  for (const char* field : {"rope_scaling", "rope_parameters"}) {
    const Json* j = r.find(field);
    if (j == nullptr) continue;
    if (!j->is_object()) r.wrong_type(field, "an object or null", *j);
    const std::string where = text(r.where(), ": ", field);
    for (const auto& [name, value] : j->items())
      if (value.is_object())
        raise<losa::UnsupportedError>(where, ": parameters for each kind of layer (", quoted_word(name),
                                      ") are not supported");
    const Reader inner(*j, where);
    inner.must_be_one("partial_rotary_factor");
    const RopeScaling scaling = read_scaling(inner);
    if (scaled && scaling != config.rope_scaling)
      raise<losa::RangeError>(r.where(), ": rope_scaling contradicts rope_parameters");
    config.rope_scaling = scaling;
    scaled = true;
    const double theta = inner.number("rope_theta", config.rope_theta, 0, 1e12);
    if (based && theta != config.rope_theta)
      raise<losa::RangeError>(where, ": rope_theta ", theta, " contradicts rope_theta ", config.rope_theta);
    config.rope_theta = theta;
    based = based || inner.find("rope_theta") != nullptr;
  }
  r.must_be_one("partial_rotary_factor");
  r.must_be_false("rope_interleaved");
}

}  // namespace

Config parse_config(std::string_view text_of_file, std::string_view where) {
  Json json;
  try {
    json = Json::parse(text_of_file);
  } catch (const Json::parse_error& e) {
    raise<losa::FileError>(where, ": not valid JSON at byte ", e.byte);
  } catch (const Json::exception&) {
    raise<losa::FileError>(where, ": not valid JSON");
  }
  if (!json.is_object()) raise<losa::FileError>(where, ": must hold a JSON object");
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
  c.norm_epsilon = r.number("rms_norm_eps", c.norm_epsilon, 0, 1);
  c.tied = r.boolean("tie_word_embeddings", c.tied);

  read_rope(r, c);
  losa::io::find_sparsity_config(text_of_file, where);  // refuses quantised weights
  r.word("hidden_act", {"silu", "swish"});
  c.attention_bias = r.boolean("attention_bias", c.attention_bias);
  c.mlp_bias = r.boolean("mlp_bias", c.mlp_bias);
  r.boolean("use_cache", true);
  constexpr double never = -std::numeric_limits<double>::denorm_min();
  r.number("attention_dropout", 0, never, 1);
  r.number("initializer_range", 0.02, never, 1e6);
  r.size("pretraining_tp", 65536, 1);
  for (const char* field : {"torch_dtype", "dtype"}) r.word(field, {"float32", "bfloat16", "float16"});
  if (r.find("sliding_window") != nullptr)
    raise<losa::UnsupportedError>(where, ": sliding_window attention is not supported");
  r.ids("bos_token_id", c.vocabulary);
  r.ids("pad_token_id", c.vocabulary);
  c.ends = r.ids("eos_token_id", c.vocabulary);
  return c;
}

Config read_config(const std::filesystem::path& directory) {
  if (directory.empty()) raise<losa::FileError>("the name of the model's directory is empty");
  std::error_code error;
  if (!std::filesystem::is_directory(directory, error))
    raise<losa::FileError>(directory.string(), ": is not a directory");
  const losa::io::MappedFile file((directory / "config.json").string());
  constexpr std::size_t most = std::size_t{16} << 20;
  if (file.size() > most)
    raise<losa::FileError>(file.path(), ": ", file.size(), " bytes are above the limit of ", most);
  return parse_config({reinterpret_cast<const char*>(file.bytes().data()), file.size()}, file.path());
}

}  // namespace llama
