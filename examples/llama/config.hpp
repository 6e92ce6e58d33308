#pragma once
// config.json of a Hugging Face directory: the sizes and constants of a Llama, every field that is needed checked for
// type and range; and the tokens of generation_config.json, by which text begins and ends.
//
//   llama::Config config = llama::read_config("smollm2");
//   auto [out, in] = llama::linear_shape(config, llama::gate);

#include <array>
#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace llama {

/// How rotary frequencies are stretched for contexts longer than those of the first training (see Rope).
struct RopeScaling {
  enum class Kind { none, linear, llama3 };
  Kind kind = Kind::none;
  double factor = 1;            // ≥ 1
  double low_frequency = 1;     // llama3: low_freq_factor
  double high_frequency = 4;    // llama3: high_freq_factor, above low_frequency
  double first_context = 8192;  // llama3: original_max_position_embeddings
  friend bool operator==(const RopeScaling&, const RopeScaling&) = default;
};

struct Config {
  std::size_t vocabulary = 0;    // vocab_size
  std::size_t hidden = 0;        // hidden_size
  std::size_t intermediate = 0;  // intermediate_size
  std::size_t blocks = 0;        // num_hidden_layers
  std::size_t heads = 0;         // num_attention_heads
  std::size_t kv_heads = 0;      // num_key_value_heads, divides heads
  std::size_t head_dim = 0;      // even
  std::size_t positions = 2048;  // max_position_embeddings
  double norm_epsilon = 1e-6;    // rms_norm_eps
  double rope_theta = 10000;
  RopeScaling rope_scaling{};
  bool attention_bias = false;  // the four linear layers of the attention add a bias
  bool mlp_bias = false;        // so do the three of the MLP
  bool tied = false;            // tie_word_embeddings: the head is the embedding
  // Of an id outside the vocabulary nothing is kept: no text can hold it.
  std::vector<std::size_t> ends{};     // eos_token_id: none, one or several
  std::optional<std::size_t> begin{};  // bos_token_id
  std::optional<std::size_t> pad{};    // pad_token_id

  std::size_t query_width() const { return heads * head_dim; }
  std::size_t kv_width() const { return kv_heads * head_dim; }
  bool has_bias(std::size_t linear) const;
  friend bool operator==(const Config&, const Config&) = default;
};

/// The linear layers of a block, in the order in which they multiply.
enum LinearIndex : std::size_t { query, key, value, output, gate, up, down, linears_per_block };

/// Names of the linear layers inside "model.layers.<i>.".
inline constexpr std::array<std::string_view, linears_per_block> linear_names = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};

inline bool Config::has_bias(std::size_t linear) const { return linear <= output ? attention_bias : mlp_bias; }

/// Which of a block's four distinct inputs each linear layer reads: 0 the normed block input, 1 the attention's result,
/// 2 the normed middle, 3 the gated activation.
inline constexpr std::array<std::size_t, linears_per_block> linear_input = {0, 0, 0, 1, 2, 2, 3};
inline constexpr std::size_t inputs_per_block = 4;

/// (out, in) of a linear layer.
std::pair<std::size_t, std::size_t> linear_shape(const Config& config, std::size_t which);
/// "model.layers.<block>.<linear>.weight"
std::string linear_tensor(std::size_t block, std::size_t which);
/// "model.layers.<block>.<linear>.bias"
std::string bias_tensor(std::size_t block, std::size_t which);
/// "model.layers.<block>.<name>"
std::string block_tensor(std::size_t block, std::string_view name);

/// Reads the text of a config.json; `where` opens the sentence of an error. What the model does not need is not looked
/// at: names in architectures where model_type says llama, the dtype (every tensor has its own), dropout and the like.
/// Throws losa::FileError (no JSON, a field of the wrong type, a missing field), losa::RangeError (a value out of range
/// or in conflict with another) or losa::UnsupportedError (a model, activation, attention, rotary scaling or
/// quantisation that this engine does not compute).
Config parse_config(std::string_view text, std::string_view where = "config.json");

/// Takes the tokens of a generation_config.json over those of config.json; what it does not say stays. (In transformers
/// 5.24 that file speaks alone, and a model whose end stands in config.json only would not stop.) How to sample
/// (temperature, top_k, the longest text) is not read: that is the caller's to say. Throws losa::FileError (no JSON
/// object, an id that is no whole number).
void parse_generation_config(std::string_view text, Config& config, std::string_view where = "generation_config.json");

/// parse_config of directory/config.json, and parse_generation_config where there is such a file. Throws
/// losa::FileError if one of them cannot be read.
Config read_config(const std::filesystem::path& directory);

}  // namespace llama
