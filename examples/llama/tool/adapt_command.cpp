// losa-llama adapt: prunes a model, trains adapters under the mask, merges, and writes the result.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <limits>
#include <losa/adapt/adapt.hpp>
#include <losa/adapter/lora.hpp>
#include <losa/adapter/masked_lora.hpp>
#include <losa/core/finite.hpp>
#include <losa/io/adapter_file.hpp>
#include <losa/io/atomic_file.hpp>
#include <losa/io/mapped_file.hpp>
#include <losa/io/safetensors_file.hpp>
#include <losa/io/sharded_checkpoint.hpp>
#include <losa/io/state_file.hpp>
#include <losa/version.hpp>
#include <map>
#include <regex>

#include "../adapt_engine.hpp"
#include "../config.hpp"
#include "../tokens.hpp"
#include "adapt_report.hpp"
#include "common.hpp"
#include "methods.hpp"
#include "notes.hpp"
#include "perplexity.hpp"
#include "progress_bar.hpp"
#include "result_files.hpp"
#include "run_directory.hpp"
#include "storage.hpp"

namespace tool {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

struct AdaptArguments {
  Common common;
  MethodChoice choice;
  std::string model, train, out, pattern, skip, dtype;
  std::string memory = "auto";
  double save_every = 1;
  std::optional<double> sparsity;
  std::size_t token_bits = 0;
  std::size_t train_tokens = 51200;
  std::size_t batch = 2;
  std::size_t context = 256;
  double alpha = 16;
  std::size_t calibration_sequences = 32;
  std::size_t calibration_context = 256;
  double hold_out = 0;
  bool resume = false;
  std::optional<bool> keep_mask;
  std::optional<losa::NofM> n_of_m;
  std::string command;
};

/// "2:4" → NofM{2, 4}.
losa::NofM parse_pattern(const std::string& text) {
  unsigned n = 0;
  unsigned m = 0;
  int used = 0;
  if (std::sscanf(text.c_str(), "%9u:%9u%n", &n, &m, &used) != 2 || static_cast<std::size_t>(used) != text.size() ||
      n == 0 || n >= m)
    usage_error("--pattern: expected N:M with 0 < N < M, such as 2:4, got ", text);
  return {n, m};
}

void check(AdaptArguments& a) {
  if (!a.pattern.empty()) {
    a.n_of_m = parse_pattern(a.pattern);
    const double implied = 1.0 - static_cast<double>(a.n_of_m->n) / static_cast<double>(a.n_of_m->m);
    if (a.sparsity && std::abs(*a.sparsity - implied) > 1e-9)
      usage_error("--sparsity ", *a.sparsity, ": --pattern ", a.pattern, " makes it ", implied, "; leave it out");
    a.sparsity = implied;
  }
  if (!a.sparsity) usage_error("--sparsity is required (or --pattern N:M)");
  if (!(*a.sparsity >= 0 && *a.sparsity < 1)) usage_error("--sparsity must be in [0, 1), got ", *a.sparsity);
  if (!(a.hold_out >= 0 && a.hold_out < 1)) usage_error("--hold-out must be in [0, 1), got ", a.hold_out);
  if (!(a.save_every >= 0 && a.save_every <= 1e6))
    usage_error("--save-every must be in [0, 1000000] minutes, got ", a.save_every);
  if (a.batch == 0) usage_error("--batch must be at least 1");
  if (a.calibration_sequences == 0) usage_error("--calibration-sequences must be at least 1");
  if (a.context < 2 || a.calibration_context < 2) usage_error("--context and --calibration-context must be at least 2");
  a.choice = resolve(a.choice, a.n_of_m.has_value(), *a.sparsity);
  if (a.choice.trains() && a.train_tokens / a.batch < a.context)
    usage_error("--train-tokens must be at least one batch of ", a.batch, " × ", a.context, ", got ", a.train_tokens);
  const double rate = *a.choice.learning_rate;
  if (!(losa::detail::is_finite(rate) && rate > 0)) usage_error("--lr must be positive, got ", rate);
  if (!losa::detail::is_finite(a.alpha)) usage_error("--alpha must be finite, got ", a.alpha);
  if (!(*a.choice.delta >= 0 && *a.choice.delta <= 1)) usage_error("--delta must be in [0, 1], got ", *a.choice.delta);
  const double early = *a.choice.training.early_share;
  if (!(early >= 0 && early * static_cast<double>(*a.choice.steps - 1) <= 1))
    usage_error("--early-share must be in [0, 1/(schedule steps - 1)], got ", early);
  if (!(*a.choice.mean_rank >= 1)) usage_error("--mean-rank must be at least 1, got ", *a.choice.mean_rank);
  try {
    (void)std::regex(a.skip);
  } catch (const std::regex_error&) {
    usage_error("--skip: ", a.skip, " is no regular expression");
  }
}

/// As many sequences of the held-out part are evaluated: enough to tell methods apart, in seconds.
constexpr std::size_t hold_out_sequences = 128;

llama::KeepMask keep_mask(const AdaptArguments& a) {
  if (!a.keep_mask) return llama::KeepMask::stored;
  return *a.keep_mask ? llama::KeepMask::zeros : llama::KeepMask::none;
}

/// Every argument that the result depends on, each always there: what was not given differs from what was.
Json arguments_json(const AdaptArguments& a) {
  Json json{{"model", a.model},
            {"train", a.train},
            {"method", a.choice.method},
            {"mask", a.choice.mask},
            {"sparsity", *a.sparsity},
            {"pattern", a.pattern.empty() ? Json() : Json(a.pattern)},
            {"sparsity_allocation", a.choice.sparsity_allocation},
            {"rank_allocation", a.choice.rank_allocation},
            {"schedule", a.choice.schedule},
            {"schedule_steps", *a.choice.steps},
            {"regrow", *a.choice.regrow},
            {"delta", *a.choice.delta},
            {"train_tokens", a.train_tokens},
            {"batch", a.batch},
            {"context", a.context},
            {"learning_rate", *a.choice.learning_rate},
            {"early_share", *a.choice.training.early_share},
            {"warmup", a.choice.training.warmup},
            {"weight_decay", a.choice.training.weight_decay},
            {"clip", a.choice.training.clip},
            {"dropout", a.choice.training.dropout},
            {"mean_rank", *a.choice.mean_rank},
            {"alpha", a.alpha},
            {"calibration_sequences", a.calibration_sequences},
            {"calibration_context", a.calibration_context},
            {"hold_out", a.hold_out},
            {"skip", a.skip},
            {"dtype", a.dtype},
            {"seed", a.common.seed},
            {"keep_mask", a.keep_mask ? Json(*a.keep_mask) : Json()}};  // null: where the file stores a mask
  return json;
}

constexpr std::uint64_t fnv_start = 14695981039346656037ull;
std::uint64_t fnv(std::uint64_t hash, std::uint64_t value) { return (hash ^ value) * 1099511628211ull; }

/// Over config.json and the names, sizes and samples of a model's tensors: tells models apart without reading all.
std::uint64_t model_hash(const std::string& directory) {
  std::uint64_t hash = fnv_start;
  const auto add = [&](std::span<const std::byte> bytes) {
    for (std::byte b : bytes) hash = fnv(hash, std::to_integer<std::uint64_t>(b));
  };
  add(losa::io::MappedFile((std::filesystem::path(directory) / "config.json").string()).bytes());
  const losa::io::ShardedCheckpoint files(directory);
  constexpr std::size_t samples = 16, sample = 1024;
  for (const losa::io::Tensor* tensor : files.tensors()) {
    add(std::as_bytes(std::span(tensor->name)));
    hash = fnv(hash, tensor->bytes.size());
    for (std::size_t i = 0; i < samples; ++i) {
      const std::size_t at = tensor->bytes.size() / samples * i;
      add(tensor->bytes.subspan(at, std::min(sample, tensor->bytes.size() - at)));
    }
    losa::io::release_pages(tensor->bytes);  // a page that is touched may bring megabytes around it
  }
  return hash;
}

/// Bytes of the dense masters of a model.
std::size_t linear_bytes(const llama::Config& config) {
  std::size_t sum = 0;
  for (std::size_t which = 0; which < llama::linears_per_block; ++which) {
    const auto [out, in] = llama::linear_shape(config, which);
    sum += out * in * sizeof(float);
  }
  return sum * config.blocks;
}

/// A finished run has them all; throws losa::FileError if one was removed or damaged since.
void expect_all_files(const std::filesystem::path& out) {
  namespace fs = std::filesystem;
  const auto expect = [](const fs::path& file) {
    if (!fs::exists(file))
      losa::detail::raise<losa::FileError>(file.string(), ": is missing from a finished run; remove ",
                                           "the directory and run again");
  };
  for (const fs::path& folder : {out, out / "compressed"}) {
    expect(folder / "config.json");
    if (!fs::exists(folder / "model.safetensors.index.json")) expect(folder / "model.safetensors");
  }
  expect(out / "adapter" / "adapter.safetensors");
  // Whole files, with every tensor of the model in its shape.
  for (const fs::path& folder : {out, out / "compressed"}) llama::Checkpoint checkpoint(folder);
  losa::io::SafetensorsFile adapter((out / "adapter" / "adapter.safetensors").string());
}

/// The same, and the content that stands behind the names: what a saved state must have been made with. Reads all
/// tokens.
std::string fingerprint(const AdaptArguments& a, const llama::Tokens& tokens) {
  std::uint64_t hash = fnv_start;
  tokens.for_each_piece([&](std::span<const llama::Token> ids) {
    for (llama::Token token : ids) hash = fnv(hash, token);
  });
  Json json = arguments_json(a);
  json["model_hash"] = model_hash(a.model);
  json["losa"] = LOSA_VERSION_STRING;
  json["backend"] = losa::backend_name();  // its sums have an order of their own
  json["windows"] = "shuffled passes";
  json["token_bits"] = a.token_bits;
  json["tokens"] = tokens.size();
  json["tokens_hash"] = hash;
  return text_of(json);
}

/// Names of what a fingerprint identifies by its content: another way to say the same is no difference.
constexpr std::string_view ways_of_saying[] = {"model", "train", "token_bits"};

/// Refuses to go on with what was made with other arguments, and names those that differ.
void expect_same_arguments(const std::string& out, const std::string& saved, const std::string& print) {
  const Json before = Json::parse(saved, nullptr, false);
  const Json now = Json::parse(print);
  std::string differing;
  const auto compare = [&](const std::string& key, const Json& was, const Json& is) {
    if (was == is || std::ranges::find(ways_of_saying, key) != std::end(ways_of_saying)) return;
    differing += (differing.empty() ? "" : ", ") + key + " " + text_of(was) + ", now " + text_of(is);
  };
  for (const auto& [key, value] : now.items())
    compare(key, before.is_object() && before.contains(key) ? before[key] : Json("unknown"), value);
  if (before.is_object())
    for (const auto& [key, value] : before.items())
      if (!now.contains(key)) compare(key, value, Json("unknown"));
  if (!differing.empty())
    losa::detail::raise<losa::FileError>("--out ", out, ": the run there has other arguments: ", differing);
}

llama::OutputType output_type(const std::string& dtype) {
  if (dtype == "f32") return llama::OutputType::f32;
  if (dtype == "bf16") return llama::OutputType::bf16;
  return llama::OutputType::as_input;
}

/// What the object `run` of the report tells, kept over resumes.
struct RunLog {
  std::uint64_t resumes = 0;
  std::map<std::string, double> seconds{
      {"mutual information", 0}, {"sensitivity", 0}, {"prune", 0}, {"train", 0}, {"write", 0}};

  DampingLog damping;

  template <class V>
  void visit(V& visitor) {
    visitor("resumes", resumes);
    for (auto& [phase, value] : seconds) visitor("seconds." + phase, value);
    visitor.group("damping.", [&] { damping.visit(visitor); });
  }
};

/// The smallest side of any layer that gets an adapter.
template <class E>
std::size_t smallest_side(E& engine) {
  std::size_t smallest = std::numeric_limits<std::size_t>::max();
  for (std::size_t b = 0; b < engine.blocks(); ++b)
    for (const auto& layer : engine.linears(b)) smallest = std::min({smallest, layer.out(), layer.in()});
  return smallest;
}

/// What the model's layers hold of zeros before anything is pruned, and what becomes of them.
struct InputZeros {
  std::size_t weights = 0;  // of all layers that are adapted
  std::size_t layers = 0;   // whose zeros stay
  std::size_t zeros = 0;    // in them
  std::size_t loose = 0;    // layers with a notable share of zeros that may move
};

template <class E>
InputZeros input_zeros(E& engine) {
  InputZeros found;
  for (std::size_t b = 0; b < engine.blocks(); ++b)
    for (const auto& layer : engine.linears(b)) {
      const std::size_t size = layer.out() * layer.in();
      found.weights += size;
      if (layer.restricted()) {
        ++found.layers;
        found.zeros += layer.support_zeros();
        continue;
      }
      const auto which =
          std::ranges::find_if(llama::linear_names, [&](auto name) { return layer.name.ends_with(name); });
      const std::size_t zeros = engine.checkpoint().zeros(
          b, static_cast<std::size_t>(which - llama::linear_names.begin()), engine.executor());
      found.loose += static_cast<double>(zeros) >= llama::notable_sparsity * static_cast<double>(size);
    }
  return found;
}

void tell(const InputZeros& input, const AdaptArguments& a) {
  if (input.loose != 0 && !a.keep_mask)
    note(losa::detail::text("at least a tenth of the weights is zero already in ", input.loose,
                            " layers, without a stored mask; these zeros may move (--keep-mask keeps them, "
                            "--no-keep-mask ends this line)"));
  const double share = static_cast<double>(input.zeros) / static_cast<double>(input.weights);
  if (share > *a.sparsity && !a.n_of_m)
    note(losa::detail::text("the model's masks prune ", std::round(share * 1e4) / 1e4,
                            " of the weights already, more than ", *a.sparsity,
                            "; they stay (--no-keep-mask lets them go)"));
}

template <losa::Adapter A>
void run_adapt(const AdaptArguments& a) {
  const llama::Config config = llama::read_config(a.model);
  note_unmapped(a.model, 3);   // the engine and both results read it at once
  llama::Checkpoint{a.model};  // a config.json that lies is told as such, not as a token out of range
  llama::find_side_files(a.model, {.out = {}, .own = a.out});  // what cannot be copied is told before the work
  const llama::Tokens text = llama::open_tokens(a.train, config.vocabulary, a.token_bits, end_if_interrupted);
  std::string print = fingerprint(a, text);
  const auto held = static_cast<std::size_t>(a.hold_out * static_cast<double>(text.size()));
  const llama::Tokens tokens = text.part(0, text.size() - held), held_out = text.part(text.size() - held, held);
  if (a.hold_out > 0 && held < a.context)
    losa::detail::raise<losa::RangeError>("--hold-out ", a.hold_out, ": leaves ", held,
                                          " tokens, fewer than one sequence of ", a.context);

  Threads pool(a.common);
  RunDirectory directory(a.out, a.resume);
  if (directory.complete()) {
    std::ifstream file(directory.report());
    const Json report = Json::parse(file, nullptr, false);
    expect_same_arguments(a.out,
                          report.is_object() && report.contains("fingerprint") && report["fingerprint"].is_string()
                              ? report["fingerprint"].get<std::string>()
                              : std::string(),
                          print);
    expect_all_files(a.out);
    say(a.common, a.out + " is complete");
    write_json(a.common, report);
    return;
  }
  const bool park = a.memory == "block" || (a.memory == "auto" && linear_bytes(config) > losa::usable_memory() / 4);
  const llama::AdaptEngineOptions engine_options{.calibration_sequences = a.calibration_sequences,
                                                 .calibration_context = a.calibration_context,
                                                 .batch = a.batch,
                                                 .context = a.context,
                                                 .seed = a.common.seed,
                                                 .skip = a.skip,
                                                 .keep_mask = keep_mask(a),
                                                 .scratch = park ? directory.scratch().string() : std::string()};
  if (park) note_unmapped_scratch(directory.scratch().string());
  llama::AdaptEngine<A> engine(a.model, tokens, tokens, engine_options, pool);
  pool.begin_work();
  const InputZeros input = input_zeros(engine);
  tell(input, a);

  losa::AdaptOptions options;
  options.sparsity = *a.sparsity;
  options.n_of_m = a.n_of_m;
  options.steps = *a.choice.steps;
  options.train_steps = a.choice.trains() ? a.train_tokens / engine.tokens_per_step() : 0;
  options.lora = {
      .rank = 0, .scale = a.alpha / *a.choice.mean_rank, .dropout = a.choice.training.dropout, .seed = a.common.seed};
  options.learning_rate = *a.choice.learning_rate;
  options.warmup = a.choice.training.warmup;
  options.weight_decay = a.choice.training.weight_decay;
  options.clip = a.choice.training.clip;
  options.early_share = *a.choice.training.early_share;
  options.report_rmi = !a.n_of_m;
  options.report_context = std::max<std::size_t>(1, a.calibration_context / 4);
  options.tokens_per_step = engine.tokens_per_step();
  MethodChoice choice = a.choice;
  choice.rank_limit = smallest_side(engine);
  RunLog log;
  losa::Adaptation run(engine, make_policy(choice, log.damping), make_recipe(choice), options);

  const auto visit = [&](auto& visitor) {
    visitor.group("run.", [&] { log.visit(visitor); });
    run.visit(visitor);
  };
  if (directory.has_state()) {
    const std::string state = directory.state().string();
    const losa::io::SafetensorsFile saved(state);
    if (const auto found = saved.metadata().find("losa.fingerprint"); found != saved.metadata().end()) {
      expect_same_arguments(a.out, found->second, print);
      print = found->second;  // it goes on as the run that was started, however its files are called now
    }
    losa::io::load_state(state, print, visit);
    run.restore();
    ++log.resumes;
  }

  ProgressBar bar;
  auto last_event = Clock::now();
  auto last_saved = Clock::now();
  const auto progress = [&](const losa::ProgressEvent& event) {
    const auto now = Clock::now();
    log.seconds[std::string(event.phase)] += std::chrono::duration<double>(now - last_event).count();
    last_event = now;
    bar.show(event);
    return !interrupted();
  };
  // As often as asked for, but never more than a twentieth of the time: the state of a 7B model is tens of gigabytes.
  const auto every =
      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double, std::ratio<60>>(a.save_every));
  Clock::duration pause = every;
  const auto checkpoint = [&](bool due) {
    const auto saving = Clock::now();
    if (a.save_every == 0 || (!due && saving - last_saved < pause)) return;
    losa::io::save_state(directory.state().string(), print, visit);
    last_saved = Clock::now();
    pause = std::max(every, 20 * (last_saved - saving));
  };
  std::optional<ResultFiles> files;
  const losa::Results results{
      .begin =
          [&](std::span<const std::size_t> zeros) {
            directory.clear_staging();
            files.emplace(a.model, directory.staging(), layer_plans(engine, zeros), llama::adapter_views(engine),
                          llama::ExportOptions{.dtype = output_type(a.dtype),
                                               .structure = a.pattern.empty() ? "unstructured" : a.pattern,
                                               .own = directory.out()});
          },
      .block =
          [&](std::size_t b) {
            const auto writing = Clock::now();
            for (const losa::AdaptedLinear<A>& layer : engine.linears(b))
              files->put(layer.name + ".weight", layer.merged(pool), llama::adapter_view(layer));
            const auto now = Clock::now();
            log.seconds["write"] += std::chrono::duration<double>(now - writing).count();
            last_event += now - writing;
          }};
  bool finished = false;
  try {
    finished = run.run(progress, checkpoint, results);
  } catch (const losa::NumericError&) {  // these would come again at the same step
    directory.abandon();
    throw;
  } catch (const losa::RangeError& error) {
    directory.abandon();
    if (a.n_of_m && input.layers != 0)  // groups that keep fewer than N already
      losa::detail::raise<losa::RangeError>(error.what(), " (the model's masks are kept; --no-keep-mask lets them go)");
    throw;
  }
  if (!finished) {
    bar.finish();
    losa::detail::raise<losa::Error>(directory.has_state() ? "stopped; the same command with --resume continues"
                                                           : "stopped before anything was saved");
  }
  bar.finish();

  const auto writing = Clock::now();
  files->finish();
  Json report = report_json(engine, run.report());
  report["arguments"] = arguments_json(a);
  report["input"] = {{"masks_kept", input.layers}, {"zeros_kept", input.zeros}, {"sparse_without_mask", input.loose}};
  const Json started = Json::parse(print);  // perhaps by a command that spelled the names in another way
  for (const char* name : {"model", "train"})
    if (started.contains(name)) report["arguments"][name] = started[name];
  report["fingerprint"] = print;
  if (held_out.size() != 0) {
    const std::size_t sequences = std::min(hold_out_sequences, held_out.size() / a.context);
    const double nll = engine.mean_nll(held_out.read(0, sequences * a.context), a.context, sequences);
    report["hold_out"] = {{"tokens", sequences * (a.context - 1)}};
    add_perplexity(report["hold_out"], nll);
  }
  log.seconds["write"] += std::chrono::duration<double>(Clock::now() - writing).count();
  Json seconds;
  for (const auto& [phase, value] : log.seconds) seconds[phase] = value;
  report["run"] = {{"command", a.command}, {"backend", losa::backend_name()},    {"threads", pool.concurrency()},
                   {"seconds", seconds},   {"peak_memory_bytes", peak_memory()}, {"resumes", log.resumes}};
  add_side_files(report["run"], files->side_files());
  if (log.damping.raised != 0)
    report["run"]["damping"] = {{"layers_raised", log.damping.raised}, {"largest", log.damping.largest}};
  losa::io::write_file((directory.staging() / "report.json").string(), text_of(report, 1) + "\n");
  directory.publish();

  write_json(a.common, report);
  for (const std::string& line : summary(report)) say(a.common, line);
  say(a.common, "saved        " + a.out + " (Hugging Face)  " + a.out + "/compressed  " + a.out + "/adapter  " + a.out +
                    "/report.json");
}

}  // namespace

void add_adapt(CLI::App& app, int argc, char** argv) {
  auto a = std::make_shared<AdaptArguments>();
  for (int i = 0; i < argc; ++i) a->command += (i == 0 ? "" : " ") + std::string(argv[i]);
  CLI::App* sub =
      app.add_subcommand("adapt", "Prune a model, train adapters under the mask, merge, and write the result");
  sub->footer(
      "Examples:\n"
      "  losa-llama adapt --model examples/data/tiny --train examples/data/tiny/train.txt --sparsity 0.7 --out "
      "tiny-70\n"
      "  losa-llama adapt --model smollm2 --train valid.u16 --pattern 2:4 --method prune --out smollm2-24\n"
      "A run that was killed goes on with the same command and --resume; the names of the model and of the token file "
      "may differ, what they hold may not.");
  sub->add_option("--model", a->model, "Hugging Face directory of a Llama-architecture model")->required();
  sub->add_option("--train", a->train, "token file to calibrate and train on (raw text for a byte-level model)")
      ->required();
  sub->add_option("--out", a->out,
                  "directory for the result: new or empty. What belongs to the model beside its weights is copied: "
                  "tokenizer, chat templates, generation and processor configurations, licences, and text of at most "
                  "1 MB; what is not is named. compressed/ holds no second copy of what is larger than 1 MB")
      ->required();
  sub->add_option("--sparsity", a->sparsity, "share of the blocks' weights to remove, in [0, 1)");
  sub->add_option("--pattern", a->pattern, "N:M, keep N of every M weights along the input (2:4); fixes the sparsity");
  sub->add_option("--method", a->choice.method,
                  "losa: our best; losa-published: the paper's recipe; uniform: masked LoRA, equal sparsity and rank; "
                  "unmasked: plain LoRA, masked at merge; prune: the mask alone")
      ->check(CLI::IsMember({"losa", "losa-published", "uniform", "unmasked", "prune"}))
      ->capture_default_str();
  sub->add_option("--mask", a->choice.mask, "how weights are chosen (default: sparsegpt; losa-published: wanda)")
      ->check(CLI::IsMember({"wanda", "magnitude", "sparsegpt"}));
  sub->add_option("--sparsity-allocation", a->choice.sparsity_allocation,
                  "how sparsity is shared out over layers (default: the method's)")
      ->check(CLI::IsMember({"uniform", "rmi", "damage"}));
  sub->add_option("--rank-allocation", a->choice.rank_allocation,
                  "how rank is shared out over blocks (default: the method's)")
      ->check(CLI::IsMember({"uniform", "error", "spectral"}));
  sub->add_option("--schedule", a->choice.schedule, "how sparsity rises over the steps (default: the method's)")
      ->check(CLI::IsMember({"one-shot", "linear", "cubic"}));
  sub->add_option("--schedule-steps", a->choice.steps, "prunings, with training between them (default: the method's)")
      ->check(CLI::Range(1, 1000));
  sub->add_option("--early-share", a->choice.training.early_share,
                  "share of the training tokens that every schedule step but the last gets (default: 0.1)");
  sub->add_flag_callback(
      "--regrow", [a] { a->choice.regrow = true; }, "let a later mask bring pruned weights back");
  sub->add_flag_callback(
      "--no-regrow", [a] { a->choice.regrow = false; }, "keep masks nested");
  sub->add_option("--train-tokens", a->train_tokens, "tokens to train on")
      ->check(whole_number())
      ->capture_default_str();
  sub->add_option("--batch", a->batch, "sequences per training step")->check(whole_number())->capture_default_str();
  sub->add_option("--context", a->context, "tokens per training sequence")
      ->check(whole_number())
      ->capture_default_str();
  sub->add_option("--lr", a->choice.learning_rate, "peak learning rate (default: the method's)");
  sub->add_option("--mean-rank", a->choice.mean_rank, "mean rank of the adapters (default: 8)");
  sub->add_option("--alpha", a->alpha, "scale of the adapters is alpha / mean rank")->capture_default_str();
  sub->add_option("--delta", a->choice.delta,
                  "how far a layer's sparsity may lie from the target (default: the paper's for rmi, else 0.15)");
  sub->add_option("--calibration-sequences", a->calibration_sequences, "sequences to calibrate on")
      ->check(whole_number())
      ->capture_default_str();
  sub->add_option("--calibration-context", a->calibration_context, "tokens per calibration sequence")
      ->check(whole_number())
      ->capture_default_str();
  sub->add_option(
         "--hold-out", a->hold_out,
         std::string("share of the token file, its end, kept from training; the report gives the perplexity on its "
                     "first 128 sequences. ") +
             perplexity_help)
      ->capture_default_str();
  sub->add_option("--skip", a->skip, "regular expression: layers to leave alone (model.layers.0.mlp.down_proj)");
  sub->add_flag_callback(
      "--keep-mask", [a] { a->keep_mask = true; },
      "the model's zeros stay zeros, whatever pruned it; more may be added (default: where the file stores a mask)");
  sub->add_flag_callback(
      "--no-keep-mask", [a] { a->keep_mask = false; }, "let the model's zeros move, stored masks or not");
  sub->add_option(
         "--memory", a->memory,
         "weights in memory: all, one block at a time (the rest waits in files under --out), or auto, which "
         "takes a block at a time for a model above a quarter of the memory (the machine's or the container's)")
      ->check(CLI::IsMember({"auto", "all", "block"}))
      ->capture_default_str();
  sub->add_option(
         "--save-every", a->save_every,
         "minutes between states from which --resume can go on, more where saving would take above a twentieth "
         "of the time; each is written beside the last one, and with SparseGPT holds the model's weights in "
         "f32. 0 saves none")
      ->capture_default_str();
  sub->add_option("--dtype", a->dtype, "type of the weights written (default: the model's)")
      ->check(CLI::IsMember({"f32", "bf16"}));
  sub->add_flag("--resume", a->resume, "continue a run that was stopped or killed");
  add_token_bits(*sub, a->token_bits);
  add_common(*sub, a->common);
  sub->callback([a] {
    check(*a);
    catch_interrupts();
    if (a->choice.plain_adapter()) {
      run_adapt<losa::Lora>(*a);
    } else {
      run_adapt<losa::MaskedLora>(*a);
    }
  });
}

}  // namespace tool
