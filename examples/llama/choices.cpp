#include "choices.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <losa/core/error.hpp>
#include <losa/core/finite.hpp>
#include <losa/io/compressed_config.hpp>
#include <losa/io/file_kind.hpp>
#include <string>

#include "json_text.hpp"
#include "loops.hpp"

namespace llama {

using losa::detail::raise;
using losa::detail::text;
using Json = nlohmann::ordered_json;

namespace {

// One line of the file.
class QuestionReader {
 public:
  QuestionReader(std::string_view line, std::string where, const Config& config)
      : where_(std::move(where)), config_(config), object_(losa::detail::parse_document(line, where_)) {}

  Question read() const {
    Question question;
    question.context = tokens(field("context"), "context");
    const Json& choices = field("choices");
    if (!choices.is_array()) raise<losa::FileError>(where_, ": choices must be a list, got ", detail::shown(choices));
    if (choices.size() < 2)
      raise<losa::RangeError>(where_, ": choices must hold at least two choices, got ", choices.size());
    for (const Json& choice : choices) {
      const std::string name = text("choices[", question.choices.size(), "]");
      question.choices.push_back(tokens(choice, name));
      const std::size_t size = question.context.size() + question.choices.back().size();
      if (size > config_.positions)
        raise<losa::RangeError>(where_, ": context and ", name, " hold ", size,
                                " tokens, more than max_position_embeddings ", config_.positions);
    }
    const Json& answer = field("answer");
    if (!answer.is_number_integer())
      raise<losa::FileError>(where_, ": answer must be an integer, got ", detail::shown(answer));
    if (!answer.is_number_unsigned() || answer.get<std::uint64_t>() >= choices.size())
      raise<losa::RangeError>(where_, ": answer must be in [0, ", choices.size() - 1, "], got ", detail::shown(answer));
    question.answer = answer.get<std::size_t>();
    return question;
  }

 private:
  const Json& field(const char* name) const {
    const auto at = object_.find(name);
    if (at == object_.end() || at->is_null()) raise<losa::FileError>(where_, ": ", name, " is missing");
    return *at;
  }

  std::vector<Token> tokens(const Json& json, const std::string& name) const {
    std::vector<Token> out;
    const auto add = [&](std::uint64_t id) {
      if (id >= config_.vocabulary)
        raise<losa::RangeError>(where_, ": token ", out.size(), " of ", name, " is ", id,
                                ", outside the vocabulary of ", config_.vocabulary);
      out.push_back(static_cast<Token>(id));
    };
    if (json.is_string()) {
      if (config_.vocabulary > 256)
        raise<losa::FileError>(where_, ": ", name, " is text, which only byte-level models take; this one has ",
                               config_.vocabulary, " tokens: give a list of token ids");
      for (char c : json.get_ref<const std::string&>()) add(static_cast<unsigned char>(c));
    } else if (json.is_array()) {
      for (const Json& id : json) {
        if (!id.is_number_unsigned())
          raise<losa::FileError>(where_, ": token ", out.size(), " of ", name, " must be a token id, got ",
                                 detail::shown(id));
        add(id.get<std::uint64_t>());
      }
    } else {
      raise<losa::FileError>(where_, ": ", name, " must be text or a list of token ids, got ", detail::shown(json));
    }
    if (out.empty()) raise<losa::RangeError>(where_, ": ", name, " must hold at least one token");
    return out;
  }

  std::string where_;
  const Config& config_;
  Json object_;
};

// log p(next) from final hidden states and the tokens that follow each of them.
double log_probability(const Model& model, losa::MatrixView<const float> hidden, std::span<const Token> next) {
  constexpr std::size_t tile = 64;  // rows of logits at a time
  Matrix logits(std::min(tile, hidden.rows), model.config().vocabulary);
  double sum = 0;
  for (std::size_t first = 0; first < hidden.rows; first += tile) {
    const std::size_t rows = std::min(tile, hidden.rows - first);
    model.head(hidden.block(first, 0, rows, hidden.cols), logits.view().block(0, 0, rows, logits.cols()));
    for (std::size_t i = 0; i < rows; ++i) {
      float* row = logits.view().row(i).data();
      const auto chosen = static_cast<double>(row[next[first + i]]);
      float top = 0;
      const float total = exponentials(row, logits.cols(), top);
      sum += chosen - static_cast<double>(top) - std::log(static_cast<double>(total));
    }
  }
  return sum;
}

}  // namespace

std::vector<Question> read_questions(const std::filesystem::path& path, const Config& config) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) raise<losa::FileError>(path.string(), ": is a directory");
  std::ifstream file(path, std::ios::binary);
  if (!file) raise<losa::FileError>(path.string(), ": cannot be opened");
  std::vector<Question> questions;
  std::string line;
  for (std::size_t number = 1; std::getline(file, line); ++number) {
    if (number == 1) {
      const std::string_view first = std::string_view(line).substr(line.starts_with("\xef\xbb\xbf") ? 3 : 0);
      losa::io::refuse_other_content(std::as_bytes(std::span(first)), path.string(), losa::io::FileContent::json);
    }
    if (line.find_first_not_of(" \t\r") != std::string::npos)
      questions.push_back(QuestionReader(line, text(path.string(), ":", number), config).read());
  }
  if (file.bad()) raise<losa::FileError>(path.string(), ": cannot be read");
  if (questions.empty()) raise<losa::FileError>(path.string(), ": holds no questions");
  return questions;
}

std::vector<double> log_likelihoods(const Model& model, const Question& question) {
  std::size_t longest = 0;
  for (const auto& choice : question.choices) longest = std::max(longest, choice.size());
  const std::span<const Token> context(question.context);
  KvCache cache(model.config(), context.size() + longest - 1);
  Matrix hidden;
  constexpr std::size_t piece = 512;  // bounds the scratch that a long context needs
  for (std::size_t at = 0; at < context.size(); at += piece)
    model.decode(context.subspan(at, std::min(piece, context.size() - at)), cache, hidden);
  Matrix last(1, hidden.cols());
  copy_to(hidden.cview().block(hidden.rows() - 1, 0, 1, hidden.cols()), last.view());

  std::vector<double> out;
  for (const auto& choice : question.choices) {
    const std::span<const Token> tokens(choice);
    double sum = log_probability(model, last.cview(), tokens.first(1));
    for (std::size_t at = 0; at + 1 < tokens.size(); at += piece) {
      const std::size_t n = std::min(piece, tokens.size() - 1 - at);
      model.decode(tokens.subspan(at, n), cache, hidden);
      sum += log_probability(model, hidden.cview(), tokens.subspan(at + 1, n));
    }
    cache.rewind(context.size());
    out.push_back(sum);
  }
  return out;
}

Answers answer(const Model& model, std::span<const Question> questions, const losa::Progress& progress) {
  if (questions.empty()) raise<losa::RangeError>("answer: there are no questions");
  Answers result;
  std::size_t tokens = 0;
  for (const Question& question : questions) {
    std::vector<double> likely = log_likelihoods(model, question);
    for (std::size_t i = 0; i < likely.size(); ++i)
      if (!losa::detail::is_finite(likely[i]))
        raise<losa::NumericError>("answer: question ", result.questions, ", choice ", i,
                                  ": log-likelihood is not finite");
    const auto best = [&] { return static_cast<std::size_t>(std::ranges::max_element(likely) - likely.begin()); };
    result.right += best() == question.answer;
    tokens += question.context.size();
    for (std::size_t i = 0; i < likely.size(); ++i) {
      likely[i] /= static_cast<double>(question.choices[i].size());
      tokens += question.choices[i].size();
    }
    result.right_norm += best() == question.answer;
    ++result.questions;
    if (!losa::detail::report(
            progress, {.phase = "choices", .done = result.questions, .total = questions.size(), .tokens = tokens}))
      break;
  }
  result.accuracy = static_cast<double>(result.right) / static_cast<double>(result.questions);
  result.accuracy_norm = static_cast<double>(result.right_norm) / static_cast<double>(result.questions);
  return result;
}

}  // namespace llama
