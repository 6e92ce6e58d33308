// losa-llama generate: text from a model.

#include <charconv>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <losa/core/finite.hpp>

#include "../generate.hpp"
#include "../model.hpp"
#include "../tokens.hpp"
#include "common.hpp"
#include "storage.hpp"

namespace tool {
namespace {

struct GenerateArguments {
  Common common;
  std::string model, prompt, prompt_ids, prompt_tokens;
  std::string weights = "auto";
  std::size_t token_bits = 0;
  std::size_t tokens = 100;
  double temperature = 0;
  std::size_t top_k = 0;
};

/// Token ids with commas between them.
std::vector<llama::Token> parse_ids(std::string_view text, std::size_t vocabulary) {
  std::vector<llama::Token> ids;
  for (const char *at = text.data(), *end = at + text.size();; ++at) {
    llama::Token id = 0;
    const auto [next, error] = std::from_chars(at, end, id);
    if (error != std::errc() || (next != end && *next != ','))
      usage_error("--prompt-ids: expected token ids with commas between them, such as 12,7,301; got ", text);
    if (id >= vocabulary)
      losa::detail::raise<losa::RangeError>("--prompt-ids: token ", ids.size(), " is ", id,
                                            ", outside the vocabulary of ", vocabulary);
    ids.push_back(id);
    if (next == end) return ids;
    at = next;
  }
}

void run_generate(const GenerateArguments& a) {
  if (a.prompt.empty() + a.prompt_ids.empty() + a.prompt_tokens.empty() != 2)
    usage_error("give one of --prompt, --prompt-ids and --prompt-tokens");
  if (!(losa::detail::is_finite(a.temperature) && a.temperature >= 0))
    usage_error("--temperature must be a finite number of at least 0, got ", a.temperature);
  Threads pool(a.common);
  const llama::Config config = llama::read_config(a.model);
  const bool bytes = config.vocabulary <= 256;
  std::vector<llama::Token> prompt;
  if (!a.prompt_tokens.empty()) {
    const llama::Tokens file = llama::open_tokens(a.prompt_tokens, config.vocabulary, a.token_bits, end_if_interrupted);
    if (file.size() > config.positions)
      losa::detail::raise<losa::RangeError>("--prompt-tokens ", a.prompt_tokens, ": its ", file.size(),
                                            " tokens exceed max_position_embeddings ", config.positions);
    prompt = file.read(0, file.size());
  } else if (!a.prompt_ids.empty()) {
    prompt = parse_ids(a.prompt_ids, config.vocabulary);
  } else {
    if (!bytes)
      usage_error("--prompt takes text for byte-level models only; this one has ", config.vocabulary,
                  " tokens: give --prompt-ids or --prompt-tokens");
    for (char c : a.prompt) prompt.push_back(static_cast<unsigned char>(c));
  }
  note_unmapped(a.model);
  const llama::Model model = llama::Model::load(a.model, {.weights = weights_choice(a.weights)}, pool);
  pool.begin_work();

  const bool echo = !a.common.json_on_stdout();
  bool begun = false;  // nothing is printed before the prompt has proved to be one for this model
  const auto begin = [&] {
    if (echo && !begun) std::fputs(a.prompt.c_str(), stdout);
    begun = true;
  };
  const auto start = std::chrono::steady_clock::now();
  const std::vector<llama::Token> out = llama::generate(
      model, prompt, {.tokens = a.tokens, .temperature = a.temperature, .top_k = a.top_k, .seed = a.common.seed},
      [&](llama::Token token) {
        begin();
        if (echo) {
          if (bytes) {
            std::fputc(static_cast<int>(token), stdout);
          } else {
            std::printf("%u ", token);
          }
          std::fflush(stdout);
        }
        return !interrupted();
      });
  begin();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (echo) say(a.common, "");
  nlohmann::ordered_json json{{"prompt_ids", prompt}, {"ids", out}, {"seconds", seconds}};
  if (bytes) {
    std::string text;
    for (llama::Token token : out) text.push_back(static_cast<char>(token));
    // Bytes that are no UTF-8 (a byte-level model may stop inside a character) are replaced.
    json["text"] =
        nlohmann::json::parse(nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
  write_json(a.common, json);
  end_if_interrupted();
}

}  // namespace

void add_generate(CLI::App& app) {
  auto a = std::make_shared<GenerateArguments>();
  CLI::App* sub = app.add_subcommand("generate", "Text from a model, greedy or drawn at a temperature");
  sub->footer(
      "Text ends with the first eos_token_id, which is written too, or after --tokens. The ids are those of\n"
      "generation_config.json, or of config.json where it has none (losa-llama inspect shows them).\n"
      "Nothing else is taken from it: the temperature, top_k or max_length that it may hold are for you to say.\n"
      "Examples:\n"
      "  losa-llama generate --model tiny-70 --prompt 'She had been ' --tokens 200 --temperature 0.7 --seed 1\n"
      "  losa-llama generate --model smollm2-70 --prompt-ids 504,2365 --tokens 40 --json -");
  sub->add_option("--model", a->model, "Hugging Face directory: dense, merged or compressed")->required();
  sub->add_option("--prompt", a->prompt, "text to continue (byte-level models)");
  sub->add_option("--prompt-ids", a->prompt_ids, "token ids to continue: 504,2365");
  sub->add_option("--prompt-tokens", a->prompt_tokens, "token file to continue");
  sub->add_option("--tokens", a->tokens, "tokens to generate")->check(whole_number())->capture_default_str();
  sub->add_option("--temperature", a->temperature, "0 is greedy")->capture_default_str();
  sub->add_option("--top-k", a->top_k, "draw from the k most likely tokens only; 0 is all")
      ->check(whole_number())
      ->capture_default_str();
  add_weights(*sub, a->weights);
  add_token_bits(*sub, a->token_bits);
  add_common(*sub, a->common);
  sub->callback([a] {
    catch_interrupts();
    run_generate(*a);
  });
}

}  // namespace tool
