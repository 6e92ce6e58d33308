// DeepSparse, a sparse engine in Python: it runs in a process of its own that is stopped while it is not its turn.
// A chain of layers larger than the caches stands for one layer with cold weights; the times are those of one layer.

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <sstream>

#include "../peers.hpp"

namespace compare {
namespace {

/// A child that answers a line with a line.
class Worker {
 public:
  explicit Worker(std::vector<std::string> command) {
    std::vector<char*> arguments;
    for (std::string& word : command) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    std::array<int, 2> to{}, from{};
    if (pipe(to.data()) != 0 || pipe(from.data()) != 0) throw NotHere("no pipe");
    child_ = fork();
    if (child_ < 0) throw NotHere("no process");
    if (child_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      dup2(to[0], 0);
      dup2(from[1], 1);
      for (int end : {to[0], to[1], from[0], from[1]}) close(end);
      execv(arguments[0], arguments.data());
      _exit(127);
    }
    close(to[0]);
    close(from[1]);
    to_ = fdopen(to[1], "w");
    from_ = fdopen(from[0], "r");
    kill(child_, SIGSTOP);
  }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  ~Worker() {
    kill(child_, SIGCONT);
    std::fclose(to_);  // it ends at the end of its input
    std::fclose(from_);
    waitpid(child_, nullptr, 0);
  }

  /// Lets it run for the time of one answer.
  std::string ask(const std::string& line) {
    kill(child_, SIGCONT);
    std::fputs((line + "\n").c_str(), to_);
    std::fflush(to_);
    std::string answer;
    for (int c = std::fgetc(from_); c != EOF && c != '\n'; c = std::fgetc(from_))
      answer.push_back(static_cast<char>(c));
    kill(child_, SIGSTOP);
    if (!answer.starts_with("ok ")) throw NotHere(answer.empty() ? "its process ended" : answer);
    return answer.substr(3);
  }

 private:
  pid_t child_ = 0;
  std::FILE* to_ = nullptr;
  std::FILE* from_ = nullptr;
};

std::vector<std::string> command(const std::string& python, const std::string& script, const Layer& layer) {
  if (layer.out != layer.in) throw NotHere("only square layers make a chain");
  if (layer.pruning.m != 0) throw NotHere("its chains have no N:M patterns");
  return {python,
          script,
          std::to_string(layer.in),
          std::to_string(layer.pruning.sparsity),
          std::to_string(layer.threads()),
          std::to_string(layer.cold_bytes)};
}

class DeepSparseProduct : public Contender {
 public:
  DeepSparseProduct(const Layer& layer, const std::string& python, const std::string& script)
      : worker_(command(python, script, layer)) {}

  void prepare(const Operands& operands) override {
    std::istringstream(worker_.ask("tokens " + std::to_string(operands.tokens))) >> layers_ >> bytes_ >> error_ >>
        kernel_;
  }
  void run() override { worker_.ask("run 1"); }
  double seconds(std::size_t calls) override {
    const std::size_t chains = (calls + layers_ - 1) / layers_;
    double taken = 0;
    std::istringstream(worker_.ask("run " + std::to_string(chains))) >> taken;
    return taken / static_cast<double>(chains * layers_) * static_cast<double>(calls);
  }
  std::size_t bytes() const override { return bytes_; }
  std::string kernel() const override { return kernel_; }
  std::optional<double> own_error() override { return error_; }

 private:
  Worker worker_;
  std::size_t layers_ = 1;
  std::size_t bytes_ = 0;
  double error_ = 0;
  std::string kernel_;
};

}  // namespace

void add_deepsparse(Field& field, const std::string& python, const std::string& worker) {
  field.libraries.push_back({.name = "DeepSparse", .version = "1.8.0", .absent = {}});
  field.entries.push_back(
      {.name = "DeepSparse", .type = "f32", .format = "its own", .sparse = true, .make = [=](const Layer& layer) {
         return std::make_unique<DeepSparseProduct>(layer, python, worker);
       }});
}

}  // namespace compare
