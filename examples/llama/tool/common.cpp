#include "common.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <charconv>
#include <csignal>
#include <cstdio>
#include <losa/gemm.hpp>
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
                 "65536, else 32). A file that plainly holds something else, such as text, is refused unless they are "
                 "given")
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

std::string text_of(const nlohmann::ordered_json& json, int indent) {
  return json.dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

void write_json(const Common& common, const nlohmann::ordered_json& json) {
  if (common.json.empty()) return;
  losa::io::AtomicFile file(common.json);
  file.write(text_of(json, 2) + "\n");
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
  action.sa_handler = [](int signal) { interrupt_flag = signal; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // a second Ctrl-C ends the program at once
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool interrupted() { return interrupt_flag != 0; }

void end_if_interrupted() {
  if (interrupted()) throw Stopped(interrupt_flag);
}

void check_surroundings(const CLI::App& command) {
  static_cast<void>(losa::default_backend());
  const CLI::Option* json = command.get_option("--json");
  if (json->count() == 0 || json->results().back() == "-") return;
  const std::string path = json->results().back();
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  // Who reads a named pipe would take the end of a trial for the end of the file.
  if (std::filesystem::exists(status) && std::filesystem::is_other(status)) return;
  losa::io::AtomicFile trial(path);
}

std::string bytes_text(double bytes) {
  const char* units[] = {"bytes", "kB", "MB", "GB", "TB", "PB", "EB"};
  std::size_t unit = 0;
  for (; bytes >= 1000 && unit + 1 < std::size(units); ++unit) bytes /= 1000;
  char text[32];
  std::snprintf(text, sizeof text, "%.*f %s", unit == 0 ? 0 : 1, bytes, units[unit]);
  return text;
}

std::size_t machine_memory() {
  const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  return pages <= 0 || page <= 0 ? 0 : static_cast<std::size_t>(pages) * static_cast<std::size_t>(page);
}

std::size_t peak_memory() {
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  return static_cast<std::size_t>(usage.ru_maxrss) * 1024;
}

}  // namespace tool
