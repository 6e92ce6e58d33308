#pragma once
// The vectors that the published implementation produced, checked before any test may use them. The file is
// tests/data/golden_losa.json, or the one that the environment variable LOSA_GOLDEN names.
//
// A damaged file must not pass. Outputs are held to tight tolerances, but a wrong low digit of an input need not show
// in any output. Therefore: the shipped file has a known SHA-256; another file that claims to be the same run (equal
// `reference` and `seed`, or equal data) must be the same text; a FILE.sha256 beside it, if there is one, must be its
// hash; and every number must be in its shortest form, every key known and present, every matrix rectangular.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <losa/core/mask.hpp>
#include <losa/core/view.hpp>
#include <nlohmann/json.hpp>

#include "json_text.hpp"
#include "sha256.hpp"

namespace golden {

using Json = nlohmann::json;

inline constexpr std::string_view shipped_sha256 = "40549b70e614f06a622da61f22796101a44a5f0dc2294ab397f9cbc9abef0510";
inline constexpr std::string_view implementation = "wzhuang-xmu/LoSA@";

[[noreturn]] inline void fail(const std::string& what) { throw std::runtime_error("golden vectors: " + what); }

/// Rows of numbers in double, as the file has them.
struct Matrix {
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::vector<double> values;  // (rows, cols)

  double operator()(std::size_t r, std::size_t c) const { return values[r * cols + c]; }
  losa::MatrixView<const double> view() const { return {values.data(), rows, cols}; }
  double largest() const {
    double result = 0;
    for (double value : values) result = std::max(result, std::abs(value));
    return result;
  }
};

/// The same rounded to float, for the library's arguments.
struct FloatMatrix {
  explicit FloatMatrix(const Matrix& m) : rows(m.rows), cols(m.cols), values(m.values.begin(), m.values.end()) {}
  FloatMatrix(std::size_t rows_, std::size_t cols_) : rows(rows_), cols(cols_), values(rows_ * cols_) {}

  std::size_t rows;
  std::size_t cols;
  std::vector<float> values;  // (rows, cols)

  losa::MatrixView<float> view() { return {values.data(), rows, cols}; }
  losa::MatrixView<const float> view() const { return {values.data(), rows, cols}; }
};

inline double number(const Json& json, const std::string& name) {
  if (!json.is_number()) fail(name + " is not a number");
  const double value = json.get<double>();
  if (!std::isfinite(value)) fail(name + " is not finite");
  return value;
}

inline std::size_t count(const Json& json, const std::string& name) {
  if (!json.is_number_unsigned()) fail(name + " is not a count");
  return json.get<std::size_t>();
}

inline std::vector<double> vector(const Json& json, const std::string& name) {
  if (!json.is_array() || json.empty()) fail(name + " is not a list of numbers");
  std::vector<double> result;
  for (const Json& entry : json) result.push_back(number(entry, name));
  return result;
}

inline Matrix matrix(const Json& json, const std::string& name) {
  if (!json.is_array() || json.empty()) fail(name + " is not a matrix");
  Matrix result;
  for (const Json& row : json) {
    const std::vector<double> values = vector(row, name);
    if (result.rows != 0 && values.size() != result.cols) fail(name + " has rows of unequal length");
    result.cols = values.size();
    result.values.insert(result.values.end(), values.begin(), values.end());
    ++result.rows;
  }
  return result;
}

inline Matrix matrix(const Json& json, const std::string& name, std::size_t rows, std::size_t cols) {
  Matrix result = matrix(json, name);
  if (result.rows != rows || result.cols != cols)
    fail(name + " must be " + std::to_string(rows) + " × " + std::to_string(cols));
  return result;
}

/// A matrix of which every number is a float, as the float32 code that made it wrote them.
inline Matrix float_matrix(const Json& json, const std::string& name, std::size_t rows, std::size_t cols) {
  Matrix result = matrix(json, name, rows, cols);
  for (double value : result.values)
    if (static_cast<double>(static_cast<float>(value)) != value) fail(name + " holds a number that is no float32");
  return result;
}

/// 1 = kept; the entries must be the integers 0 and 1.
inline losa::Mask mask(const Json& json, const std::string& name, std::size_t rows, std::size_t cols) {
  const Matrix values = matrix(json, name, rows, cols);
  losa::Mask result(rows, cols);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; ++c) {
      if (!json[r][c].is_number_unsigned() || (values(r, c) != 0 && values(r, c) != 1)) fail(name + " is not a mask");
      result.set(r, c, values(r, c) == 1);
    }
  return result;
}

namespace detail {

inline std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail("cannot open " + path.string());
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (file.bad() || text.empty()) fail("cannot read " + path.string());
  return text;
}

inline void expect_keys(const Json& json, const std::string& name, const std::set<std::string>& keys) {
  if (!json.is_object()) fail(name + " is not an object");
  std::set<std::string> found;
  for (const auto& [key, value] : json.items()) found.insert(key);
  if (found != keys) fail(name + " does not have the keys that it should");
}

inline std::size_t count_keys(const Json& json) {
  std::size_t total = json.is_object() ? json.size() : 0;
  if (json.is_structured())
    for (const Json& child : json) total += count_keys(child);
  return total;
}

inline void check_form(const Json& json) {
  expect_keys(json, "the file",
              {"reference", "seed", "layout", "rmi", "ranks_published", "schedule", "wanda", "sparsegpt", "masked_lora",
               "reconstruction_error"});
  if (!json["reference"].is_string() || !json["reference"].get<std::string>().starts_with(implementation))
    fail("`reference` does not name the published implementation");
  if (!json["seed"].is_number_unsigned()) fail("`seed` is not a count");
  if (json["layout"] != "row-major nested lists; W is out x in, X is tokens x in") fail("`layout` is another one");
  for (const char* list : {"rmi", "ranks_published", "schedule"})
    if (!json[list].is_array() || json[list].empty()) fail(std::string(list) + " is not a list of cases");
  for (const Json& entry : json["rmi"])
    expect_keys(entry, "rmi",
                {"features", "cka", "importance_beta1", "importance_beta100", "target", "delta", "sparsity_slsqp",
                 "sparsity_lp", "objective_lp"});
  for (const Json& entry : json["ranks_published"])
    expect_keys(entry, "ranks_published", {"errors", "mean_rank", "ranks"});
  for (const Json& entry : json["schedule"]) expect_keys(entry, "schedule", {"final", "steps", "sparsity"});
  expect_keys(json["wanda"], "wanda", {"W", "X", "keep_s0.5", "keep_s0.7", "keep_2:4", "keep_4:8"});
  expect_keys(json["sparsegpt"], "sparsegpt",
              {"W", "X", "damp", "block", "note", "W_s0.5", "W_s0.7", "W_2:4", "W_4:8", "H"});
  expect_keys(json["masked_lora"], "masked_lora",
              {"W", "keep", "A", "B", "scale", "X", "Y", "G", "dA", "dB", "dX", "merged"});
  expect_keys(json["reconstruction_error"], "reconstruction_error", {"dense", "sparse", "error"});
}

/// Fraction of the entries of b that a has at the same place.
inline double share_equal(const Matrix& a, const Matrix& b) {
  std::size_t equal = 0;
  for (std::size_t i = 0; i < std::min(a.values.size(), b.values.size()); ++i) equal += a.values[i] == b.values[i];
  return static_cast<double>(equal) / static_cast<double>(b.values.size());
}

/// The text parsed, after the checks that need no other file.
inline Json parse(const std::string& text) {
  const JsonText scanned = scan_json(text);
  Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) fail("not a JSON text");
  if (count_keys(json) != scanned.keys) fail("a key occurs twice");
  check_form(json);
  const double share =
      share_equal(matrix(json["wanda"]["W"], "wanda.W"), matrix(json["sparsegpt"]["W"], "sparsegpt.W"));
  if (share > 0.5 && share < 1) fail("the weights of Wanda and SparseGPT are the same but for a few");
  return json;
}

/// True if most inputs are those of `other`: a copy, whatever its label says.
inline bool same_data(const Json& json, const Json& other) {
  return share_equal(matrix(json["wanda"]["X"], "wanda.X"), matrix(other["wanda"]["X"], "wanda.X")) > 0.5;
}

}  // namespace detail

/// The shipped vectors, byte for byte.
struct Shipped {
  std::string text;
  std::string compact;
  Json json;
};

/// Throws std::runtime_error if the file is not the one that was shipped.
inline Shipped load_shipped(const std::filesystem::path& path) {
  Shipped shipped{detail::read(path), {}, {}};
  if (sha256(shipped.text) != shipped_sha256) fail(path.string() + " is not the file that was shipped");
  shipped.compact = scan_json(shipped.text).compact;
  shipped.json = detail::parse(shipped.text);
  return shipped;
}

/// Another file of the same form. Throws std::runtime_error if it is damaged.
inline Json load_other(const std::filesystem::path& path, const Shipped& shipped) {
  const std::string text = detail::read(path);
  std::filesystem::path hash_path = path;
  hash_path += ".sha256";
  if (std::filesystem::exists(hash_path) && !detail::read(hash_path).starts_with(sha256(text)))
    fail(path.string() + " does not have the hash in " + hash_path.string());
  Json json = detail::parse(text);
  const bool same_label = json["reference"] == shipped.json["reference"] && json["seed"] == shipped.json["seed"];
  if ((same_label || detail::same_data(json, shipped.json)) && scan_json(text).compact != shipped.compact)
    fail(path.string() + " is a damaged copy of the shipped file");
  return json;
}

/// The vectors to test against.
inline const Json& vectors() {
  static const Json json = [] {
    Shipped shipped = load_shipped(LOSA_TEST_DATA "/golden_losa.json");
    const char* named = std::getenv("LOSA_GOLDEN");
    if (named == nullptr || *named == '\0') return std::move(shipped.json);
    std::filesystem::path path = named;
    // ctest runs tests in the build folder; a relative name is meant from where the user stands.
    const char* here = std::getenv("PWD");
    if (path.is_relative() && !std::filesystem::exists(path) && here != nullptr)
      path = std::filesystem::path(here) / path;
    return load_other(path, shipped);
  }();
  return json;
}

/// Largest |a − b| over the largest |b|.
template <class A>
double relative_difference(const A& a, const Matrix& b) {
  double difference = 0;
  for (std::size_t r = 0; r < b.rows; ++r)
    for (std::size_t c = 0; c < b.cols; ++c)
      difference = std::max(difference, std::abs(static_cast<double>(a(r, c)) - b(r, c)));
  return difference / b.largest();
}

}  // namespace golden
