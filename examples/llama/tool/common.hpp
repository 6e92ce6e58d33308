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
  std::optional<std::size_t> threads;  // as many as Threads finds where it is not given
  std::uint64_t seed = 0;
  std::string json;  // file, "-" for standard output, empty for none

  bool json_on_stdout() const { return json == "-"; }
};

/// The threads that a sub-command works with: those of --threads, or else as many as this process may keep busy and the
/// system gives. Throws losa::UnsupportedError if the system does not give what --threads asks for.
class Threads : public losa::ThreadPool {
 public:
  explicit Threads(const Common& common);
  /// To be called when the work begins, with the model loaded: tells of threads that the system refused where nobody
  /// asked for a number (before, there may be a mistake to tell of), and prepares products where memory is limited.
  void begin_work() const;

 private:
  std::size_t wanted_;
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
/// True if `ulimit -v` bounds the address space.
bool address_space_limited();
/// Where it does: one heap for all threads. Each would reserve 64 MB for its own.
void spare_address_space();
/// Highest resident memory of this process so far, in bytes; 0 where the system does not tell.
std::size_t peak_memory();

/// One sub-command: registers itself with `app`.
void add_adapt(CLI::App& app, int argc, char** argv);
void add_eval(CLI::App& app);
void add_generate(CLI::App& app);
void add_bench(CLI::App& app);
void add_inspect(CLI::App& app);

}  // namespace tool
