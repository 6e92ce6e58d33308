#include "common.hpp"

#if defined(__GLIBC__)
#include <malloc.h>
#endif
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <losa/core/machine.hpp>
#include <losa/gemm.hpp>
#include <losa/io/atomic_file.hpp>

#include "../blas.hpp"
#include "notes.hpp"

namespace tool {

namespace {

/// Where the address space is limited, the stacks of threads that nobody asked for take a quarter of it at most.
std::size_t default_threads() {
  static const std::size_t threads = [] {
    const std::size_t usable = losa::usable_threads();
    rlimit space{}, stack{};
    if (getrlimit(RLIMIT_AS, &space) != 0 || space.rlim_cur == RLIM_INFINITY) return usable;
    constexpr rlim_t usual_stack = rlim_t{8} << 20;
    if (getrlimit(RLIMIT_STACK, &stack) != 0 || stack.rlim_cur == RLIM_INFINITY) stack.rlim_cur = usual_stack;
    return std::clamp<std::size_t>(space.rlim_cur / 4 / std::max(stack.rlim_cur, rlim_t{1} << 20), 1, usable);
  }();
  return threads;
}

/// False if the system has no address space left for a program to do anything with.
bool room_to_work() {
  constexpr std::size_t size = std::size_t{32} << 20;
  void* const trial = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return trial != MAP_FAILED && munmap(trial, size) == 0;
}

}  // namespace

Threads::Threads(const Common& common)
    : losa::ThreadPool(losa::AtMost{common.threads.value_or(default_threads())}),
      wanted_(common.threads.value_or(default_threads())) {
  if (!common.threads) return;
  if (concurrency() < wanted_)
    losa::detail::raise<losa::UnsupportedError>(
        "--threads ", wanted_, ": the system gives ", concurrency(),
        "; ask for fewer, or raise its limits (ulimit -v, ulimit -d, ulimit -u, or the container's processes)");
  if (wanted_ > 1 && !room_to_work())
    losa::detail::raise<losa::UnsupportedError>("--threads ", wanted_, ": their stacks leave no address space to work ",
                                                "with; ask for fewer, or raise the limit (ulimit -v, ulimit -d)");
}

void Threads::begin_work() const {
  if (concurrency() < wanted_)
    note(losa::detail::text(
        "the system gives ", concurrency(), " of ", wanted_,
        " threads (ulimit -v, ulimit -d, ulimit -u, or the container's processes); going on with them"));
  if (address_space_limited()) llama::prepare_products(concurrency());
}

void add_common(CLI::App& app, Common& common) {
  app.add_option("--threads", common.threads, "threads; no result depends on their number")
      ->check(CLI::Range(1, 1024))
      ->default_str(std::to_string(default_threads()));
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

bool address_space_limited() {
  rlimit limit{};
  return getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
}

void spare_address_space() {
#if defined(M_ARENA_MAX)
  if (address_space_limited()) mallopt(M_ARENA_MAX, 1);
#endif
}

std::size_t peak_memory() {
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  return static_cast<std::size_t>(usage.ru_maxrss) * 1024;
}

}  // namespace tool
