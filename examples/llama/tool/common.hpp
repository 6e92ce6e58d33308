#pragma once
// What every sub-command shares: --threads, --seed, --json, and how mistakes in usage are told.

#include <CLI/CLI.hpp>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <losa/core/error.hpp>
#include <losa/core/thread_pool.hpp>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>

#include "../model.hpp"

namespace tool {

/// A mistake in how the program was called: exit code 2.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Parts>
[[noreturn]] void usage_error(const Parts&... parts) {
  throw UsageError(losa::detail::text(parts...));
}

/// Ctrl-C or SIGTERM ended a sub-command early: exit code 128 + the number of the signal, as shells have it.
struct Stopped : std::runtime_error {
  explicit Stopped(int signal) : std::runtime_error("stopped"), code(128 + signal) {}
  int code;
};

struct Common {
  std::size_t threads = losa::ThreadPool::hardware_threads();
  std::uint64_t seed = 0;
  std::string json;  // file, "-" for standard output, empty for none

  bool json_on_stdout() const { return json == "-"; }
};

/// Adds the options that every sub-command has.
void add_common(CLI::App& app, Common& common);
/// Adds --token-bits; 0 stands for the default of the vocabulary.
void add_token_bits(CLI::App& app, std::size_t& bits);

/// For options that count: digits alone, and in the range of the type. (CLI11 reads -1 into an unsigned number as its
/// largest value.)
CLI::Validator whole_number();

/// Adds --weights.
void add_weights(CLI::App& app, std::string& weights);
/// What --weights stands for.
llama::Weights weights_choice(const std::string& weights);

/// `json` as text; with an indent over several lines. Names of files need not be UTF-8, JSON is: a byte that fits
/// nothing becomes U+FFFD.
std::string text_of(const nlohmann::ordered_json& json, int indent = -1);

/// Writes `json` where --json asks for it (nothing where it does not), aside and renamed.
void write_json(const Common& common, const nlohmann::ordered_json& json);

/// Prints for a person: to standard output, or nowhere if that holds JSON.
void say(const Common& common, const std::string& line);

/// Ctrl-C and SIGTERM set a flag instead of ending the program.
void catch_interrupts();
bool interrupted();
/// Throws Stopped if interrupted().
void end_if_interrupted();

/// What can be known to fail before a sub-command starts its work: LOSA_ISA names what is not there, --json a file that
/// cannot be written. Leaves no trace. Throws losa::UnsupportedError or losa::FileError.
void check_surroundings(const CLI::App& command);

/// "3.2 GB"
std::string bytes_text(double bytes);
/// Memory of this machine in bytes; 0 where the system does not tell.
std::size_t machine_memory();
/// Highest resident memory of this process so far, in bytes; 0 where the system does not tell.
std::size_t peak_memory();

/// One sub-command: registers itself with `app`.
void add_adapt(CLI::App& app, int argc, char** argv);
void add_eval(CLI::App& app);
void add_generate(CLI::App& app);
void add_bench(CLI::App& app);
void add_inspect(CLI::App& app);

}  // namespace tool
