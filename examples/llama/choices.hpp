#pragma once
// Multiple-choice questions: a model answers with the choice that it finds most likely after the context, by the sum of
// log p over the choice's tokens, or by that sum divided by their number.
//
//   auto questions = llama::read_questions("arc.jsonl", model.config());
//   auto result = llama::answer(model, questions);       // result.accuracy, result.accuracy_norm

#include <cstddef>
#include <filesystem>
#include <losa/core/progress.hpp>
#include <span>
#include <vector>

#include "model.hpp"

namespace llama {

struct Question {
  std::vector<Token> context;
  std::vector<std::vector<Token>> choices;
  std::size_t answer = 0;  // index of the right choice
};

/// Reads JSON Lines, one object a line: {"context": …, "choices": [… , …], "answer": 0}. Context and choices are lists
/// of token ids or, for a byte-level model (vocabulary of at most 256), text. Other fields and empty lines are passed
/// over. Throws losa::FileError (unreadable, no questions, no JSON, a field that is missing or of the wrong type) or
/// losa::RangeError (an id outside the vocabulary, nothing in a context or choice, one choice alone, an answer that is
/// no choice, more tokens than positions); the sentence starts with the file and the line's number.
std::vector<Question> read_questions(const std::filesystem::path& path, const Config& config);

/// Σ log p(token | all before it) over the tokens of each choice. The context runs once, the choices after it with its
/// keys and values.
std::vector<double> log_likelihoods(const Model& model, const Question& question);

struct Answers {
  std::size_t questions = 0;  // answered
  std::size_t right = 0;
  std::size_t right_norm = 0;  // by log-likelihood per token
  double accuracy = 0;
  double accuracy_norm = 0;
};

/// Of equally likely choices the first counts. Progress phase "choices" counts questions; stopped, it returns what was
/// answered until then. Throws losa::RangeError if there are no questions.
Answers answer(const Model& model, std::span<const Question> questions, const losa::Progress& progress = {});

}  // namespace llama
