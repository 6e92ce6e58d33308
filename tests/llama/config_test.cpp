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
  json["rope_scaling"] = {{"type", "linear"}, {"factor", 2}};  // is asked alone
  c = parse_config(json.dump());
  CHECK(c.rope_scaling == llama::RopeScaling{.kind = llama::RopeScaling::Kind::linear, .factor = 2});
  CHECK(c.rope_theta == 10000.0);
  json["rope_scaling"] = nullptr;
  for (const char* field : {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}) {
    CAPTURE(field);
    auto one = json;
    one["rope_parameters"].erase(field);
    if (field == std::string("original_max_position_embeddings"))  // transformers 5.24 takes max_position_embeddings
      CHECK(parse_config(one.dump()).rope_scaling.first_context == 64);
    else
      CHECK(error_of(one.dump()) == std::string("config.json: rope_parameters: ") + field + " is missing");
    one["rope_parameters"][field] = -1;
    CHECK(error_of(one.dump()).starts_with(std::string("config.json: rope_parameters: ") + field + " must be in ["));
    one["rope_parameters"][field] = "1";
    CHECK(error_of(one.dump()).starts_with(std::string("config.json: rope_parameters: ") + field + " must be a"));
  }
  json["original_max_position_embeddings"] = 16;  // wins over the one inside, and over none
  CHECK(parse_config(json.dump()).rope_scaling.first_context == 16);
  auto absent = json;
  absent["rope_parameters"].erase("original_max_position_embeddings");
  CHECK(parse_config(absent.dump()).rope_scaling.first_context == 16);
  absent["original_max_position_embeddings"] = 0;
  CHECK(error_of(absent.dump()) == "config.json: original_max_position_embeddings must be in [1, 16777216], got 0");
  json.erase("original_max_position_embeddings");
  json["rope_theta"] = 7.0;  // the inner one wins
  CHECK(parse_config(json.dump()).rope_theta == 5e5);
  json.erase("rope_theta");
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
      {"model_type", "\"qwen2\"", "model_type \"qwen2\" is not supported"},
      {"model_type", "7", "model_type must be a string, got 7"},
      {"attention_bias", "1", "attention_bias must be true or false, got 1"},
      {"mlp_bias", "\"no\"", "mlp_bias must be true or false, got \"no\""},
      {"eos_token_id", "1.5", "eos_token_id must be a token id"},
      {"eos_token_id", "\"2\"", "eos_token_id must be a token id, a list of token ids or null, got \"2\""},
      {"eos_token_id", "[1, true]", "eos_token_id must be a token id, a list of token ids or null, got true"},
      {"bos_token_id", "[1]", "bos_token_id must be a token id or null, got an array"},
      {"pad_token_id", "{}", "pad_token_id must be a token id or null, got an object"},
      {"head_dim", "3", "head_dim must be even, got 3"},
      {"head_dim", "0", "head_dim must be in [1,"},
      {"hidden_act", "\"gelu\"", "hidden_act \"gelu\" is not supported; supported: silu"},
      {"hidden_size", "-12", "hidden_size must be in [1,"},
      {"hidden_size", "12.0", "hidden_size must be an integer, got 12.0"},
      {"hidden_size", "1e30", "hidden_size must be an integer"},
      {"hidden_size", "99999999999999999999999", "hidden_size must be an integer"},
      {"hidden_size", "null", "hidden_size is missing"},
      {"intermediate_size", "18446744073709551615", "intermediate_size must be in [1,"},
      {"max_position_embeddings", "0", "max_position_embeddings must be in"},
      {"num_attention_heads", "[4]", "num_attention_heads must be an integer, got an array"},
      {"num_hidden_layers", "{}", "num_hidden_layers must be an integer, got an object"},
      {"num_key_value_heads", "3", "num_key_value_heads 3 does not divide num_attention_heads 4"},
      {"rms_norm_eps", "-1e-5", "rms_norm_eps must be in [0, 1], got"},
      {"rope_scaling", "{\"rope_type\": \"yarn\"}", "rope_scaling: rope_type \"yarn\" is not supported"},
      {"rope_scaling", R"({"type": 7, "factor": 2})", "rope_scaling: type must be a string, got 7"},
      {"rope_scaling", R"({"type": "linear"})", "rope_scaling: factor is missing"},
      {"rope_scaling", R"({"type": "linear", "factor": "2"})", "rope_scaling: factor must be a number, got \"2\""},
      {"rope_scaling", R"({"type": "linear", "factor": 0.5})", "rope_scaling: factor must be in [1, 1e+06], got 0.5"},
      {"rope_scaling", R"({"type": "linear", "rope_type": "llama3", "factor": 2})", "low_freq_factor is missing"},
      {"rope_scaling", R"({"type": "default", "partial_rotary_factor": 0.5})", "partial_rotary_factor 0.5 is not"},
      {"rope_parameters", R"({"full_attention": {"rope_type": "default"}})", "each kind of layer (\"full_attention\")"},
      {"rope_parameters", R"({"rope_type": "default", "rope_theta": -5})", "rope_theta must lie between"},
      {"rope_parameters", "[1]", "rope_parameters must be an object or null, got an array"},
      {"partial_rotary_factor", "0.5", "partial_rotary_factor 0.5 is not supported; supported: 1"},
      {"rope_scaling", "4", "rope_scaling must be an object or null, got 4"},
      {"rope_theta", "-1", "rope_theta must lie between"},
      {"rope_interleaved", "true", "rope_interleaved is true"},
      {"is_causal", "false", "is_causal is false (a token sees those after it)"},
      {"is_causal", "0", "is_causal must be true or false, got 0"},
      {"sliding_window", "\"x\"", "sliding_window must be a number or null, got \"x\""},
      {"layer_types", R"(["full_attention", "linear_attention"])", "layer_types holds \"linear_attention\""},
      {"layer_types", R"(["linear_attention", "full_attention"])", "layer_types holds \"linear_attention\""},
      {"layer_types", "\"full_attention\"", "layer_types must be a list of words"},
      {"per_layer_config", R"({"0": {"intermediate_size": 8}})", "per_layer_config (layers of different sizes)"},
      {"transformers_weights", "\"x.safetensors\"", "transformers_weights \"x.safetensors\" is not supported"},
      {"tie_word_embeddings", "\"yes\"", "tie_word_embeddings must be true or false, got \"yes\""},
      {"vocab_size", "true", "vocab_size must be an integer, got true"},
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

TEST_CASE("config: what the model does not need is not looked at, as in transformers 5.24") {
  struct Harmless {
    const char* field;
    const char* value;
  };
  const Harmless cases[] = {
      {"architectures", R"(["FSDPLlamaForCausalLM"])"},
      {"architectures", R"(["LlamaModel"])"},
      {"architectures", R"(["LlamaForSequenceClassification", "LlamaForCausalLM"])"},
      {"architectures", R"(["MistralForCausalLM"])"},
      {"architectures", "[]"},
      {"architectures", "null"},
      {"architectures", "\"LlamaForCausalLM\""},
      {"architectures", "[1]"},
      {"attention_dropout", "1.5"},
      {"attention_dropout", "null"},
      {"initializer_range", "0"},
      {"initializer_range", "null"},
      {"pretraining_tp", "2"},
      {"pretraining_tp", "null"},
      {"use_cache", "null"},
      {"torch_dtype", "\"float64\""},
      {"torch_dtype", "\"torch.bfloat16\""},
      {"dtype", "\"float8_e4m3fn\""},
      {"dtype", "\"auto\""},
      {"mlp_bias", "null"},
      {"head_dim", "null"},
      {"rms_norm_eps", "0.0"},
      {"rope_scaling", "{}"},
      {"rope_scaling", "[]"},
      {"rope_scaling", R"({"type": "default"})"},
      {"rope_scaling", R"({"type": "dynamic", "factor": 2.0})"},  // stretches only what is longer than the model takes
      {"rope_parameters", "{}"},
      {"rope_scaling", R"({"factor": 2.0})"},  // of no type
      {"rope_scaling", R"({"type": "linear", "rope_type": "default", "factor": 2.0})"},
      {"rope_parameters", R"({"factor": 2.0})"},
      {"original_max_position_embeddings", "16"},  // counts for llama3 alone
      {"sliding_window", "64"},
      {"sliding_window", "8"},
      {"use_sliding_window", "false"},
      {"attention_chunk_size", "16"},
      {"is_causal", "true"},
      {"is_causal", "null"},
      {"layer_types", R"(["full_attention", "full_attention"])"},
      {"layer_types", "null"},
      {"per_layer_config", "{}"},
      {"quantization_config", "null"},
      {"transformers_weights", "\"model.safetensors\""},
      {"bos_token_id", "19"},
      {"pad_token_id", "-2"},
      {"pad_token_id", "32000"},
      {"eos_token_id", "19"},
      {"eos_token_id", "-1"},
      {"eos_token_id", "[]"},
      {"eos_token_id", "1e300"},
      {"logits_scaling", "8.0"},
      {"auto_map", R"({"AutoModelForCausalLM": "modeling.X"})"},
  };
  auto usual = toy::config_json({});
  usual["bos_token_id"] = nullptr;
  usual["num_attention_heads"] = 3;  // a head_dim of 4 with and without being told
  usual["num_key_value_heads"] = 3;
  const llama::Config expected = parse_config(usual.dump());
  for (const Harmless& harmless : cases) {
    CAPTURE(harmless.field);
    CAPTURE(harmless.value);
    auto json = usual;
    json[harmless.field] = nlohmann::json::parse(harmless.value);
    CHECK(error_of(json.dump()) == "");
    llama::Config got = parse_config(json.dump());
    if (harmless.field == std::string("rms_norm_eps")) got.norm_epsilon = expected.norm_epsilon;
    CHECK(got == expected);
  }
  auto json = usual;
  json["eos_token_id"] = {300, 4, -1, 5.0, 18446744073709551615u};
  CHECK(parse_config(json.dump()).ends == std::vector<std::size_t>{4, 5});
  json = usual;
  json["layer_types"] = {"sliding_attention", "full_attention", "chunked_attention"};
  json["sliding_window"] = 4096;
  json["attention_chunk_size"] = 4096;
  CHECK(parse_config(json.dump()) == expected);
  json["sliding_window"] = 8;
  CHECK(parse_config(json.dump()) == expected);
  json = usual;
  json["rope_scaling"] = nlohmann::json::object();
  json["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 2}};
  CHECK(parse_config(json.dump()).rope_scaling.factor == 2);
}

TEST_CASE("config: without model_type, architectures says what the model is") {
  auto json = toy::config_json({});
  json.erase("model_type");
  CHECK_NOTHROW(parse_config(json.dump()));
  json["architectures"] = {"X", "LlamaForCausalLM"};
  CHECK_NOTHROW(parse_config(json.dump()));
  json["architectures"] = "LlamaForCausalLM";
  CHECK_NOTHROW(parse_config(json.dump()));
  json["architectures"] = {"MambaForCausalLM"};
  CHECK(error_of(json.dump()) ==
        "config.json: model_type is missing, and architectures is \"MambaForCausalLM\"; supported: LlamaForCausalLM");
  json["architectures"] = nlohmann::json::array();
  CHECK(error_of(json.dump()) ==
        "config.json: model_type is missing, and architectures is empty; supported: LlamaForCausalLM");
}

TEST_CASE("config: a key that is there twice must say the same") {
  std::string text = toy::config_json({}).dump();
  text.back() = ',';
  CHECK(error_of(text + R"("hidden_size":12})") == "");
  CHECK(error_of(text + R"("rope_scaling":null,"architectures":["LlamaForCausalLM"]})") == "");
  CHECK(error_of(text + R"("hidden_size":13})") ==
        "config.json: JSON key \"hidden_size\" appears twice, with different values");
}

TEST_CASE("config: what generation_config.json says comes over config.json, what it does not say stays") {
  auto json = toy::config_json({});
  json["eos_token_id"] = {3, 4};
  json["bos_token_id"] = 1;
  json["pad_token_id"] = 0;
  const llama::Config before = parse_config(json.dump());
  CHECK(before.begin == 1);
  CHECK(before.pad == 0);
  using Ends = std::vector<std::size_t>;
  const auto after = [&](const char* text) {
    llama::Config config = before;
    llama::parse_generation_config(text, config);
    return config;
  };
  CHECK(after(R"({"eos_token_id":7})").ends == Ends{7});
  CHECK(after(R"({"eos_token_id":[7,4,9]})").ends == Ends{7, 4, 9});
  CHECK(after(R"({"eos_token_id":7.0,"bos_token_id":2,"pad_token_id":5})").begin == 2);
  CHECK(after(R"({"eos_token_id":7.0,"bos_token_id":2,"pad_token_id":5})").pad == 5);
  for (const char* unsaid : {"{}", R"({"eos_token_id":null,"temperature":0.6})", R"({"_from_model_config":true})",
                             R"({"max_length":3,"do_sample":true,"top_k":1,"suppress_tokens":[1]})"}) {
    CAPTURE(unsaid);
    CHECK(after(unsaid) == before);
  }
  for (const char* none : {R"({"eos_token_id":-1})", R"({"eos_token_id":[]})"}) {
    CAPTURE(none);
    CHECK(after(none).ends.empty());
    CHECK(after(none).begin == 1);
  }

  const auto refusal = [&](const char* text) {
    try {
      after(text);
    } catch (const losa::FileError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const std::string file = "generation_config.json: ";
  CHECK(refusal("") == file + "is empty, not JSON");
  CHECK(refusal("[]") == file + "must hold a JSON object, got an array");
  CHECK(refusal("null") == file + "must hold a JSON object, got null");
  CHECK(refusal(R"({"eos_token_id":"2"})") ==
        file + "eos_token_id must be a token id, a list of token ids or null, got \"2\"");
  CHECK(refusal(R"({"eos_token_id":[2,1.5]})") ==
        file + "eos_token_id must be a token id, a list of token ids or null, got 1.5");
  CHECK(refusal(R"({"eos_token_id":3,"eos_token_id":4})") ==
        file + "JSON key \"eos_token_id\" appears twice, with different values");
  CHECK(refusal("<html>") ==
        file + "is an HTML page, of a login or an error perhaps, not JSON: download the file again");
}

TEST_CASE("config: a directory's generation_config.json is read with its config.json") {
  const toy::Folder folder;
  auto json = toy::config_json({});
  json["eos_token_id"] = 3;
  toy::write_text(folder / "config.json", json.dump());
  CHECK(llama::read_config(folder.path).ends == std::vector<std::size_t>{3});
  toy::write_text(folder / "generation_config.json", R"({"eos_token_id":[3,5]})");
  CHECK(llama::read_config(folder.path).ends == std::vector<std::size_t>{3, 5});
  toy::write_text(folder / "generation_config.json", "{");
  CHECK_THROWS_WITH_AS(llama::read_config(folder.path), doctest::Contains("generation_config.json: not valid JSON"),
                       losa::FileError);
}

TEST_CASE("config: what is no configuration") {
  CHECK(error_of("") == "config.json: is empty, not JSON");
  CHECK(error_of(" \n") == "config.json: is empty, not JSON");
  for (const char* number : {"NaN", "Infinity", "-Infinity"})
    CHECK(error_of(std::string("{\"x\": ") + number + "}").find("(NaN and Infinity are no JSON: write null") !=
          std::string::npos);
  CHECK(error_of("{\"hidden_size\": 12").find("not valid JSON at byte") != std::string::npos);
  CHECK(error_of("[]").find("must hold a JSON object") != std::string::npos);
  CHECK(error_of("{}").find("neither model_type nor architectures") != std::string::npos);
  CHECK_FALSE(error_of(std::string(100000, '[')).empty());
  auto json = toy::config_json({});
  json["hidden_act"] = "line\nbreak" + std::string(500, 'x');
  const std::string error = error_of(json.dump());
  CHECK(error.find('\n') == std::string::npos);
  CHECK(error.size() < 250);
  const toy::Folder folder;
  const auto refusal = [&] {
    try {
      llama::read_config(folder.path);
    } catch (const losa::FileError& missing) {
      return std::string(missing.what());
    }
    return std::string();
  };
  const std::string absent = (folder / "config.json").string() + ": cannot open for reading: No such file or directory";
  CHECK(refusal() == absent);
  toy::write_text(folder / "model.gguf", std::string("GGUF\3\0\0\0", 8));
  CHECK(refusal() == absent + "; its largest file is \"model.gguf\", a GGUF model: convert it first");
  CHECK_THROWS_WITH_AS(llama::read_config(folder / "model.gguf"),
                       doctest::Contains("is not a directory but a GGUF model"), losa::FileError);
  toy::write_text(folder / "params.json", "{}");
  CHECK(refusal() == absent + "; the directory holds params.json, Meta's own form: convert it first");
  toy::fs::create_directory(folder / "snapshots");
  CHECK(refusal() == absent + "; the directory is one of a hub's cache: give one of those in snapshots");
  toy::write_text(folder / "adapter_config.json", "{}");
  CHECK(refusal() == absent + "; the directory holds a PEFT adapter: merge it into its model, and give that");
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
