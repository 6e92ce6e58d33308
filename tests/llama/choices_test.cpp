#include "choices.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <losa/core/thread_pool.hpp>

#include "toy_model.hpp"

using llama::Question;
using llama::Token;

namespace {

// From the logits of the whole sequence, without a cache.
double brute_force(const llama::Model& model, const std::vector<Token>& context, const std::vector<Token>& choice) {
  std::vector<Token> all = context;
  all.insert(all.end(), choice.begin(), choice.end());
  llama::Matrix hidden, logits(all.size(), model.config().vocabulary);
  model.forward(all, all.size(), hidden);
  model.head(hidden.cview(), logits.view());
  double sum = 0;
  for (std::size_t t = context.size(); t < all.size(); ++t) {
    double total = 0;
    for (float z : logits.view().row(t - 1)) total += std::exp(static_cast<double>(z));
    sum += static_cast<double>(logits.view()(t - 1, all[t])) - std::log(total);
  }
  return sum;
}

std::vector<Question> random_questions(std::size_t n, std::size_t vocabulary, std::size_t longest) {
  const losa::Random random{.seed = 3};
  std::vector<Question> questions(n);
  for (std::size_t i = 0; i < n; ++i) {
    questions[i].context = toy::tokens(1 + random.below(longest, 10 * i), vocabulary, i);
    for (std::size_t c = 0; c < 2 + i % 4; ++c)
      questions[i].choices.push_back(toy::tokens(1 + random.below(longest, 10 * i + c + 1), vocabulary, 100 * i + c));
    questions[i].answer = i % questions[i].choices.size();
  }
  return questions;
}

}  // namespace

TEST_CASE("choices: likelihoods and accuracies equal those of whole sequences, the same bits for any threads") {
  const toy::Folder folder;
  const toy::Shape shape{.positions = 1400};
  toy::write_model(folder / "m", shape);
  const llama::Model model = llama::Model::load(folder / "m");
  auto questions = random_questions(40, shape.vocabulary, 30);
  questions.push_back({toy::tokens(520, 19, 7), {toy::tokens(600, 19, 8), toy::tokens(1, 19, 9)}, 0});  // in pieces
  std::size_t right = 0, right_norm = 0;
  for (const Question& q : questions) {
    const auto ours = llama::log_likelihoods(model, q);
    REQUIRE(ours.size() == q.choices.size());
    std::size_t best = 0, best_norm = 0;
    std::vector<double> sums, means;
    for (std::size_t i = 0; i < q.choices.size(); ++i) {
      sums.push_back(brute_force(model, q.context, q.choices[i]));
      means.push_back(sums.back() / static_cast<double>(q.choices[i].size()));
      CHECK(ours[i] == doctest::Approx(sums[i]).epsilon(1e-5));
      if (sums[i] > sums[best]) best = i;
      if (means[i] > means[best_norm]) best_norm = i;
    }
    right += best == q.answer;
    right_norm += best_norm == q.answer;
  }
  CHECK(right != right_norm);  // else the test would not tell them apart
  std::size_t calls = 0;
  const auto result = llama::answer(model, questions, [&](const losa::ProgressEvent& e) {
    CHECK(e.phase == "choices");
    CHECK(e.total == questions.size());
    return ++calls == e.done;
  });
  CHECK(calls == questions.size());
  CHECK(result.questions == questions.size());
  CHECK(result.right == right);
  CHECK(result.right_norm == right_norm);
  CHECK(result.accuracy == static_cast<double>(right) / 41);
  CHECK(result.accuracy_norm == static_cast<double>(right_norm) / 41);
  losa::ThreadPool pool(3);
  const llama::Model again = llama::Model::load(folder / "m", {}, pool);
  for (std::size_t i : {0u, 7u, 40u})
    CHECK(llama::log_likelihoods(again, questions[i]) == llama::log_likelihoods(model, questions[i]));
  CHECK(llama::answer(model, questions, [](const losa::ProgressEvent& e) { return e.done < 3; }).questions == 3);
  CHECK_THROWS_AS(llama::answer(model, {}), losa::RangeError);
  const Question same{{1, 2}, {{3}, {3}}, 1};
  CHECK(llama::answer(model, std::span(&same, 1)).accuracy == 0);  // of equal ones the first
}

TEST_CASE("choices: ids and text are read, other fields and empty lines passed over") {
  const toy::Folder folder;
  const auto path = folder / "q.jsonl";
  toy::write_text(path,
                  "{\"id\": 7, \"context\": [1, 2], \"choices\": [[3], [4, 5]], \"answer\": 1}\r\n\n  \n"
                  "{\"answer\": 0, \"choices\": [\"ab\", [6], \"\\u00e4\"], \"context\": \"A\"}");
  const auto questions = llama::read_questions(path, {.vocabulary = 256});
  REQUIRE(questions.size() == 2);
  CHECK(questions[0].context == std::vector<Token>{1, 2});
  CHECK(questions[0].choices == std::vector<std::vector<Token>>{{3}, {4, 5}});
  CHECK(questions[0].answer == 1);
  CHECK(questions[1].context == std::vector<Token>{65});
  CHECK(questions[1].choices == std::vector<std::vector<Token>>{{97, 98}, {6}, {0xc3, 0xa4}});
}

TEST_CASE("choices: every field wrong in turn gives one line that names file, line and field") {
  const toy::Folder folder;
  const auto path = folder / "q.jsonl";
  const auto error_of = [&](const std::string& line, std::size_t vocabulary = 256) -> std::string {
    toy::write_text(path, R"({"context": [1], "choices": [[2], [3]], "answer": 0})"
                          "\n\n" +
                              line + "\n");
    try {
      llama::read_questions(path, {.vocabulary = vocabulary, .positions = 10});
    } catch (const losa::Error& error) {
      return error.what();
    }
    return {};
  };
  struct Wrong {
    const char* field;
    const char* value;
    const char* says;
  };
  const Wrong cases[] = {
      {"context", "null", "context is missing"},
      {"context", "7", "context must be text or a list of token ids, got 7"},
      {"context", "[]", "context must hold at least one token"},
      {"context", "\"\"", "context must hold at least one token"},
      {"context", "[1, 256]", "token 1 of context is 256, outside the vocabulary of 256"},
      {"context", "[18446744073709551615]",
       "token 0 of context is 18446744073709551615, outside the vocabulary of 256"},
      {"context", "[-1]", "token 0 of context must be a token id, got -1"},
      {"context", "[1.5]", "token 0 of context must be a token id, got 1.5"},
      {"context", "[[1]]", "token 0 of context must be a token id, got an array"},
      {"context", "[1,1,1,1,1,1,1,1,1,1]",
       "context and choices[0] hold 11 tokens, more than max_position_embeddings 10"},
      {"choices", "null", "choices is missing"},
      {"choices", "\"ab\"", "choices must be a list, got \"ab\""},
      {"choices", "[[1]]", "choices must hold at least two choices, got 1"},
      {"choices", "[[1], []]", "choices[1] must hold at least one token"},
      {"choices", "[[1], 2]", "choices[1] must be text or a list of token ids, got 2"},
      {"choices", "[[1], [true]]", "token 0 of choices[1] must be a token id, got true"},
      {"answer", "null", "answer is missing"},
      {"answer", "\"0\"", "answer must be an integer, got \"0\""},
      {"answer", "0.0", "answer must be an integer, got 0.0"},
      {"answer", "2", "answer must be in [0, 1], got 2"},
      {"answer", "-1", "answer must be in [0, 1], got -1"},
  };
  for (const Wrong& wrong : cases) {
    CAPTURE(wrong.field);
    CAPTURE(wrong.value);
    nlohmann::json json = {{"context", {1}}, {"choices", {{2}, {3}}}, {"answer", 0}};
    json[wrong.field] = nlohmann::json::parse(wrong.value);
    CHECK(error_of(json.dump()) == path.string() + ":3: " + wrong.says);
  }
  const std::string at = path.string() + ":3: ";
  CHECK(
      error_of(R"({"context": [1], "choices": ["x", [3]], "answer": 0})", 1000) ==
      at + "choices[0] is text, which only byte-level models take; this one has 1000 tokens: give a list of token ids");
  CHECK(error_of(R"({"context": [1], "context": [2], "choices": [[2], [3]], "answer": 0})") ==
        at + "JSON key \"context\" appears twice, with different values");
  for (const char* line : {"{", "[]", "7", "{} {}", "\xff", "{\"context\": \"\xff\"}", "{\"a\": 1}"})
    CHECK(error_of(line).starts_with(at));
  CHECK(error_of(std::string(100000, '[')).starts_with(at));
  toy::write_text(path, "\n \n");
  CHECK_THROWS_WITH_AS(llama::read_questions(path, {}), doctest::Contains("holds no questions"), losa::FileError);
  CHECK_THROWS_WITH_AS(llama::read_questions(folder / "none", {}), doctest::Contains("cannot be opened"),
                       losa::FileError);
  CHECK_THROWS_WITH_AS(llama::read_questions(folder.path, {}), doctest::Contains("is a directory"), losa::FileError);
}
