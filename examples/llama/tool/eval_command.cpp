// losa-llama eval: perplexity of a model on a token file, or its accuracy on multiple-choice questions.

#include <algorithm>
#include <cstdio>
#include <losa/io/atomic_file.hpp>

#include "../choices.hpp"
#include "../evaluate.hpp"
#include "../model.hpp"
#include "../tokens.hpp"
#include "common.hpp"
#include "notes.hpp"
#include "perplexity.hpp"
#include "progress_bar.hpp"
#include "storage.hpp"

namespace tool {
namespace {

struct EvalArguments {
  Common common;
  std::string model, tokens, choices, logits;
  std::string sequences = "32";
  std::string weights = "auto";
  std::size_t token_bits = 0;
  std::size_t context = 512;
};

std::size_t sequence_count(const std::string& text) {
  if (text == "all") return 0;
  std::size_t used = 0;
  unsigned long value = 0;
  try {
    value = std::stoul(text, &used);
  } catch (const std::exception&) {
  }
  if (used != text.size() || value == 0 || text[0] == '-')
    usage_error("--sequences: expected a positive number or all, got ", text);
  return value;
}

/// Logits (context, vocabulary) of the first sequence, as little-endian f32 without a header.
void write_logits(const std::string& path, const llama::Model& model, std::span<const llama::Token> sequence) {
  llama::Matrix hidden;
  model.forward(sequence, sequence.size(), hidden);
  llama::Matrix logits(sequence.size(), model.config().vocabulary);
  model.head(hidden.cview(), logits.view());
  losa::io::AtomicFile file(path);
  file.write(std::as_bytes(std::span(logits.cview().data, logits.rows() * logits.cols())));
  file.commit();
}

void run_choices(const EvalArguments& a) {
  Threads pool(a.common);
  const std::vector<llama::Question> questions = llama::read_questions(a.choices, llama::read_config(a.model));
  note_unmapped(a.model);
  const llama::Model model = llama::Model::load(a.model, {.weights = weights_choice(a.weights)}, pool);
  pool.begin_work();
  ProgressBar bar;
  const llama::Answers result = llama::answer(model, questions, [&](const losa::ProgressEvent& event) {
    bar.show(event);
    return !interrupted();
  });
  bar.finish();
  end_if_interrupted();
  write_json(a.common,
             {{"accuracy", result.accuracy}, {"accuracy_norm", result.accuracy_norm}, {"questions", result.questions}});
  char text[128];
  std::snprintf(text, sizeof text, "accuracy %.4f   per token %.4f   questions %zu", result.accuracy,
                result.accuracy_norm, result.questions);
  say(a.common, text);
}

/// Whether the token file holds the sequences that were asked for.
void check_length(const EvalArguments& a, std::size_t sequences, std::size_t tokens) {
  const std::size_t there = tokens / a.context;
  if (there >= std::max<std::size_t>(sequences, 1)) return;
  const char* plural = there == 1 ? "" : "s";
  losa::detail::raise<losa::RangeError>(
      a.tokens, ": its ", tokens, " tokens hold ", there, " sequence", plural, " of --context ", a.context,
      sequences == 0 ? "; give a smaller --context"
                     : losa::detail::text(", --sequences asks for ", sequences,
                                          there == 0 ? "; give a smaller --context" : "; give fewer, or all"));
}

void run_perplexity(const EvalArguments& a) {
  const std::size_t sequences = sequence_count(a.sequences);
  Threads pool(a.common);
  const llama::Config config = llama::read_config(a.model);
  note_unmapped(a.model);
  if (a.context > config.positions)
    losa::detail::raise<losa::RangeError>("--context ", a.context, " exceeds max_position_embeddings ",
                                          config.positions, " of ", a.model);
  const llama::Tokens tokens = llama::open_tokens(a.tokens, config.vocabulary, a.token_bits, end_if_interrupted);
  check_length(a, sequences, tokens.size());
  const llama::Model model = llama::Model::load(a.model, {.weights = weights_choice(a.weights)}, pool);
  pool.begin_work();
  ProgressBar bar;
  const llama::Evaluation result = llama::evaluate(model, tokens, {.context = a.context, .sequences = sequences},
                                                   [&](const losa::ProgressEvent& event) {
                                                     bar.show(event);
                                                     return !interrupted();
                                                   });
  bar.finish();
  end_if_interrupted();
  if (!a.logits.empty()) write_logits(a.logits, model, tokens.read(0, a.context));
  nlohmann::ordered_json json;
  add_perplexity(json, result.mean_nll);
  json["tokens"] = result.tokens;
  json["sequences"] = result.sequences;
  json["context"] = a.context;
  write_json(a.common, json);
  char text[128];
  std::snprintf(text, sizeof text, "   mean nll %.5f   tokens %zu (%zu sequences of %zu)", result.mean_nll,
                result.tokens, result.sequences, a.context);
  say(a.common, perplexity_text(result.mean_nll, 4) + text);
}

void run_eval(const EvalArguments& a) {
  if (a.tokens.empty() == a.choices.empty()) usage_error("give either --tokens or --choices");
  if (a.context < 2) usage_error("--context must be at least 2, got ", a.context);
  if (a.choices.empty())
    run_perplexity(a);
  else
    run_choices(a);
}

}  // namespace

void add_eval(CLI::App& app) {
  auto a = std::make_shared<EvalArguments>();
  CLI::App* sub = app.add_subcommand("eval", "Perplexity of a model on a token file, or accuracy on questions");
  sub->footer(
      "Perplexity is exp of the mean negative log likelihood over the context − 1 predicted tokens of consecutive,\n"
      "non-overlapping sequences from the first token on. Of the token file only these are read.\n" +
      std::string(perplexity_help) +
      "\n"
      "Accuracy is the share of the questions where the right choice is the likeliest after the context: by the sum "
      "of\n"
      "log p over its tokens (accuracy), or by their mean (accuracy_norm). A line of the file of questions is\n"
      "  {\"context\": [464, 7850], \"choices\": [[318], [373, 523]], \"answer\": 0}\n"
      "with token ids or, for byte-level models, strings.\n"
      "Examples:\n"
      "  losa-llama eval --model tiny-70 --tokens examples/data/tiny/test.txt --context 256 --sequences all\n"
      "  losa-llama eval --model smollm2-70 --choices arc.jsonl");
  sub->add_option("--model", a->model, "Hugging Face directory: dense, merged or compressed")->required();
  CLI::Option* tokens = sub->add_option("--tokens", a->tokens, "token file (raw text for a byte-level model)");
  CLI::Option* choices = sub->add_option("--choices", a->choices, "multiple-choice questions (JSON Lines) instead");
  CLI::Option* context =
      sub->add_option("--context", a->context, "tokens per sequence")->check(whole_number())->capture_default_str();
  CLI::Option* sequences =
      sub->add_option("--sequences", a->sequences, "how many sequences, or all")->capture_default_str();
  CLI::Option* logits =
      sub->add_option("--logits", a->logits,
                      "write the logits of the first sequence to this file: context × vocabulary little-endian f32");
  add_weights(*sub, a->weights);
  add_token_bits(*sub, a->token_bits);
  for (CLI::Option* other : {tokens, context, sequences, logits, sub->get_option("--token-bits")})
    choices->excludes(other);
  add_common(*sub, a->common);
  sub->callback([a] {
    catch_interrupts();
    run_eval(*a);
  });
}

}  // namespace tool
