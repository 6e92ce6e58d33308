// losa-llama: makes a Llama-architecture model sparse, wins back its quality, and runs it.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <losa/version.hpp>
#include <string>

#include "tool/common.hpp"

namespace {

/// One line on standard error, whatever the message held.
int fail(int code, std::string message) {
  for (char& c : message)
    if (c == '\n' || c == '\r') c = ' ';
  std::fprintf(stderr, "losa-llama: %s\n", message.c_str());
  return code;
}

}  // namespace

int main(int argc, char** argv) {
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
      "losa-llama COMMAND --help tells more.");
  tool::add_adapt(app, argc, argv);
  tool::add_eval(app);
  tool::add_generate(app);
  tool::add_bench(app);
  tool::add_inspect(app);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::Success& done) {  // --help, --version
    return app.exit(done);
  } catch (const CLI::ParseError& error) {
    return fail(2, std::string(error.what()) + " (losa-llama --help tells how to call it)");
  } catch (const tool::UsageError& error) {
    return fail(2, error.what());
  } catch (const std::exception& error) {
    return fail(1, error.what());
  }
}
