// losa-llama bench: tokens per second of prefill and decode, dense against sparse in one run, and bytes of weights.

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <losa/core/random.hpp>
#include <losa/gemm.hpp>
#include <numeric>

#include "../blas.hpp"
#include "../model.hpp"
#include "common.hpp"
#include "storage.hpp"

namespace tool {
namespace {

using Clock = std::chrono::steady_clock;

struct BenchArguments {
  Common common;
  std::string model, layer;
  std::optional<std::size_t> prefill, decode;
  std::size_t repeats = 7;
  double sparsity = 0.7;
};

constexpr std::size_t default_prefill = 256;
constexpr std::size_t default_decode = 64;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

template <class F>
double seconds_of(F&& f) {
  const auto start = Clock::now();
  f();
  // At least a tick of the clock: rates are finite.
  return std::chrono::duration<double>(std::max(Clock::now() - start, Clock::duration(1))).count();
}

/// Dense and sparse in turn, so that both meet the same machine; medians.
template <class F>
std::pair<double, double> in_turn(std::size_t repeats, F&& run) {
  std::vector<double> dense, sparse;
  run(0);
  run(1);
  for (std::size_t i = 0; i < repeats; ++i) {
    dense.push_back(seconds_of([&] { run(0); }));
    sparse.push_back(seconds_of([&] { run(1); }));
  }
  return {median(dense), median(sparse)};
}

nlohmann::ordered_json row(double dense, double sparse, double tokens) {
  return {{"dense_tokens_per_second", tokens / dense},
          {"sparse_tokens_per_second", tokens / sparse},
          {"speedup", dense / sparse}};
}

void bench_model(const BenchArguments& a, Threads& pool) {
  const std::size_t positions = llama::read_config(a.model).positions;
  for (const auto& [name, tokens] : {std::pair("--prefill", a.prefill), std::pair("--decode", a.decode)})
    if (tokens && *tokens > positions)
      losa::detail::raise<losa::RangeError>(name, ": must be at most the model's max_position_embeddings ", positions,
                                            ", got ", *tokens);
  note_unmapped(a.model, 2);
  const llama::Model models[2] = {llama::Model::load(a.model, {.weights = llama::Weights::dense}, pool),
                                  llama::Model::load(a.model, {.weights = llama::Weights::sparse}, pool)};
  pool.begin_work();
  const llama::Config& config = models[0].config();
  const std::size_t prefill = a.prefill.value_or(std::min(default_prefill, config.positions));
  const std::size_t decode = a.decode.value_or(std::min(default_decode, config.positions));
  const losa::Random random{.seed = a.common.seed, .stream = 1};
  std::vector<llama::Token> tokens(std::max(prefill, decode));
  for (std::size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<llama::Token>(random.below(config.vocabulary, i));

  llama::Matrix hidden;
  const auto [dense_prefill, sparse_prefill] =
      in_turn(a.repeats, [&](int which) { models[which].forward(std::span(tokens).first(prefill), prefill, hidden); });
  const auto [dense_decode, sparse_decode] = in_turn(a.repeats, [&](int which) {
    llama::KvCache cache(config, decode);
    llama::Matrix logits(1, config.vocabulary);
    for (std::size_t i = 0; i < decode; ++i) {
      models[which].decode(std::span(tokens).subspan(i, 1), cache, hidden);
      models[which].head(hidden.view(), logits.view());
    }
  });

  const double sparsity =
      static_cast<double>(models[0].linear_zeros()) / static_cast<double>(models[0].linear_weights());
  nlohmann::ordered_json json{{"model", a.model},
                              {"sparsity", sparsity},
                              {"threads", pool.concurrency()},
                              {"backend", std::string(losa::backend_name())},
                              {"dense_bytes", models[0].bytes()},
                              {"sparse_bytes", models[1].bytes()},
                              {"prefill", row(dense_prefill, sparse_prefill, static_cast<double>(prefill))},
                              {"decode", row(dense_decode, sparse_decode, static_cast<double>(decode))}};
  write_json(a.common, json);
  char text[160];
  std::snprintf(text, sizeof text, "block weights %.2f %% zeros, %zu threads", 100 * sparsity, pool.concurrency());
  say(a.common, text);
  std::snprintf(text, sizeof text, "weights held   dense %11zu bytes   sparse %11zu bytes   %.2fx", models[0].bytes(),
                models[1].bytes(), static_cast<double>(models[0].bytes()) / static_cast<double>(models[1].bytes()));
  say(a.common, text);
  for (const char* phase : {"prefill", "decode"}) {
    const auto& r = json[phase];
    std::snprintf(text, sizeof text, "%-8s       dense %11.1f tok/s   sparse %11.1f tok/s   %.2fx", phase,
                  r["dense_tokens_per_second"].get<double>(), r["sparse_tokens_per_second"].get<double>(),
                  r["speedup"].get<double>());
    say(a.common, text);
  }
}

/// OUTxIN
std::pair<std::size_t, std::size_t> parse_layer(const std::string& text) {
  constexpr std::size_t most = std::size_t{1} << 24;
  std::size_t out = 0, in = 0;
  const char* end = text.data() + text.size();
  const auto [x, bad_out] = std::from_chars(text.data(), end, out);
  const bool divided = bad_out == std::errc() && x != end && *x == 'x';
  const auto [rest, bad_in] = std::from_chars(divided ? x + 1 : end, end, in);
  if (!divided || bad_in != std::errc() || rest != end || out == 0 || in == 0 || out > most || in > most)
    usage_error("--layer: expected OUTxIN such as 4096x4096, each at most ", most, ", got ", text);
  return {out, in};
}

/// One linear layer on its own, with copies enough that its weights come from memory and not from the cache.
void bench_layer(const BenchArguments& a, Threads& pool) {
  const auto [out, in] = parse_layer(a.layer);
  constexpr std::size_t cold_bytes = std::size_t{768} << 20;  // more than any last-level cache we have met
  constexpr std::size_t own_bytes = 4096;                     // what a copy takes beside its weights, and more
  const std::size_t copies = std::max<std::size_t>(2, cold_bytes / (out * in * sizeof(float) + own_bytes));
  const double weights = static_cast<double>(out) * static_cast<double>(in);
  const double needed = weights * (static_cast<double>(copies) * (sizeof(float) * (2 - a.sparsity) + 0.125) + 0.125);
  if (const std::size_t there = losa::usable_memory(); there != 0 && needed > static_cast<double>(there))
    losa::detail::raise<losa::RangeError>("--layer ", a.layer, ": ", copies, " copies, dense and sparse, need ",
                                          bytes_text(needed), " of memory; there are ",
                                          bytes_text(static_cast<double>(there)), " (machine, container, ulimit)");
  pool.begin_work();
  const losa::Random random{.seed = a.common.seed, .stream = 2};
  std::vector<llama::Matrix> dense;
  std::vector<losa::PackedMatrix<float>> sparse;
  losa::Mask mask(out, in);
  for (std::size_t r = 0; r < out; ++r)
    for (std::size_t c = 0; c < in; ++c) mask.set(r, c, random.uniform(r * in + c) >= a.sparsity);
  for (std::size_t i = 0; i < copies; ++i) {
    dense.emplace_back(out, in);
    for (std::size_t k = 0; k < out * in; ++k)
      dense.back().view().data[k] = static_cast<float>((k * 2654435761u >> 8) % 1000) * 1e-3f - 0.5f;
    sparse.push_back(losa::pack(dense.back().view(), mask, pool));
  }
  llama::Matrix x(1, in), y(1, out);
  for (std::size_t c = 0; c < in; ++c) x.view()(0, c) = static_cast<float>(c % 7) - 3.0f;
  std::size_t next = 0;
  const auto [dense_time, sparse_time] = in_turn(a.repeats * 3, [&](int which) {
    const std::size_t i = next++ / 2 % copies;
    if (which == 0) {
      llama::multiply(x.view(), dense[i].view(), y.view(), pool);
    } else {
      losa::spmm(sparse[i], x.view(), y.view(), pool);
    }
  });
  const std::size_t dense_bytes = out * in * sizeof(float);
  nlohmann::ordered_json json{
      {"layer", a.layer},
      {"sparsity", mask.sparsity()},
      {"threads", pool.concurrency()},
      {"backend", std::string(losa::backend_name())},
      {"dense_bytes", dense_bytes},
      {"sparse_bytes", sparse[0].bytes()},
      {"dense_microseconds", 1e6 * dense_time},
      {"sparse_microseconds", 1e6 * sparse_time},
      {"dense_gigabytes_per_second", 1e-9 * static_cast<double>(dense_bytes) / dense_time},
      {"sparse_gigabytes_per_second", 1e-9 * static_cast<double>(sparse[0].bytes()) / sparse_time},
      {"speedup", dense_time / sparse_time}};
  write_json(a.common, json);
  char text[192];
  std::snprintf(text, sizeof text,
                "layer %s at %.1f %%, one token, cold: dense %.0f µs (%.1f GB/s), sparse %.0f µs (%.1f GB/s), %.2fx",
                a.layer.c_str(), 100 * mask.sparsity(), 1e6 * dense_time,
                json["dense_gigabytes_per_second"].get<double>(), 1e6 * sparse_time,
                json["sparse_gigabytes_per_second"].get<double>(), dense_time / sparse_time);
  say(a.common, text);
}

void run_bench(const BenchArguments& a) {
  if (a.model.empty() == a.layer.empty()) usage_error("give either --model or --layer");
  if (!(a.sparsity >= 0 && a.sparsity < 1)) usage_error("--sparsity must be in [0, 1), got ", a.sparsity);
  if (a.prefill == std::size_t{0} || a.decode == std::size_t{0})
    usage_error("--prefill and --decode must be at least 1");
  constexpr std::size_t most_repeats = 1'000'000;
  if (a.repeats == 0 || a.repeats > most_repeats)
    usage_error("--repeats must be in [1, ", most_repeats, "], got ", a.repeats);
  Threads pool(a.common);
  if (a.layer.empty()) {
    bench_model(a, pool);
  } else {
    bench_layer(a, pool);
  }
}

}  // namespace

void add_bench(CLI::App& app) {
  auto a = std::make_shared<BenchArguments>();
  CLI::App* sub =
      app.add_subcommand("bench", "Tokens per second, dense against sparse in one run, and bytes of weights");
  sub->footer(
      "Examples:\n"
      "  losa-llama bench --model tiny-70\n"
      "  losa-llama bench --layer 4096x4096 --sparsity 0.7\n"
      "A model that fits into the cache gains little; weights that come from memory gain most.");
  sub->add_option("--model", a->model, "a merged or compressed model: held dense and sparse in turn");
  sub->add_option("--layer", a->layer, "OUTxIN: one cold linear layer instead of a model");
  sub->add_option("--sparsity", a->sparsity, "of the layer")->capture_default_str();
  sub->add_option("--prefill", a->prefill, "tokens of the prefill (default: 256, or what the model can take)")
      ->check(whole_number());
  sub->add_option("--decode", a->decode, "tokens decoded one by one (default: 64, or what the model can take)")
      ->check(whole_number());
  sub->add_option("--repeats", a->repeats, "repeats; medians are reported")
      ->check(whole_number())
      ->capture_default_str();
  add_common(*sub, a->common);
  sub->callback([a] { run_bench(*a); });
}

}  // namespace tool
