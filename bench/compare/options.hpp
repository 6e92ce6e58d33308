#pragma once
// The command line of losa_compare.

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "inputs.hpp"

namespace compare {

struct Options {
  std::vector<std::pair<std::size_t, std::size_t>> shapes{{4096, 4096}};  // out, in
  std::vector<std::size_t> tokens{1, 8, 64, 512};
  std::vector<Pruning> prunings{{.sparsity = 0.7}};
  std::size_t threads = 0;  // 0 = all
  std::size_t repeats = 7;
  double turn_ms = 20;
  bool training = false;
  std::size_t stack = 0;             // blocks of a stack that decodes; 0 = none
  std::vector<std::string> only;     // parts of contenders' names; empty = all
  std::vector<std::string> without;  // likewise, left out
  std::string deepsparse;            // a Python that has it; empty = left out
  std::string worker;                // the script that it runs
  std::string out = "compare.json";
};

/// Throws std::invalid_argument with a sentence; prints the help and exits where that is asked for.
Options parse(int argc, char** argv);

}  // namespace compare
