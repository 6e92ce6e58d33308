#include "model.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <losa/core/thread_pool.hpp>

#include "evaluate.hpp"
#include "generate.hpp"
#include "toy_model.hpp"

using llama::Matrix;
using llama::Model;
using llama::Token;

namespace {

Matrix logits_of(const Model& model, const std::vector<Token>& tokens, std::size_t context) {
  Matrix hidden, logits(tokens.size(), model.config().vocabulary);
  model.forward(tokens, context, hidden);
  model.head(hidden.cview(), logits.view());
  return logits;
}
double difference(const Matrix& a, const toy::Rows& b) {
  double worst = 0;
  for (std::size_t t = 0; t < b.size(); ++t)
    for (std::size_t i = 0; i < b[t].size(); ++i)
      worst = std::max(worst, std::abs(static_cast<double>(a.view()(t, i)) - b[t][i]));
  return worst;
}
std::string error_of(const toy::fs::path& path) {
  try {
    Model::load(path);
  } catch (const losa::Error& error) {
    return error.what();
  }
  return {};
}
bool same_bits(const Matrix& a, const Matrix& b) {
  return std::memcmp(a.view().data, b.view().data, a.rows() * a.cols() * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("model: logits equal the oracle's, tied and untied, in every storage type, one file or shards") {
  for (const bool tied : {true, false})
    for (const char* dtype : {"float32", "bfloat16", "float16"}) {
      CAPTURE(tied);
      CAPTURE(dtype);
      const toy::Folder folder;
      toy::Shape shape;
      shape.tied = tied;
      toy::write_model(folder / "m", shape, dtype);
      const Model model = Model::load(folder / "m");
      const toy::Oracle oracle(folder / "m");
      const auto tokens = toy::tokens(24, shape.vocabulary);
      const Matrix logits = logits_of(model, tokens, 12);
      CHECK(difference(logits, oracle.logits(std::span(tokens).first(12))) < 2e-5);
      Matrix second(12, shape.vocabulary);
      std::memcpy(second.view().data, logits.view().row(12).data(), second.bytes());
      CHECK(difference(second, oracle.logits(std::span(tokens).subspan(12))) < 2e-5);
    }
}

TEST_CASE("model: biases, rotary scaling and heads of any width equal the oracle's, with and without a cache") {
  const nlohmann::json linear = {{"type", "linear"}, {"factor", 3.0}};
  const nlohmann::json llama3 = {{"rope_type", "llama3"},
                                 {"factor", 8.0},
                                 {"low_freq_factor", 1.0},
                                 {"high_freq_factor", 4.0},
                                 {"original_max_position_embeddings", 40}};
  const nlohmann::json none;
  // Of the frequencies of 14 channels, llama3 leaves some, divides some and mixes one.
  const toy::Shape shapes[] = {{.attention_bias = true},
                               {.mlp_bias = true},
                               {.head_dim = 14, .attention_bias = true, .mlp_bias = true},
                               {.head_dim = 14, .rope_scaling = linear},
                               {.head_dim = 14, .rope_scaling = llama3},
                               {.heads = 3, .kv_heads = 3, .head_dim = 2},
                               {.tied = false, .attention_bias = true, .mlp_bias = true, .rope_scaling = llama3}};
  for (const toy::Shape& shape : shapes) {
    const toy::Folder folder;
    toy::write_model(folder / "m", shape);
    CAPTURE(toy::read_text(folder / "m/config.json"));
    const toy::Oracle oracle(folder / "m");
    const Model model = Model::load(folder / "m");
    const auto tokens = toy::tokens(60, shape.vocabulary);
    const auto expected = oracle.logits(tokens);
    CHECK(difference(logits_of(model, tokens, 60), expected) < 5e-5);
    llama::KvCache cache(model.config(), 60);
    Matrix hidden, logits(60, shape.vocabulary);
    for (std::size_t at = 0; at < 60; at += 4) {
      model.decode(std::span(tokens).subspan(at, 4), cache, hidden);
      model.head(hidden.cview(), logits.view().block(at, 0, 4, shape.vocabulary));
    }
    CHECK(difference(logits, expected) < 5e-5);
  }
}

TEST_CASE("model: shards read as one file does") {
  const toy::Folder folder;
  toy::write_model(folder / "one");
  toy::fs::create_directories(folder / "two");
  toy::write_text(folder / "two/config.json", toy::config_json({}).dump());
  const auto tensors = toy::tensors({});
  nlohmann::json index;
  for (const auto& [name, values] : tensors)
    index["weight_map"][name] = name.find("layers.1.") != std::string::npos ? "b.safetensors" : "a.safetensors";
  const auto in_b = [&](const std::string& name) { return index["weight_map"][name] == "b.safetensors"; };
  toy::write_safetensors(folder / "two/a.safetensors", tensors, "float32", [&](const auto& n) { return !in_b(n); });
  toy::write_safetensors(folder / "two/b.safetensors", tensors, "float32", in_b);
  toy::write_text(folder / "two/model.safetensors.index.json", index.dump());
  const auto tokens = toy::tokens(12, 19);
  CHECK(same_bits(logits_of(Model::load(folder / "one"), tokens, 12),
                  logits_of(Model::load(folder / "two"), tokens, 12)));
}

TEST_CASE("model: decoding with a cache equals the whole sequence, whatever the pieces") {
  const toy::Folder folder;
  toy::write_model(folder / "m");
  const Model model = Model::load(folder / "m");
  const auto tokens = toy::tokens(40, 19);
  const Matrix whole = logits_of(model, tokens, 40);
  for (const std::vector<std::size_t>& pieces :
       {std::vector<std::size_t>(40, 1), std::vector<std::size_t>{40}, {7, 1, 1, 20, 11}}) {
    llama::KvCache cache(model.config(), 40);
    std::size_t at = 0;
    double worst = 0;
    for (std::size_t n : pieces) {
      Matrix hidden, logits(n, 19);
      model.decode(std::span(tokens).subspan(at, n), cache, hidden);
      model.head(hidden.cview(), logits.view());
      for (std::size_t t = 0; t < n; ++t)
        for (std::size_t i = 0; i < 19; ++i)
          worst = std::max(worst, static_cast<double>(std::abs(logits.view()(t, i) - whole.view()(at + t, i))));
      at += n;
    }
    CHECK(cache.size() == 40);
    CHECK(worst < 1e-5);
    Matrix hidden;
    CHECK_THROWS_WITH_AS(model.decode(std::span(tokens).first(1), cache, hidden), doctest::Contains("exceed"),
                         losa::RangeError);
  }
  CHECK_THROWS_WITH_AS(llama::KvCache(model.config(), 65), doctest::Contains("max_position_embeddings 64"),
                       losa::RangeError);
}

TEST_CASE("model: evaluation is exp of the mean over context - 1 predictions, the same bits for 1, 2 and 3 threads") {
  const toy::Folder folder;
  const toy::Shape shape{
      .vocabulary = 61, .hidden = 64, .intermediate = 96, .heads = 4, .kv_heads = 2, .head_dim = 16, .positions = 128};
  toy::write_model(folder / "m", shape);
  const auto tokens = toy::tokens(5 * 96 + 30, shape.vocabulary);
  const Model model = Model::load(folder / "m");
  const toy::Oracle oracle(folder / "m");
  double expected = 0;
  for (std::size_t i = 0; i < 2; ++i) expected += oracle.nll(std::span(tokens).subspan(i * 96, 96));
  const auto two = llama::evaluate(model, tokens, {.context = 96, .sequences = 2});
  CHECK(two.tokens == 2 * 95);
  CHECK(two.mean_nll == doctest::Approx(expected / (2 * 95)).epsilon(1e-6));
  CHECK(two.perplexity == std::exp(two.mean_nll));
  const auto all = llama::evaluate(model, tokens, {.context = 96, .sequences = 0});
  CHECK(all.sequences == 5);
  for (std::size_t threads : std::initializer_list<std::size_t>{1, 2, 3}) {
    losa::ThreadPool pool(threads);
    for (auto weights : {llama::Weights::dense, llama::Weights::sparse}) {
      const Model again = Model::load(folder / "m", {.weights = weights}, pool);
      CHECK(llama::evaluate(again, tokens, {.context = 96, .sequences = 0}).mean_nll == all.mean_nll);
    }
  }
  std::size_t calls = 0;
  const auto stopped =
      llama::evaluate(model, tokens, {.context = 96, .sequences = 5, .batch = 2}, [&](const losa::ProgressEvent& e) {
        ++calls;
        CHECK(e.total == 5);
        return e.done < 4;
      });
  CHECK(calls == 2);
  CHECK(stopped.sequences == 4);
  CHECK_THROWS_WITH_AS(llama::evaluate(model, tokens, {.context = 96, .sequences = 6}),
                       doctest::Contains("hold 5 sequences of 96, fewer than asked for"), losa::RangeError);
  CHECK_THROWS_WITH_AS(llama::evaluate(model, tokens, {.context = 129}),
                       doctest::Contains("context must be in [2, 128]"), losa::RangeError);
  CHECK_THROWS_AS(llama::evaluate(model, tokens, {.context = 1}), losa::RangeError);
  CHECK_THROWS_AS(llama::evaluate(model, std::span(tokens).first(50), {.context = 96, .sequences = 0}),
                  losa::RangeError);
}

TEST_CASE("model: an evaluation that is not finite is no result") {
  const toy::Folder folder;
  toy::write_model(folder / "m");
  auto tensors = toy::tensors({});
  for (const char* name : {"model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.gate_proj.weight"})
    for (float& value : tensors[name].data) value *= 1e30f;
  toy::write_safetensors(folder / "m/model.safetensors", tensors);
  const Model model = Model::load(folder / "m");
  CHECK_THROWS_WITH_AS(llama::evaluate(model, toy::tokens(20, 19), {.context = 20, .sequences = 1}),
                       doctest::Contains("the loss is not finite"), losa::NumericError);
}

TEST_CASE("model: greedy text follows the largest logit, drawn text the seed") {
  const toy::Folder folder;
  toy::write_model(folder / "m");
  const Model model = Model::load(folder / "m");
  const toy::Oracle oracle(folder / "m");
  const auto prompt = toy::tokens(5, 19);
  std::vector<Token> sequence = prompt;
  for (int i = 0; i < 8; ++i) {
    const auto last = oracle.logits(sequence).back();
    sequence.push_back(static_cast<Token>(std::max_element(last.begin(), last.end()) - last.begin()));
  }
  CHECK(llama::generate(model, prompt, {.tokens = 8}) == std::vector<Token>(sequence.begin() + 5, sequence.end()));
  const auto drawn = llama::generate(model, prompt, {.tokens = 30, .temperature = 1.5, .seed = 3});
  CHECK(drawn == llama::generate(model, prompt, {.tokens = 30, .temperature = 1.5, .seed = 3}));
  CHECK(drawn != llama::generate(model, prompt, {.tokens = 30, .temperature = 1.5, .seed = 4}));
  std::size_t seen = 0;
  CHECK(llama::generate(model, prompt, {.tokens = 8}, [&](Token) { return ++seen < 3; }).size() == 3);
  CHECK_THROWS_AS(llama::generate(model, {}, {}), losa::RangeError);
  CHECK_THROWS_AS(llama::generate(model, prompt, {.temperature = -1}), losa::RangeError);
  CHECK_THROWS_WITH_AS(llama::generate(model, prompt, {.tokens = 60}), doctest::Contains("max_position_embeddings 64"),
                       losa::RangeError);
  CHECK_THROWS_AS(llama::generate(model, std::vector<Token>{19}, {.tokens = 1}), losa::RangeError);
}

TEST_CASE("model: text ends after an end token unless asked not to") {
  const toy::Folder folder;
  toy::write_model(folder / "m");
  const auto prompt = toy::tokens(5, 19);
  const Token first = llama::generate(Model::load(folder / "m"), prompt, {.tokens = 1})[0];
  auto json = toy::config_json({});
  json["eos_token_id"] = first;
  toy::write_text(folder / "m/config.json", json.dump());
  const Model model = Model::load(folder / "m");
  CHECK(llama::generate(model, prompt, {.tokens = 9}) == std::vector<Token>{first});
  CHECK(llama::generate(model, prompt, {.tokens = 9, .stop_at_end = false}).size() == 9);
}

TEST_CASE("sample: frequencies follow softmax(logits/temperature), top_k cuts") {
  const std::vector<float> logits{1.0f, 3.0f, 3.0f, -2.0f};
  CHECK(llama::sample(logits, {}, 0) == 1);  // of equal ones the lowest
  std::vector<double> count(4), cut(4);
  const std::size_t draws = 20000;
  for (std::uint64_t i = 0; i < draws; ++i) {
    count[llama::sample(logits, {.temperature = 2, .seed = 1}, i)] += 1.0 / draws;
    cut[llama::sample(logits, {.temperature = 2, .top_k = 2, .seed = 1}, i)] += 1.0 / draws;
  }
  double total = 0;
  for (float z : logits) total += std::exp(static_cast<double>(z) / 2);
  for (std::size_t i = 0; i < 4; ++i)
    CHECK(std::abs(count[i] - std::exp(static_cast<double>(logits[i]) / 2) / total) < 0.015);
  CHECK(cut[0] + cut[3] == 0);
  CHECK(std::abs(cut[1] - 0.5) < 0.015);
  CHECK_THROWS_AS(llama::sample(std::vector<float>{0.0f, NAN}, {}, 0), losa::NumericError);
}

TEST_CASE("model: a directory that does not fit its configuration is refused in one line") {
  const toy::Folder folder;
  const auto path = folder / "m";
  toy::write_model(path);
  const auto with = [&](const char* field, const nlohmann::json& value) {
    auto json = toy::config_json({});
    json[field] = value;
    toy::write_text(path / "config.json", json.dump());
    return error_of(path);
  };
  CHECK(with("hidden_size", 16).find("config.json asks for [19, 16], got [19, 12]") != std::string::npos);
  CHECK(with("intermediate_size", 24).find("config.json asks for [24, 12]") != std::string::npos);
  CHECK(with("num_hidden_layers", 1).empty());  // what the other blocks hold is not needed
  CHECK(with("num_hidden_layers", 3).find("\"model.layers.2.input_layernorm.weight\" is missing") != std::string::npos);
  CHECK(with("num_attention_heads", 8).find("asks for [32, 12]") != std::string::npos);
  CHECK(with("num_key_value_heads", 4).find("asks for [16, 12]") != std::string::npos);
  CHECK(with("head_dim", 8).find("asks for [32, 12]") != std::string::npos);
  CHECK(with("vocab_size", 20).find("asks for [20, 12]") != std::string::npos);
  CHECK(with("tie_word_embeddings", false).find("\"lm_head.weight\" is missing") != std::string::npos);
  toy::write_text(path / "config.json", toy::config_json({}).dump());

  const auto write = [&](auto&& change) {
    auto tensors = toy::tensors({});
    change(tensors);
    toy::write_safetensors(path / "model.safetensors", tensors);
    return error_of(path);
  };
  CHECK(write([](auto&) {}).empty());
  CHECK(write([](auto& t) { t["lm_head.weight"] = t["model.embed_tokens.weight"]; }).empty());
  CHECK(write([](auto& t) {
          t["lm_head.weight"] = t["model.embed_tokens.weight"];
          t["lm_head.weight"].data[7] += 1;
        }).empty());
  for (const float value : {0.0f, 1.0f}) {
    const std::string error = write([&](auto& t) {
      t["model.layers.0.mlp.gate_proj.bias"] = {{20}, std::vector<float>(20, value)};
    });
    CHECK(error.empty() == (value == 0));
    if (value != 0) CHECK(error.find("config.json has no mlp_bias, and its values are not 0") != std::string::npos);
  }
  for (const char* stray :
       {"model.layers.0.", "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj.weight.weight"})
    CHECK(write([&](auto& t) {
            t[stray] = {{1}, {1}};
          }).find("is not part of the Llama architecture, and its values are not 0") != std::string::npos);
  for (const char* unneeded : {"model.layers.0", "model.layers.9.mlp.up_proj.weight", "foo.bitmask", "norm.weight"})
    CHECK(write([&](auto& t) { t[unneeded] = {{1}, {1}}; }).empty());
  CHECK(write([&](auto& t) {
          t["model.layers.0.self_attn.q_proj.compressed"] = {{1}, {1}};
        }).find("q_proj.weight\": is there compressed too") != std::string::npos);
  CHECK(write([&](auto& t) {
          t["lm_head.compressed"] = {{1}, {1}};
        }).find("\"lm_head.shape\" is missing") != std::string::npos);
  CHECK(write([](auto&) {}).empty());
  CHECK(with("attention_bias", true).find("\"model.layers.0.self_attn.q_proj.bias\" is missing") != std::string::npos);
  CHECK(with("mlp_bias", true).find("\"model.layers.0.mlp.gate_proj.bias\" is missing") != std::string::npos);
  toy::write_text(path / "config.json", toy::config_json({}).dump());
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  CHECK(write([&](auto& t) { t.erase(name); }).find(name + "\" is missing") != std::string::npos);
  CHECK(write([&](auto& t) { t[name].data[5] = NAN; }).find("NaN at [0, 5]") != std::string::npos);
  CHECK(write([&](auto& t) { t["model.norm.weight"].data[3] = INFINITY; }).find("Inf at [3]") != std::string::npos);
  CHECK(write([&](auto& t) {
          t["model.layers.0.self_attn.q_proj.bias"] = {{16}, std::vector<float>(16, 1.0f)};
        }).find("q_proj.bias\": config.json has no attention_bias") != std::string::npos);
  CHECK(write([&](auto& t) { t["model.layers.0.self_attn.rotary_emb.inv_freq"] = {{2}, {1, 1}}; }).empty());
  toy::fs::remove(path / "model.safetensors");
  CHECK(error_of(path).find("holds neither") != std::string::npos);
}

TEST_CASE("model: a head of its own counts where the configuration ties it, if its values differ") {
  const toy::Folder folder;
  const auto tokens = toy::tokens(12, 19);
  const auto logits = [&](const char* name, auto&& change, bool tied) {
    auto tensors = toy::tensors({});
    change(tensors);
    toy::write_model(folder / name);
    toy::write_safetensors(folder / name / "model.safetensors", tensors);
    auto json = toy::config_json({});
    json["tie_word_embeddings"] = tied;
    toy::write_text(folder / name / "config.json", json.dump());
    const Model model = Model::load(folder / name);
    Matrix hidden, out(12, 19);
    model.forward(tokens, 12, hidden);
    model.head(hidden.cview(), out.view());
    return std::vector<float>(out.view().data, out.view().data + 12 * 19);
  };
  const auto copied = [](auto& t) { t["lm_head.weight"] = t["model.embed_tokens.weight"]; };
  const auto own = [&](auto& t) {
    copied(t);
    for (float& value : t["lm_head.weight"].data) value *= 0.5f;
  };
  const auto alone = [&](auto& t) {
    copied(t);
    t.erase("model.embed_tokens.weight");
  };
  const auto usual = logits(
      "usual", [](auto&) {}, true);
  CHECK(logits("copied", copied, true) == usual);
  CHECK(logits("alone", alone, true) == usual);
  CHECK(logits("own", own, true) == logits("untied", own, false));
  CHECK(logits("own2", own, true) != usual);
}

TEST_CASE("model: dense and sparse paths agree on a model with zeros, and say what they hold") {
  const toy::Folder folder;
  auto tensors = toy::tensors({});
  std::size_t zeros = 0;
  for (auto& [name, values] : tensors)
    if (name.find("_proj") != std::string::npos && name.find("layers.0.mlp") == std::string::npos)
      for (std::size_t i = 0; i < values.data.size(); ++i)
        if (losa::Random{.seed = 8}.uniform(i) < 0.6) values.data[i] = 0, ++zeros;
  toy::write_model(folder / "m");
  toy::write_safetensors(folder / "m/model.safetensors", tensors);
  const Model dense = Model::load(folder / "m");
  const Model sparse = Model::load(folder / "m", {.weights = llama::Weights::sparse});
  CHECK(dense.linear(0, llama::query).dense);
  CHECK(sparse.linear(0, llama::query).packed);
  CHECK(sparse.linear(0, llama::gate).dense);  // nothing to gain
  CHECK(dense.linear_zeros() == zeros);
  CHECK(sparse.linear_zeros() == zeros);
  CHECK(dense.linear_bytes() == 4 * dense.linear_weights());
  CHECK(dense.linear_weights() == 2 * (2 * 16 * 12 + 2 * 8 * 12 + 3 * 20 * 12));
  const auto tokens = toy::tokens(40, 19);
  const Matrix a = logits_of(dense, tokens, 20), b = logits_of(sparse, tokens, 20);
  for (std::size_t i = 0; i < 40 * 19; ++i) CHECK(std::abs(a.view().data[i] - b.view().data[i]) < 1e-5f);
  std::size_t counted = 0;
  for (const auto& one : llama::inspect(folder / "m")) counted += one.zeros;
  CHECK(counted == zeros);
}
