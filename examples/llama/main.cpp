// losa-llama: makes a Llama-architecture model sparse, wins back its quality, and runs it.

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <exception>
#include <iostream>
#include <losa/version.hpp>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "tool/common.hpp"
#include "tool/notes.hpp"

namespace {

int fail(int code, std::string_view message) {
  tool::tell("losa-llama: ", message);
  return code;
}

/// Names the options of the sub-command that take less memory with a smaller number.
int out_of_memory(const CLI::App& app) {
  static constexpr std::pair<const char*, const char*> smaller[] = {
      {"adapt", "--batch, --context or --calibration-context"},
      {"eval", "--context"},
      {"generate", "--tokens"},
      {"bench", "--prefill or --decode"}};
  std::string advice;
  for (const auto& [command, options] : smaller)
    if (app.got_subcommand(command)) advice = std::string("; a smaller ") + options + " needs less";
  if (app.got_subcommand("eval") && app.get_subcommand("eval")->count("--choices") != 0) advice.clear();
  const std::string held = tool::bytes_text(static_cast<double>(tool::peak_memory()));
  return fail(1, "not enough memory: " + held + " were held when more was asked for" + advice);
}

/// A word that stands where a sub-command should, told by name.
std::string no_command(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<std::string> rest = app.remaining();
  if (!app.get_subcommands().empty() || rest.empty()) return error.what();
  return (rest[0].starts_with('-') ? "unknown option " : "unknown command ") + rest[0];
}

int run(int argc, char** argv) {
  tool::spare_address_space();
  std::signal(SIGXFSZ, SIG_IGN);  // a file beyond `ulimit -f` is then an error like any other
  CLI::App app(
      "Makes a Llama-architecture language model sparse, wins back its quality with adapters trained under the "
      "mask, merges them without losing a zero, and runs the result.",
      "losa-llama");
  app.set_version_flag("--version", std::string("losa-llama ") + LOSA_VERSION_STRING);
  app.require_subcommand(1);
  app.footer(
      "Example:\n  losa-llama adapt --model examples/data/tiny --train examples/data/tiny/train.txt \\\n"
      "      --sparsity 0.7 --out tiny-70\n"
      "  losa-llama eval --model tiny-70 --tokens examples/data/tiny/test.txt\n"
      "losa-llama COMMAND --help tells more.\n"
      "Exit codes: 0 done, 1 an error while it ran, 2 a mistake in the call, 128 + n ended by signal n.");
  tool::add_adapt(app, argc, argv);
  tool::add_eval(app);
  tool::add_generate(app);
  tool::add_bench(app);
  tool::add_inspect(app);
  app.parse_complete_callback([&app] {  // before that of the sub-command, which does the work
    for (const CLI::App* command : app.get_subcommands()) tool::check_surroundings(*command);
  });
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::Success& done) {  // --help, --version
    const int code = app.exit(done);
    return std::cout.flush() && std::fflush(stdout) == 0 ? code : fail(1, "standard output: cannot be written");
  } catch (const CLI::ParseError& error) {
    return fail(2, no_command(app, error) + " (losa-llama --help tells how to call it)");
  } catch (const tool::UsageError& error) {
    return fail(2, error.what());
  } catch (const tool::Stopped& stopped) {
    return fail(stopped.code, stopped.what());
  } catch (const std::bad_alloc&) {
    return out_of_memory(app);
  } catch (const std::length_error&) {  // of a vector: more than any memory has
    return out_of_memory(app);
  } catch (const std::exception& error) {
    return fail(1, error.what());
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception&) {  // while an error was being told, or before anything was done
    return fail(1, "not enough memory");
  }
}
