#pragma once
// Small random models on disk, and an oracle: the architecture once more, plainly, in double, from the same files.

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <functional>
#include <losa/core/random.hpp>
#include <losa/io/safetensors_writer.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "checkpoint.hpp"
#include "tokens.hpp"

namespace toy {

namespace fs = std::filesystem;

/// A folder that is gone when the test is over.
class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "losa-llama-XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  ~Folder() { fs::remove_all(path); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  fs::path operator/(const std::string& name) const { return path / name; }
  fs::path path;
};

struct Shape {
  std::size_t vocabulary = 19, hidden = 12, intermediate = 20, blocks = 2, heads = 4, kv_heads = 2, head_dim = 4;
  bool tied = true;
  std::size_t positions = 64;
  bool attention_bias = false, mlp_bias = false;
  nlohmann::json rope_scaling = nullptr;
};

inline nlohmann::json config_json(const Shape& s, const std::string& dtype = "float32") {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"attention_bias", s.attention_bias},
          {"attention_dropout", 0.0},
          {"bos_token_id", 1},
          {"eos_token_id", nullptr},
          {"head_dim", s.head_dim},
          {"hidden_act", "silu"},
          {"hidden_size", s.hidden},
          {"initializer_range", 0.02},
          {"intermediate_size", s.intermediate},
          {"max_position_embeddings", s.positions},
          {"mlp_bias", s.mlp_bias},
          {"model_type", "llama"},
          {"num_attention_heads", s.heads},
          {"num_hidden_layers", s.blocks},
          {"num_key_value_heads", s.kv_heads},
          {"pad_token_id", nullptr},
          {"rms_norm_eps", 1e-5},
          {"rope_scaling", s.rope_scaling},
          {"rope_theta", 10000.0},
          {"tie_word_embeddings", s.tied},
          {"torch_dtype", dtype},
          {"use_cache", true},
          {"vocab_size", s.vocabulary}};
}

inline void write_text(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
}
inline std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

struct Values {
  std::vector<std::size_t> shape;
  std::vector<float> data;
};

/// Random tensors by name; the seed says which.
inline std::map<std::string, Values> tensors(const Shape& s, std::uint64_t seed = 1) {
  std::map<std::string, Values> out;
  const auto add = [&](const std::string& name, std::vector<std::size_t> shape, double mean, double spread) {
    std::size_t n = 1;
    for (std::size_t extent : shape) n *= extent;
    const losa::Random random{.seed = seed, .stream = out.size()};
    Values values{std::move(shape), std::vector<float>(n)};
    for (std::size_t i = 0; i < n; ++i) values.data[i] = static_cast<float>(mean + spread * random.normal(i));
    out.emplace(name, std::move(values));
  };
  const double weight = 1.0 / std::sqrt(static_cast<double>(s.hidden));
  add("model.embed_tokens.weight", {s.vocabulary, s.hidden}, 0, 1);
  if (!s.tied) add("lm_head.weight", {s.vocabulary, s.hidden}, 0, 1);
  add("model.norm.weight", {s.hidden}, 1, 0.2);
  for (std::size_t b = 0; b < s.blocks; ++b) {
    add(llama::block_tensor(b, "input_layernorm.weight"), {s.hidden}, 1, 0.2);
    add(llama::block_tensor(b, "post_attention_layernorm.weight"), {s.hidden}, 1, 0.2);
    const std::size_t q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
    const std::size_t sizes[][2] = {{q, s.hidden},
                                    {kv, s.hidden},
                                    {kv, s.hidden},
                                    {s.hidden, q},
                                    {s.intermediate, s.hidden},
                                    {s.intermediate, s.hidden},
                                    {s.hidden, s.intermediate}};
    for (std::size_t which = 0; which < llama::linears_per_block; ++which)
      add(llama::linear_tensor(b, which), {sizes[which][0], sizes[which][1]}, 0, weight);
    for (std::size_t which = 0; which < llama::linears_per_block; ++which)
      if (which <= llama::output ? s.attention_bias : s.mlp_bias)
        add(llama::bias_tensor(b, which), {sizes[which][0]}, 0, 0.5);
  }
  return out;
}

inline void write_safetensors(const fs::path& path, const std::map<std::string, Values>& tensors,
                              const std::string& dtype = "float32",
                              const std::function<bool(const std::string&)>& only = {}) {
  losa::io::SafetensorsWriter writer(path.string());
  for (const auto& [name, values] : tensors) {
    if (only && !only(name)) continue;
    const losa::MatrixView<const float> flat(values.data.data(), 1, values.data.size());
    if (dtype == "bfloat16")
      writer.add_as<losa::bf16>(name, values.shape, flat);
    else if (dtype == "float16")
      writer.add_as<losa::f16>(name, values.shape, flat);
    else
      writer.add_as<float>(name, values.shape, flat);
  }
  writer.commit();
}

/// A whole model directory.
inline void write_model(const fs::path& path, const Shape& shape = {}, const std::string& dtype = "float32",
                        std::uint64_t seed = 1) {
  fs::create_directories(path);
  write_text(path / "config.json", config_json(shape, dtype).dump(2));
  write_safetensors(path / "model.safetensors", tensors(shape, seed), dtype);
}

inline std::vector<llama::Token> tokens(std::size_t n, std::size_t vocabulary, std::uint64_t seed = 5) {
  std::vector<llama::Token> out(n);
  for (std::size_t i = 0; i < n; ++i)
    out[i] = static_cast<llama::Token>(losa::Random{.seed = seed}.below(vocabulary, i));
  return out;
}

using Rows = std::vector<std::vector<double>>;  // [row][column]

/// The architecture in double, one token after the other, without a cache, tiles or tricks.
struct Oracle {
  llama::Config config;
  Rows embedding, head;
  std::vector<double> norm;
  std::vector<std::vector<double>> norm1, norm2;  // per block
  std::vector<std::vector<Rows>> linear;          // [block][which][out][in]
  std::vector<Rows> bias;                         // [block][which], empty where there is none

  explicit Oracle(const fs::path& directory) {
    const llama::Checkpoint checkpoint(directory);
    config = checkpoint.config();
    embedding = rows(checkpoint.read_embedding());
    head = config.tied ? embedding : rows(checkpoint.read_head());
    norm = widened(checkpoint.read_final_norm());
    for (std::size_t b = 0; b < config.blocks; ++b) {
      const auto norms = checkpoint.read_norms(b);
      norm1.push_back(widened(norms.attention));
      norm2.push_back(widened(norms.mlp));
      linear.emplace_back();
      bias.emplace_back();
      for (const auto& one : norms.biases) bias.back().push_back(widened(one));
      for (std::size_t which = 0; which < llama::linears_per_block; ++which) {
        const auto [out, in] = llama::linear_shape(config, which);
        llama::Matrix w(out, in);
        checkpoint.read_linear(b, which, w.view());
        linear.back().push_back(rows(w));
      }
    }
  }

  static std::vector<double> widened(const std::vector<float>& v) { return {v.begin(), v.end()}; }
  static Rows rows(const llama::Matrix& m) {
    Rows out;
    for (std::size_t r = 0; r < m.rows(); ++r) out.emplace_back(m.view().row(r).begin(), m.view().row(r).end());
    return out;
  }
  static std::vector<double> times(const Rows& w, const std::vector<double>& x, std::vector<double> y = {}) {
    y.resize(w.size());
    for (std::size_t r = 0; r < w.size(); ++r)
      for (std::size_t c = 0; c < x.size(); ++c) y[r] += w[r][c] * x[c];
    return y;
  }
  std::vector<double> normed(const std::vector<double>& x, const std::vector<double>& w) const {
    double squares = 0;
    for (double v : x) squares += v * v;
    const double r = 1 / std::sqrt(squares / static_cast<double>(x.size()) + config.norm_epsilon);
    std::vector<double> y(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) y[i] = w[i] * x[i] * r;
    return y;
  }
  std::vector<double> times(std::size_t b, std::size_t which, const std::vector<double>& x) const {
    return times(linear[b][which], x, bias[b][which]);
  }
  // As transformers writes it, by wavelengths.
  double frequency(std::size_t i) const {
    const llama::RopeScaling& s = config.rope_scaling;
    const double f =
        1 / std::pow(config.rope_theta, 2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim));
    if (s.kind == llama::RopeScaling::Kind::linear) return f / s.factor;
    if (s.kind == llama::RopeScaling::Kind::none) return f;
    const double wavelength = 2 * 3.14159265358979323846 / f;
    if (wavelength > s.first_context / s.low_frequency) return f / s.factor;
    if (wavelength < s.first_context / s.high_frequency) return f;
    const double smooth = (s.first_context / wavelength - s.low_frequency) / (s.high_frequency - s.low_frequency);
    return (1 - smooth) * f / s.factor + smooth * f;
  }
  void turn(std::vector<double>& x, std::size_t position) const {
    const std::size_t d = config.head_dim, half = d / 2;
    for (std::size_t h = 0; h < x.size(); h += d)
      for (std::size_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(position) * frequency(i);
        const double a = x[h + i], b = x[h + half + i];
        x[h + i] = a * std::cos(angle) - b * std::sin(angle);
        x[h + half + i] = b * std::cos(angle) + a * std::sin(angle);
      }
  }
  void block(std::size_t b, Rows& x) const {
    const std::size_t d = config.head_dim;
    Rows q, k, v;
    for (std::size_t t = 0; t < x.size(); ++t) {
      const auto h = normed(x[t], norm1[b]);
      q.push_back(times(b, llama::query, h));
      k.push_back(times(b, llama::key, h));
      v.push_back(times(b, llama::value, h));
      turn(q[t], t);
      turn(k[t], t);
    }
    for (std::size_t t = 0; t < x.size(); ++t) {
      std::vector<double> a(config.heads * d);
      for (std::size_t head_ = 0; head_ < config.heads; ++head_) {
        const std::size_t kv = head_ / (config.heads / config.kv_heads);
        std::vector<double> p(t + 1);
        double sum = 0;
        for (std::size_t j = 0; j <= t; ++j) {
          for (std::size_t i = 0; i < d; ++i) p[j] += q[t][head_ * d + i] * k[j][kv * d + i];
          sum += p[j] = std::exp(p[j] / std::sqrt(static_cast<double>(d)));
        }
        for (std::size_t j = 0; j <= t; ++j)
          for (std::size_t i = 0; i < d; ++i) a[head_ * d + i] += p[j] / sum * v[j][kv * d + i];
      }
      const auto o = times(b, llama::output, a);
      for (std::size_t i = 0; i < o.size(); ++i) x[t][i] += o[i];
      const auto n = normed(x[t], norm2[b]);
      auto g = times(b, llama::gate, n);
      const auto u = times(b, llama::up, n);
      for (std::size_t i = 0; i < g.size(); ++i) g[i] = g[i] / (1 + std::exp(-g[i])) * u[i];
      const auto y = times(b, llama::down, g);
      for (std::size_t i = 0; i < y.size(); ++i) x[t][i] += y[i];
    }
  }
  /// (tokens, vocabulary) of one sequence.
  Rows logits(std::span<const llama::Token> sequence) const {
    Rows x;
    for (llama::Token token : sequence) x.push_back(embedding[token]);
    for (std::size_t b = 0; b < config.blocks; ++b) block(b, x);
    for (auto& row : x) row = times(head, normed(row, norm));
    return x;
  }
  /// Σ −log p of the next tokens of one sequence.
  double nll(std::span<const llama::Token> sequence) const {
    const Rows z = logits(sequence);
    double total = 0;
    for (std::size_t t = 0; t + 1 < z.size(); ++t) {
      double sum = 0;
      for (double one : z[t]) sum += std::exp(one);
      total += std::log(sum) - z[t][sequence[t + 1]];
    }
    return total;
  }
};

}  // namespace toy
