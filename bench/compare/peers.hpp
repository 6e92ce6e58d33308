#pragma once
// The peers, one function per file of peers/. A file is compiled only where CMake found its library.

#include <string>
#include <vector>

#include "contender.hpp"

namespace compare {

/// A library that takes part, or one that does not and why.
struct Library {
  std::string name;
  std::string version;
  std::string absent;  // the reason; empty if it is here
};

struct Field {
  std::vector<Entry> entries;
  std::vector<Library> libraries;
};

void add_losa(Field& field);
void add_openblas(Field& field, std::size_t threads);
void add_mkl(Field& field, std::size_t threads);
void add_onednn(Field& field);
void add_libxsmm(Field& field);
void add_eigen(Field& field, std::size_t threads);
void add_ggml(Field& field);
/// `python` is an interpreter that has DeepSparse; `worker` is the script that it runs.
void add_deepsparse(Field& field, const std::string& python, const std::string& worker);

}  // namespace compare
