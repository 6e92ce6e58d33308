#include "adapt_engine.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <losa/adapt/adapt.hpp>
#include <losa/adapter/lora.hpp>
#include <losa/adapter/masked_lora.hpp>
#include <losa/allocate/rank.hpp>
#include <losa/allocate/schedule.hpp>
#include <losa/allocate/water_fill.hpp>
#include <losa/core/thread_pool.hpp>
#include <losa/mask/sparsegpt.hpp>
#include <optional>
#include <tuple>

#include "model.hpp"
#include "toy_model.hpp"

using llama::AdaptEngine;
using llama::Matrix;
using llama::Token;
using Engine = AdaptEngine<losa::MaskedLora>;

static_assert(losa::Engine<Engine>);
static_assert(losa::Engine<AdaptEngine<losa::Lora>>);

namespace {

const llama::AdaptEngineOptions small{
    .calibration_sequences = 3, .calibration_context = 10, .batch = 2, .context = 9, .seed = 7};

/// Masks every layer at random, gives it an adapter with factors that are not zero.
template <class E>
void prune(E& engine, double sparsity, double dropout = 0, std::uint64_t seed = 3) {
  std::uint64_t stream = 0;
  for (std::size_t b = 0; b < engine.blocks(); ++b)
    for (auto& layer : engine.linears(b)) {
      ++stream;
      losa::Mask mask(layer.out(), layer.in());
      const losa::Random random{.seed = seed, .stream = stream};
      for (std::size_t r = 0; r < layer.out(); ++r)
        for (std::size_t c = 0; c < layer.in(); ++c) mask.set(r, c, random.uniform(r * layer.in() + c) >= sparsity);
      layer.set_mask(std::move(mask), engine.executor());
      layer.attach({layer.out(), layer.in(), {.rank = 3, .dropout = dropout, .seed = seed, .stream = stream}});
      for (auto span : layer.adapter().parameters())
        for (std::size_t i = 0; i < span.size(); ++i)
          span[i] = static_cast<float>(0.1 * losa::Random{.seed = seed + 1, .stream = stream}.normal(i + span.size()));
      layer.refresh();
    }
}

/// The oracle with the weights that an engine's layers stand for: M⊙(W + σBA), or M⊙W + σBA for plain LoRA.
template <class A>
void take_weights(toy::Oracle& oracle, AdaptEngine<A>& engine) {
  for (std::size_t b = 0; b < engine.blocks(); ++b)
    for (const auto& layer : engine.linears(b))
      for (std::size_t which = 0; which < llama::linears_per_block; ++which) {
        if (layer.name != llama::block_tensor(b, llama::linear_names[which])) continue;
        const auto& adapter = layer.adapter();
        for (std::size_t r = 0; r < layer.out(); ++r)
          for (std::size_t c = 0; c < layer.in(); ++c) {
            double delta = 0;
            for (std::size_t k = 0; k < adapter.rank(); ++k)
              delta += static_cast<double>(adapter.bt()(k, r)) * static_cast<double>(adapter.a()(k, c));
            delta *= adapter.scale();
            const double kept = layer.mask()(r, c) ? 1 : 0;
            oracle.linear[b][which][r][c] = A::mergeable ? kept * (static_cast<double>(layer.weight(r, c)) + delta)
                                                         : kept * static_cast<double>(layer.weight(r, c)) + delta;
          }
      }
}

template <class E>
double oracle_loss(const toy::Oracle& oracle, E& engine, const std::vector<Token>& training, std::uint64_t step) {
  double sum = 0;
  for (std::size_t start : engine.window_starts(step)) sum += oracle.nll(std::span(training).subspan(start, 9));
  return sum / (2 * 8);
}

template <class E>
std::vector<float> all_gradients(E& engine) {
  std::vector<float> out;
  for (std::size_t b = 0; b < engine.blocks(); ++b)
    for (const auto& layer : engine.linears(b)) {
      out.insert(out.end(), layer.gradients.a.begin(), layer.gradients.a.end());
      out.insert(out.end(), layer.gradients.bt.begin(), layer.gradients.bt.end());
    }
  return out;
}

template <class A>
void check_gradients(const toy::Shape& shape, const std::string& skip) {
  const toy::Folder folder;
  toy::write_model(folder / "m", shape);
  const auto training = toy::tokens(60, shape.vocabulary);
  llama::AdaptEngineOptions options = small;
  options.skip = skip;
  AdaptEngine<A> engine(folder / "m", training, training, options);
  prune(engine, 0.4);
  toy::Oracle oracle(folder / "m");
  take_weights(oracle, engine);
  const double loss = engine.train_step(5);
  CHECK(loss == doctest::Approx(oracle_loss(oracle, engine, training, 5)).epsilon(1e-6));

  // Every weight's own slope would take long: some entries of both factors of every layer.
  double largest = 0;
  for (std::size_t b = 0; b < engine.blocks(); ++b)
    for (auto& layer : engine.linears(b)) {
      CAPTURE(layer.name);
      const auto parameters = layer.adapter().parameters();
      for (std::size_t factor = 0; factor < 2; ++factor)
        for (std::size_t i = 0; i < parameters[factor].size(); i += 1 + parameters[factor].size() / 4) {
          float& p = parameters[factor][i];
          const float kept = p;
          const auto value = [&](float at) {
            p = at;
            take_weights(oracle, engine);
            return oracle_loss(oracle, engine, training, 5);
          };
          const float up = kept + 1e-3f, down = kept - 1e-3f;
          const double slope = (value(up) - value(down)) / (static_cast<double>(up) - static_cast<double>(down));
          p = kept;
          const auto& gradient = factor == 0 ? layer.gradients.a : layer.gradients.bt;
          CHECK(std::abs(static_cast<double>(gradient[i]) - slope) < 2e-6 + 1e-4 * std::abs(slope));
          largest = std::max(largest, std::abs(slope));
        }
    }
  CHECK(largest > 1e-2);  // there was something to compare
}

}  // namespace

TEST_CASE("adapt engine: loss and every layer's gradients equal differences of the oracle") {
  SUBCASE("masked adapters, tied head") { check_gradients<losa::MaskedLora>({}, ""); }
  SUBCASE("masked adapters, own head") {
    toy::Shape shape;
    shape.tied = false;
    check_gradients<losa::MaskedLora>(shape, "");
  }
  SUBCASE("plain adapters") { check_gradients<losa::Lora>({}, ""); }
  SUBCASE("biases, scaled frequencies and wide heads") {
    toy::Shape shape{.head_dim = 6, .attention_bias = true, .mlp_bias = true};
    shape.rope_scaling = {{"rope_type", "llama3"},
                          {"factor", 8},
                          {"low_freq_factor", 1},
                          {"high_freq_factor", 4},
                          {"original_max_position_embeddings", 40}};
    check_gradients<losa::MaskedLora>(shape, "");
  }
  SUBCASE("some layers stay dense") {
    check_gradients<losa::MaskedLora>({}, "o_proj|layers\\.1\\.mlp\\.(up|down)|0.*k_proj");
  }
}

TEST_CASE("adapt engine: skipped layers are not listed, the others name their input") {
  const toy::Folder folder;
  toy::write_model(folder / "m");
  const auto tokens = toy::tokens(60, 19);
  llama::AdaptEngineOptions options = small;
  options.skip = "layers\\.0|down_proj";
  Engine engine(folder / "m", tokens, tokens, options);
  CHECK(engine.linears(0).empty());
  std::vector<std::string> names;
  std::vector<std::size_t> inputs;
  for (const auto& layer : engine.linears(1)) {
    names.push_back(layer.name);
    inputs.push_back(layer.input);
  }
  CHECK(names == std::vector<std::string>{"model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.k_proj",
                                          "model.layers.1.self_attn.v_proj", "model.layers.1.self_attn.o_proj",
                                          "model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"});
  CHECK(inputs == std::vector<std::size_t>{0, 0, 0, 1, 2, 2});
}

TEST_CASE("adapt engine: blocks run as the model does, and show each distinct input once") {
  const toy::Folder folder;
  toy::write_model(folder / "m");
  const auto tokens = toy::tokens(60, 19);
  Engine engine(folder / "m", tokens, tokens, small);
  const llama::Model model = llama::Model::load(folder / "m");
  for (std::size_t i = 0; i < 3; ++i) {
    Matrix hidden(10, 12), original(10, 12), logits(10, 19), expected;
    engine.embed(i, hidden.view());
    engine.embed(i, original.view());
    for (std::size_t b = 0; b < 2; ++b) {
      std::vector<std::size_t> seen, widths;
      const Matrix before = hidden;
      engine.observe_block(b, hidden.cview(), 10, [&](std::size_t input, losa::MatrixView<const float> x) {
        seen.push_back(input);
        widths.push_back(x.cols);
        CHECK(x.rows == 10);
        if (input == 0) {
          std::vector<float> scale(10);
          Matrix normed(10, 12);
          llama::rms_norm(before.cview(), engine.checkpoint().read_norms(b).attention, 1e-5, normed.view(), scale);
          CHECK(x(9, 11) == normed.view()(9, 11));
        }
      });
      CHECK(seen == std::vector<std::size_t>{0, 1, 2, 3});
      CHECK(widths == std::vector<std::size_t>{12, 16, 12, 20});
      CHECK(std::memcmp(hidden.view().data, before.view().data, hidden.bytes()) == 0);
      engine.run_block(b, hidden.view(), 10);
      engine.run_original_block(b, original.view(), 10);
      CHECK(std::memcmp(hidden.view().data, original.view().data, hidden.bytes()) == 0);
    }
    const auto window = llama::spread_window(tokens, 3, i, 10);
    engine.logits(window, logits.view());
    model.forward(window, 10, expected);
    Matrix z(10, 19);
    model.head(expected.cview(), z.view());
    CHECK(std::memcmp(logits.view().data, z.view().data, z.bytes()) == 0);
  }
  // Pruning changes the blocks, never the originals.
  Matrix a(10, 12), b(10, 12);
  engine.embed(0, a.view());
  engine.embed(0, b.view());
  engine.run_original_block(0, a.view(), 10);
  prune(engine, 0.5);
  Matrix c = b, d = b;
  engine.run_original_block(0, b.view(), 10);
  engine.run_block(0, c.view(), 10);
  CHECK(std::memcmp(a.view().data, b.view().data, a.bytes()) == 0);
  CHECK(std::memcmp(a.view().data, c.view().data, a.bytes()) != 0);
  for (auto& layer : engine.linears(0)) {  // as a policy does that rewrites what it keeps
    Matrix before(layer.out(), layer.in()), after(layer.out(), layer.in());
    after.fill(1);
    layer.absorb(before.cview(), after.cview(), layer.mask());
  }
  engine.run_original_block(0, d.view(), 10);
  CHECK(std::memcmp(a.view().data, d.view().data, a.bytes()) == 0);
}

TEST_CASE("adapt engine: loss, gradients and logits are the same bits for 1, 2 and 3 threads, kept or recomputed") {
  const toy::Folder folder;
  const toy::Shape shape{
      .vocabulary = 61, .hidden = 64, .intermediate = 96, .heads = 4, .kv_heads = 2, .head_dim = 16, .positions = 128};
  toy::write_model(folder / "m", shape);
  const auto tokens = toy::tokens(700, shape.vocabulary);
  std::optional<double> loss;
  std::vector<float> gradients;
  Matrix logits(80, 61);
  for (std::size_t threads : std::initializer_list<std::size_t>{1, 2, 3})
    for (std::size_t kept : std::initializer_list<std::size_t>{0, std::size_t{1} << 28}) {
      losa::ThreadPool pool(threads);
      Engine engine(folder / "m", tokens, tokens,
                    {.calibration_sequences = 2,
                     .calibration_context = 80,
                     .batch = 3,
                     .context = 80,
                     .seed = 2,
                     .activation_bytes = kept},
                    pool);
      prune(engine, 0.6, 0.3);
      const double got = engine.train_step(4);
      Matrix z(80, 61);
      engine.logits(std::span(tokens).first(80), z.view());
      if (!loss) {
        loss = got;
        gradients = all_gradients(engine);
        logits = z;
      }
      CHECK(got == *loss);
      CHECK(std::memcmp(all_gradients(engine).data(), gradients.data(), gradients.size() * sizeof(float)) == 0);
      CHECK(std::memcmp(z.view().data, logits.view().data, z.bytes()) == 0);
      engine.train_step(5);
      CHECK(all_gradients(engine) != gradients);
      CHECK(engine.train_step(4) == *loss);  // a pure function of the step
      CHECK(all_gradients(engine) == gradients);
    }
}

TEST_CASE("adapt engine: a batch is the next windows of its seed's passes over the text") {
  const toy::Folder folder;
  toy::write_model(folder / "m");
  const auto tokens = toy::tokens(100, 19);
  llama::AdaptEngineOptions options = small;
  for (std::uint64_t seed : {std::uint64_t{7}, std::uint64_t{8}}) {
    options.seed = seed;
    Engine engine(folder / "m", tokens, tokens, options);
    llama::ShuffledWindows windows(100, options.context, {.seed = seed, .stream = ~std::uint64_t{0}});
    for (std::uint64_t step : {std::uint64_t{0}, std::uint64_t{9}, std::uint64_t{1} << 40, std::uint64_t{3}}) {
      const auto starts = engine.window_starts(step);
      CHECK(starts.size() == options.batch);
      for (std::size_t i = 0; i < starts.size(); ++i) CHECK(starts[i] == windows.start(step * options.batch + i));
    }
  }
}

TEST_CASE("adapt engine: mean_nll is the oracle's") {
  const toy::Folder folder;
  toy::write_model(folder / "m");
  const auto tokens = toy::tokens(60, 19);
  Engine engine(folder / "m", tokens, tokens, small);
  prune(engine, 0.5);
  toy::Oracle oracle(folder / "m");
  take_weights(oracle, engine);
  double sum = 0;
  for (std::size_t i = 0; i < 3; ++i) sum += oracle.nll(std::span(tokens).subspan(i * 20, 20));
  CHECK(engine.mean_nll(tokens, 20) == doctest::Approx(sum / (3 * 19)).epsilon(1e-6));
  CHECK(engine.mean_nll(tokens, 20, 1) == doctest::Approx(oracle.nll(std::span(tokens).first(20)) / 19).epsilon(1e-6));
  CHECK_THROWS_AS(engine.mean_nll(tokens, 20, 4), losa::RangeError);
  CHECK_THROWS_AS(engine.mean_nll(tokens, 61), losa::RangeError);
}

TEST_CASE("adapt engine: options that cannot be met are refused in one sentence") {
  const toy::Folder folder;
  toy::write_model(folder / "m");
  const auto tokens = toy::tokens(60, 19);
  const auto error = [&](auto&& change, std::vector<Token> training) {
    llama::AdaptEngineOptions options = small;
    change(options);
    try {
      Engine engine(folder / "m", tokens, std::move(training), options);
    } catch (const losa::Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  const auto nothing = [](auto&) {};
  CHECK(error(nothing, tokens).empty());
  CHECK(error(nothing, toy::tokens(8, 19)) == "training needs at least one window of 9 tokens, got 8");
  CHECK(error(nothing, toy::tokens(50, 40)).find("outside the vocabulary of 19") != std::string::npos);
  CHECK(error([](auto& o) { o.batch = 0; }, tokens).find("batch must be at least 1") == 0);
  CHECK(error([](auto& o) { o.context = 65; }, tokens) == "context must be in [2, 64], got 65");
  CHECK(error([](auto& o) { o.context = 1; }, tokens) == "context must be in [2, 64], got 1");
  CHECK(error([](auto& o) { o.calibration_context = 65; }, tokens).find("calibration context") == 0);
  CHECK(error([](auto& o) { o.calibration_sequences = 0; }, tokens).find("calibration sequences") == 0);
  CHECK(error(
            [](auto& o) {
              o.calibration_sequences = 7;
              o.calibration_context = 20;
            },
            tokens)
            .find("do not fit") != std::string::npos);
  CHECK(error([](auto& o) { o.skip = "(["; }, tokens) == "skip: \"([\" is no regular expression");
  CHECK(error([](auto& o) { o.skip = "proj"; }, tokens) == "skip: \"proj\" skips every layer");
}

TEST_CASE("adapt engine: one block in memory at a time gives the same bits") {
  const toy::Folder folder;
  const toy::Shape shape{
      .vocabulary = 61, .hidden = 64, .intermediate = 96, .heads = 4, .kv_heads = 2, .head_dim = 16, .positions = 128};
  const auto tokens = toy::tokens(400, 61);
  for (const char* dtype : {"float32", "bfloat16"}) {
    toy::write_model(folder / dtype, shape, dtype);
    const auto outcome = [&](const std::string& scratch) {
      Engine engine(folder / dtype, tokens, tokens,
                    {.calibration_sequences = 4, .calibration_context = 16, .context = 16, .scratch = scratch});
      losa::AdaptOptions options;
      options.sparsity = 0.6;
      options.steps = 2;
      options.train_steps = 6;
      options.lora.dropout = 0.1;
      options.learning_rate = 0.01;
      options.report_rmi = true;
      options.report_context = 4;
      const losa::Recipe recipe{losa::WaterFill{}, losa::ErrorRank{.min = 1, .max = 6}, losa::Cubic{},
                                losa::RecipeOptions{.mean_rank = 3}};
      std::vector<std::vector<float>> merged;
      losa::Adaptation run(engine, losa::SparseGpt{}, recipe, options);
      CHECK(run.run({}, {}, {.begin = {}, .block = [&](std::size_t b) {
                               for (const auto& one : llama::merged_weights(engine, b))
                                 merged.emplace_back(one.weight.values().begin(), one.weight.values().end());
                             }}));
      return std::tuple(run.report().loss, run.report().steps.back().error, run.report().steps.front().rmi, merged,
                        engine.mean_nll(tokens, 16, 4));
    };
    CHECK(outcome("") == outcome((folder / ".").string()));
  }
}
