#include "options.hpp"

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <stdexcept>

namespace compare {
namespace {

constexpr const char* help =
    R"(losa_compare: losa's sparse products beside dense libraries, in one process, every contender in turn

  --shapes 4096x4096,192x576   weights, out × in
  --tokens 1,8,64,512          rows of the activations
  --sparsity 0.5,0.7,2:4       shares of pruned weights; n:m keeps n of every m
  --threads N                  for everyone; all hardware threads if not given
  --repeats N                  timed turns of each contender, of which the median counts (7; 3 from 512 tokens on)
  --turn-ms N                  what a turn lasts at least (20)
  --training                   dX and the gradient at the mask too, at the largest number of tokens
  --stack BLOCKS               LLaMA-2-7B's blocks decoding one token, f32, at the first of the sparsities: losa
                               beside each dense contender; 8 blocks take 9 GB
  --only losa,ggml             contenders whose name holds one of these
  --without MKL                … or none of these
  --deepsparse PYTHON          an interpreter that has DeepSparse, for a contender in a process of its own
  --worker SCRIPT              what it runs (deepsparse_worker.py)
  --out FILE                   results (compare.json)

  losa_compare --tokens 1 --only losa,OpenBLAS
  losa_compare --shapes 11008x4096 --sparsity 0.5,0.7 --threads 1 --out one_thread.json

bench/run.sh builds it, gets the libraries and makes tables and pictures of the results.
)";

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

double number(const std::string& option, const std::string& text, double least, double most) {
  std::size_t end = 0;
  double value = least - 1;
  try {
    value = std::stod(text, &end);
  } catch (const std::logic_error&) {
  }
  if (end != text.size() || !(value >= least && value <= most))
    throw std::invalid_argument(option + ": expected a number from " + std::to_string(least) + " to " +
                                std::to_string(most) + ", got \"" + text + "\"");
  return value;
}

std::size_t whole(const std::string& option, const std::string& text) {
  return static_cast<std::size_t>(number(option, text, 1, 1e6));
}

Pruning pruning(const std::string& option, const std::string& text) {
  const std::size_t colon = text.find(':');
  if (colon == std::string::npos) return {.sparsity = number(option, text, 0, 0.99)};
  const double n = number(option, text.substr(0, colon), 1, 63);
  const double m = number(option, text.substr(colon + 1), n + 1, 64);
  return {.sparsity = 1 - n / m, .n = static_cast<unsigned>(n), .m = static_cast<unsigned>(m)};
}

}  // namespace

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--help" || option == "-h") {
      std::fputs(help, stdout);
      std::exit(0);
    }
    if (option == "--training") {
      o.training = true;
      continue;
    }
    if (i + 1 == argc) throw std::invalid_argument(option + ": not known, or its value is missing (see --help)");
    const std::string value = argv[++i];
    if (option == "--shapes") {
      o.shapes.clear();
      for (const std::string& shape : split(value)) {
        const std::size_t x = shape.find('x');
        if (x == std::string::npos) throw std::invalid_argument("--shapes: expected OUTxIN, got \"" + shape + "\"");
        o.shapes.emplace_back(whole(option, shape.substr(0, x)), whole(option, shape.substr(x + 1)));
      }
    } else if (option == "--tokens") {
      o.tokens.clear();
      for (const std::string& tokens : split(value)) o.tokens.push_back(whole(option, tokens));
    } else if (option == "--sparsity") {
      o.prunings.clear();
      for (const std::string& sparsity : split(value)) o.prunings.push_back(pruning(option, sparsity));
    } else if (option == "--threads") {
      o.threads = whole(option, value);
    } else if (option == "--repeats") {
      o.repeats = whole(option, value);
    } else if (option == "--turn-ms") {
      o.turn_ms = number(option, value, 0, 1e4);
    } else if (option == "--stack") {
      o.stack = whole(option, value);
    } else if (option == "--only") {
      o.only = split(value);
    } else if (option == "--without") {
      o.without = split(value);
    } else if (option == "--deepsparse") {
      o.deepsparse = value;
    } else if (option == "--worker") {
      o.worker = value;
    } else if (option == "--out") {
      o.out = value;
    } else {
      throw std::invalid_argument(option + ": no such option (see --help)");
    }
  }
  return o;
}

}  // namespace compare
