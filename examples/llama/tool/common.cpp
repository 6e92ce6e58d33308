#include "common.hpp"

#include <sys/resource.h>

#include <charconv>
#include <csignal>
#include <cstdio>
#include <losa/io/atomic_file.hpp>

namespace tool {

void add_common(CLI::App& app, Common& common) {
  app.add_option("--threads", common.threads, "threads; no result depends on their number")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--seed", common.seed, "seed of everything random")->check(whole_number())->capture_default_str();
  app.add_option("--json", common.json, "write the result as JSON to this file (- for standard output)");
}

void add_token_bits(CLI::App& app, std::size_t& bits) {
  app.add_option("--token-bits", bits,
                 "bits per token in token files: 8, 16 or 32 (default: 8 for a vocabulary of at most 256, 16 up to "
                 "65536, else 32)")
      ->check(CLI::IsMember({"8", "16", "32"}));
}

CLI::Validator whole_number() {
  return CLI::Validator(
      [](std::string& text) {
        std::uint64_t value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        return error == std::errc() && end == text.data() + text.size() ? std::string()
                                                                        : "expected a whole number, got " + text;
      },
      "");
}

void add_weights(CLI::App& app, std::string& weights) {
  app.add_option("--weights", weights, "how the blocks' weights are held: as stored, dense, or sparse")
      ->check(CLI::IsMember({"auto", "dense", "sparse"}))
      ->capture_default_str();
}

llama::Weights weights_choice(const std::string& weights) {
  if (weights == "dense") return llama::Weights::dense;
  if (weights == "sparse") return llama::Weights::sparse;
  return llama::Weights::automatic;
}

void write_json(const Common& common, const nlohmann::ordered_json& json) {
  if (common.json.empty()) return;
  losa::io::AtomicFile file(common.json);
  file.write(json.dump(2) + "\n");
  file.commit();
}

void say(const Common& common, const std::string& line) {
  if (common.json_on_stdout()) return;
  if (std::fputs((line + "\n").c_str(), stdout) < 0 || std::fflush(stdout) != 0)
    losa::detail::raise<losa::FileError>("standard output: cannot be written");
}

namespace {
volatile std::sig_atomic_t interrupt_flag = 0;
}

void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = [](int) { interrupt_flag = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // a second Ctrl-C ends the program at once
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool interrupted() { return interrupt_flag != 0; }

std::size_t peak_memory() {
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  return static_cast<std::size_t>(usage.ru_maxrss) * 1024;
}

}  // namespace tool
