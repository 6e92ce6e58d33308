#include "config.hpp"

#include <doctest/doctest.h>

#include <losa/core/error.hpp>
#include <string>

#include "toy_model.hpp"

using llama::parse_config;

namespace {

std::string error_of(const std::string& text) {
  try {
    parse_config(text);
  } catch (const losa::Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace

TEST_CASE("config: every field arrives") {
  const llama::Config c = parse_config(toy::config_json({}).dump());
  CHECK(c.vocabulary == 19);
  CHECK(c.hidden == 12);
  CHECK(c.intermediate == 20);
  CHECK(c.blocks == 2);
  CHECK(c.heads == 4);
  CHECK(c.kv_heads == 2);
  CHECK(c.head_dim == 4);
  CHECK(c.positions == 64);
  CHECK(c.norm_epsilon == 1e-5);
  CHECK(c.rope_theta == 10000.0);
  CHECK(c.tied);
  CHECK(c.ends.empty());
  CHECK(llama::linear_shape(c, llama::query) == std::pair<std::size_t, std::size_t>{16, 12});
  CHECK(llama::linear_shape(c, llama::key) == std::pair<std::size_t, std::size_t>{8, 12});
  CHECK(llama::linear_shape(c, llama::output) == std::pair<std::size_t, std::size_t>{12, 16});
  CHECK(llama::linear_shape(c, llama::down) == std::pair<std::size_t, std::size_t>{12, 20});
  CHECK(llama::linear_tensor(3, llama::up) == "model.layers.3.mlp.up_proj.weight");
}

TEST_CASE("config: defaults are those of transformers") {
  auto json = toy::config_json({});
  for (const char* field :
       {"attention_bias", "attention_dropout", "bos_token_id", "eos_token_id", "head_dim", "hidden_act",
        "initializer_range", "max_position_embeddings", "mlp_bias", "num_key_value_heads", "pad_token_id",
        "rms_norm_eps", "rope_scaling", "rope_theta", "tie_word_embeddings", "torch_dtype", "use_cache"})
    json.erase(field);
  json["num_attention_heads"] = 6;
  const llama::Config c = parse_config(json.dump());
  CHECK(c.kv_heads == 6);
  CHECK(c.head_dim == 2);
  CHECK(c.norm_epsilon == 1e-6);
  CHECK(c.rope_theta == 10000.0);
  CHECK(c.positions == 2048);
  CHECK_FALSE(c.tied);
}

TEST_CASE("config: other spellings that mean the same") {
  auto json = toy::config_json({});
  json.erase("rope_theta");
  json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 5e5}};
  json["dtype"] = "bfloat16";
  json["eos_token_id"] = {3, 4};
  json["pad_token_id"] = -1;
  json["transformers_version"] = "5.0.0";
  const llama::Config c = parse_config(json.dump());
  CHECK(c.rope_theta == 5e5);
  CHECK(c.ends == std::vector<std::size_t>{3, 4});
  json["rope_scaling"] = {{"type", "none"}};
  CHECK_NOTHROW(parse_config(json.dump()));
}

TEST_CASE("config: biases and rotary scaling, in the old and the new spelling") {
  auto json = toy::config_json({});
  json["attention_bias"] = true;
  json["rope_scaling"] = {{"type", "linear"}, {"factor", 2}};
  llama::Config c = parse_config(json.dump());
  CHECK(c.has_bias(llama::output));
  CHECK_FALSE(c.has_bias(llama::gate));
  CHECK(c.rope_scaling == llama::RopeScaling{.kind = llama::RopeScaling::Kind::linear, .factor = 2});
  json["attention_bias"] = false;
  json["mlp_bias"] = true;
  const nlohmann::json scaling = {{"rope_type", "llama3"},
                                  {"factor", 32},
                                  {"low_freq_factor", 1},
                                  {"high_freq_factor", 4},
                                  {"original_max_position_embeddings", 4096}};
  json["rope_scaling"] = scaling;
  const llama::RopeScaling expected{.kind = llama::RopeScaling::Kind::llama3,
                                    .factor = 32,
                                    .low_frequency = 1,
                                    .high_frequency = 4,
                                    .first_context = 4096};
  c = parse_config(json.dump());
  CHECK_FALSE(c.has_bias(llama::output));
  CHECK(c.has_bias(llama::gate));
  CHECK(c.rope_scaling == expected);
  json["rope_parameters"] = scaling;  // said twice, alike
  CHECK(parse_config(json.dump()).rope_scaling == expected);
  json["rope_scaling"] = nullptr;
  json.erase("rope_theta");
  json["rope_parameters"]["rope_theta"] = 5e5;
  json["rope_parameters"]["type"] = "llama3";
  c = parse_config(json.dump());
  CHECK(c.rope_scaling == expected);
  CHECK(c.rope_theta == 5e5);
  json["rope_scaling"] = {{"type", "linear"}, {"factor", 2}};
  CHECK(error_of(json.dump()) == "config.json: rope_scaling contradicts rope_parameters");
  json["rope_scaling"] = nullptr;
  for (const char* field : {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}) {
    CAPTURE(field);
    auto one = json;
    one["rope_parameters"].erase(field);
    CHECK(error_of(one.dump()) == std::string("config.json: rope_parameters: ") + field + " is missing");
    one["rope_parameters"][field] = -1;
    CHECK(error_of(one.dump()).starts_with(std::string("config.json: rope_parameters: ") + field + " must be in ["));
    one["rope_parameters"][field] = "1";
    CHECK(error_of(one.dump()).starts_with(std::string("config.json: rope_parameters: ") + field + " must be a"));
  }
  json["rope_parameters"]["low_freq_factor"] = 4;
  CHECK(error_of(json.dump()) == "config.json: rope_parameters: low_freq_factor 4 must be below high_freq_factor 4");
}

TEST_CASE("config: every field wrong in turn gives one line that names it") {
  struct Wrong {
    const char* field;
    const char* value;
    const char* says;
  };
  const Wrong cases[] = {
      {"architectures", "[\"MambaForCausalLM\"]", "architecture \"MambaForCausalLM\" is not supported"},
      {"architectures", "\"LlamaForCausalLM\"", "architectures must be a list of one name"},
      {"architectures", "[]", "architectures must be"},
      {"model_type", "\"qwen2\"", "model_type \"qwen2\" is not supported"},
      {"model_type", "7", "model_type must be a string, got 7"},
      {"attention_bias", "1", "attention_bias must be true or false, got 1"},
      {"mlp_bias", "\"no\"", "mlp_bias must be true or false, got \"no\""},
      {"attention_dropout", "1.5", "attention_dropout must lie between"},
      {"attention_dropout", "\"0\"", "attention_dropout must be a number, got \"0\""},
      {"bos_token_id", "19", "bos_token_id 19 is outside the vocabulary of 19"},
      {"eos_token_id", "[1, 40]", "eos_token_id 40 is outside"},
      {"eos_token_id", "1.5", "eos_token_id must be a token id"},
      {"pad_token_id", "-2", "pad_token_id -2 is outside"},
      {"head_dim", "3", "head_dim must be even, got 3"},
      {"head_dim", "0", "head_dim must be in [1,"},
      {"hidden_act", "\"gelu\"", "hidden_act \"gelu\" is not supported; supported: silu"},
      {"hidden_size", "-12", "hidden_size must be in [1,"},
      {"hidden_size", "12.0", "hidden_size must be an integer, got 12.0"},
      {"hidden_size", "1e30", "hidden_size must be an integer"},
      {"hidden_size", "99999999999999999999999", "hidden_size must be an integer"},
      {"hidden_size", "null", "hidden_size is missing"},
      {"initializer_range", "\"x\"", "initializer_range must be a number"},
      {"intermediate_size", "18446744073709551615", "intermediate_size must be in [1,"},
      {"max_position_embeddings", "0", "max_position_embeddings must be in"},
      {"num_attention_heads", "[4]", "num_attention_heads must be an integer, got an array"},
      {"num_hidden_layers", "{}", "num_hidden_layers must be an integer, got an object"},
      {"num_key_value_heads", "3", "num_key_value_heads 3 does not divide num_attention_heads 4"},
      {"rms_norm_eps", "0", "rms_norm_eps must lie between 0 and 1"},
      {"rms_norm_eps", "-1e-5", "rms_norm_eps"},
      {"rope_scaling", "{\"rope_type\": \"yarn\"}", "rope_scaling: rope_type \"yarn\" is not supported"},
      {"rope_scaling", R"({"type": "dynamic", "factor": 2})", "rope_scaling: type \"dynamic\" is not supported"},
      {"rope_scaling", R"({"type": 7, "factor": 2})", "rope_scaling: type must be a string, got 7"},
      {"rope_scaling", R"({"factor": 2})", "rope_scaling: rope_type is missing"},
      {"rope_scaling", R"({"type": "linear"})", "rope_scaling: factor is missing"},
      {"rope_scaling", R"({"type": "linear", "factor": "2"})", "rope_scaling: factor must be a number, got \"2\""},
      {"rope_scaling", R"({"type": "linear", "factor": 0.5})", "rope_scaling: factor must be in [1, 1e+06], got 0.5"},
      {"rope_scaling", R"({"type": "linear", "rope_type": "llama3", "factor": 2})", "contradicts type \"linear\""},
      {"rope_scaling", R"({"type": "default", "partial_rotary_factor": 0.5})", "partial_rotary_factor 0.5 is not"},
      {"rope_scaling", R"({"type": "default", "rope_theta": 5})", "rope_theta 5 contradicts rope_theta 10000"},
      {"rope_parameters", R"({"full_attention": {"rope_type": "default"}})", "each kind of layer (\"full_attention\")"},
      {"rope_parameters", R"({"rope_type": "default", "rope_theta": 5e5})", "contradicts rope_theta 10000"},
      {"rope_parameters", "[]", "rope_parameters must be an object or null, got an array"},
      {"partial_rotary_factor", "0.5", "partial_rotary_factor 0.5 is not supported; supported: 1"},
      {"rope_scaling", "4", "rope_scaling must be an object or null, got 4"},
      {"rope_theta", "-1", "rope_theta must lie between"},
      {"rope_interleaved", "true", "rope_interleaved is true"},
      {"sliding_window", "128", "sliding_window attention is not supported"},
      {"tie_word_embeddings", "\"yes\"", "tie_word_embeddings must be true or false, got \"yes\""},
      {"torch_dtype", "\"float8\"", "torch_dtype \"float8\" is not supported"},
      {"use_cache", "0", "use_cache must be true or false"},
      {"vocab_size", "true", "vocab_size must be an integer, got true"},
      {"pretraining_tp", "\"2\"", "pretraining_tp must be an integer"},
      {"quantization_config", "{\"quant_method\": \"gptq\"}", "gptq"},
      {"quantization_config", "3", "quantization_config must be an object"},
  };
  for (const Wrong& wrong : cases) {
    CAPTURE(wrong.field);
    CAPTURE(wrong.value);
    auto json = toy::config_json({});
    json[wrong.field] = nlohmann::json::parse(wrong.value);
    const std::string error = error_of(json.dump());
    CAPTURE(error);
    CHECK(error.find(wrong.says) != std::string::npos);
    CHECK(error.starts_with("config.json: "));
    CHECK(error.find('\n') == std::string::npos);
  }
}

TEST_CASE("config: what is no configuration") {
  CHECK(error_of("").find("not valid JSON") != std::string::npos);
  CHECK(error_of("{\"hidden_size\": 12").find("not valid JSON at byte") != std::string::npos);
  CHECK(error_of("[]").find("must hold a JSON object") != std::string::npos);
  CHECK(error_of("{}").find("neither architectures nor model_type") != std::string::npos);
  CHECK_FALSE(error_of(std::string(100000, '[')).empty());
  auto json = toy::config_json({});
  json["hidden_act"] = "line\nbreak" + std::string(500, 'x');
  const std::string error = error_of(json.dump());
  CHECK(error.find('\n') == std::string::npos);
  CHECK(error.size() < 250);
  const toy::Folder folder;
  CHECK_THROWS_WITH_AS(llama::read_config(folder.path), doctest::Contains("config.json: cannot open"), losa::FileError);
  CHECK_THROWS_WITH_AS(llama::read_config(""), "the name of the model's directory is empty", losa::FileError);
  CHECK_THROWS_WITH_AS(llama::read_config(folder / "none"), doctest::Contains("is not a directory"), losa::FileError);
}

TEST_CASE("config: heads that do not divide the width need a head_dim") {
  auto json = toy::config_json({});
  json["num_attention_heads"] = 5;
  json["num_key_value_heads"] = 5;
  json["head_dim"] = nullptr;
  CHECK(error_of(json.dump()).find("does not divide hidden_size 12 and there is no head_dim") != std::string::npos);
  json["head_dim"] = 4;
  CHECK_NOTHROW(parse_config(json.dump()));
}
