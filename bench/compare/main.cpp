// Times losa's sparse products and every dense peer that was found, side by side in one process, and writes what it
// measured as JSON. `--help` tells the options.

#include <omp.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <limits>
#include <losa/gemm/registry.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>
#include <string_view>

#include "check.hpp"
#include "inputs.hpp"
#include "measure.hpp"
#include "options.hpp"
#include "peers.hpp"
#include "roofs.hpp"
#include "stack.hpp"

namespace compare {
namespace {

using Json = nlohmann::ordered_json;

/// Libraries read these when they are loaded: threads that wait must sleep, else they steal the next contender's core.
/// Restarts the program where they are not set.
void settle_environment(char** argv) {
  if (std::getenv("LOSA_COMPARE_SETTLED") != nullptr) return;
  for (const auto& [name, value] : std::map<const char*, const char*>{{"LOSA_COMPARE_SETTLED", "1"},
                                                                      {"OMP_WAIT_POLICY", "passive"},
                                                                      {"OMP_DYNAMIC", "false"},
                                                                      {"KMP_BLOCKTIME", "0"},
                                                                      {"OPENBLAS_THREAD_TIMEOUT", "4"},
                                                                      {"MKL_THREADING_LAYER", "GNU"},
                                                                      {"MKL_INTERFACE_LAYER", "LP64"},
                                                                      {"MKL_DYNAMIC", "false"}})
    setenv(name, value, 1);
  // These would have a library run other kernels, or fewer threads, than it chooses itself.
  for (const char* name :
       {"OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "MKL_ENABLE_INSTRUCTIONS",
        "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "LIBXSMM_TARGET", "NM_ARCH", "OMP_PROC_BIND"})
    unsetenv(name);
#if defined(LOSA_COMPARE_AVX2)
  // Everyone to AVX2, each in its own words; Eigen and ggml were compiled for it.
  for (const auto& [name, value] : std::map<const char*, const char*>{{"LOSA_ISA", "avx2"},
                                                                      {"OPENBLAS_CORETYPE", "Haswell"},
                                                                      {"MKL_ENABLE_INSTRUCTIONS", "AVX2"},
                                                                      {"ONEDNN_MAX_CPU_ISA", "AVX2"},
                                                                      {"DNNL_MAX_CPU_ISA", "AVX2"},
                                                                      {"LIBXSMM_TARGET", "hsw"},
                                                                      {"NM_ARCH", "avx2"}})
    setenv(name, value, 1);
#endif
  execv("/proc/self/exe", argv);
}

Field the_field(const Options& o, std::size_t threads) {
  Field field;
  const auto add = [&](const std::string& name, auto f) {
    try {
      f();
    } catch (const NotHere& e) {
      field.libraries.push_back({.name = name, .version = {}, .absent = e.what()});
    }
  };
  [[maybe_unused]] const auto absent = [&](const std::string& name) {
    field.libraries.push_back({.name = name, .version = {}, .absent = "not found when this program was built"});
  };
  add_losa(field);
#if defined(LOSA_COMPARE_OPENBLAS)
  add("OpenBLAS", [&] { add_openblas(field, threads); });
#else
  absent("OpenBLAS");
#endif
#if defined(LOSA_COMPARE_MKL)
  add("MKL", [&] { add_mkl(field, threads); });
#else
  absent("MKL");
#endif
#if defined(LOSA_COMPARE_ONEDNN)
  add("oneDNN", [&] { add_onednn(field); });
#else
  absent("oneDNN");
#endif
#if defined(LOSA_COMPARE_LIBXSMM)
  add("libxsmm", [&] { add_libxsmm(field); });
#else
  absent("libxsmm");
#endif
  add_eigen(field, threads);
#if defined(LOSA_COMPARE_GGML)
  add("ggml", [&] { add_ggml(field); });
#else
  absent("ggml");
#endif
  if (o.deepsparse.empty()) {
    field.libraries.push_back({.name = "DeepSparse", .version = {}, .absent = "no interpreter that has it was named"});
  } else {
    add_deepsparse(field, o.deepsparse, o.worker);
  }
  const auto named = [](const Entry& e, const std::vector<std::string>& parts) {
    return std::ranges::any_of(parts, [&](const std::string& p) { return e.name.find(p) != std::string::npos; });
  };
  std::erase_if(field.entries,
                [&](const Entry& e) { return named(e, o.without) || (!o.only.empty() && !named(e, o.only)); });
  return field;
}

/// One contender at work on one layer.
struct Runner {
  const Entry* entry;
  Layer layer;
  std::unique_ptr<Contender> contender;
};

class Comparison {
 public:
  Comparison(const Options& o, std::size_t threads) : o_(o), pool_(threads), field_(the_field(o, threads)) {
    cache_ = last_level_cache_bytes();
    roofs();
  }

  void run() {
    for (const auto& [out, in] : o_.shapes) {
      shape(Op::product, out, in, o_.tokens);
      if (o_.training)
        for (Op op : {Op::dx, Op::sddmm}) shape(op, out, in, {*std::ranges::max_element(o_.tokens)});
      roofs();
    }
    if (o_.stack != 0) stack();
    roofs();
    write();
  }
  bool losa_is_right() const { return losa_is_right_; }

 private:
  void roofs() {
    const Roofs r = measure_roofs(pool_.concurrency(), std::max(6 * cache_, std::size_t{256} << 20));
    roofs_.read_gb_per_s = std::max(roofs_.read_gb_per_s, r.read_gb_per_s);
    roofs_.fma_gflop_per_s = std::max(roofs_.fma_gflop_per_s, r.fma_gflop_per_s);
  }

  /// Six times the caches, unless all copies of all contenders would then fill the memory.
  std::size_t cold_bytes(const std::vector<Runner>& runners) const {
    double available = std::numeric_limits<double>::max();
    std::ifstream file("/proc/meminfo");
    for (std::string line; std::getline(file, line);)
      if (line.starts_with("MemAvailable:")) available = 1024.0 * std::stod(line.substr(13));
    double own = 0;
    for (const Runner& r : runners)
      own += static_cast<double>(r.layer.size() * sizeof(float)) * (1 - r.layer.pruning.sparsity);
    const auto wanted = static_cast<double>(6 * cache_);
    const double fits = std::max(0.0, (0.8 * available - own) / static_cast<double>(runners.size()));
    if (fits < wanted)
      std::fprintf(stderr, "compare: memory for copies of %.0f MB each instead of %.0f\n", 1e-6 * fits, 1e-6 * wanted);
    return static_cast<std::size_t>(std::min(wanted, fits));
  }

  void leave_out(const std::string& who, const std::string& why) {
    if (!left_out_.insert(who + ": " + why).second) return;
    std::fprintf(stderr, "compare: left out: %s: %s\n", who.c_str(), why.c_str());
  }

  void shape(Op op, std::size_t out, std::size_t in, const std::vector<std::size_t>& tokens) {
    const std::vector<float> weight = numbers(out * in, 1);
    std::map<Pruning, losa::Mask> masks;
    for (const Pruning& p : o_.prunings) masks.emplace(p, random_mask(out, in, p));
    Layer layer{.out = out, .in = in, .weight = weight.data(), .pool = &pool_};
    std::vector<Runner> runners;
    for (const Entry& e : field_.entries) {
      if (e.op != op) continue;
      if (!e.sparse) runners.push_back({&e, layer, nullptr});
      for (const auto& [p, mask] : masks) {
        if (!e.sparse) break;
        layer.mask = &mask;
        layer.pruning = p;
        runners.push_back({&e, layer, nullptr});
      }
      layer.mask = nullptr;
      layer.pruning = {};
    }
    const std::size_t cold = cold_bytes(runners);
    const bool reused = std::ranges::min(tokens) >= 64;  // so often that reading costs little
    std::erase_if(runners, [&](Runner& r) {
      r.layer.cold_bytes = cold;
      r.layer.most_copies = reused ? 2 : std::numeric_limits<std::size_t>::max();
      return !attempt(*r.entry, [&] { r.contender = r.entry->make(r.layer); });
    });
    for (std::size_t t : tokens) cell(op, runners, t);
  }

  /// False, and a line to the reader, if the contender has nothing for this case.
  template <class F>
  bool attempt(const Entry& entry, F f) {
    try {
      f();
      return true;
    } catch (const NotHere& e) {
      leave_out(entry.name, e.what());
      return false;
    }
  }

  void cell(Op op, std::vector<Runner>& runners, std::size_t tokens) {
    if (runners.empty()) return;
    const Layer& any = runners[0].layer;
    const std::vector<float> x = numbers(tokens * any.in, 2);
    const std::vector<float> g = numbers(tokens * any.out, 3);
    std::vector<float> y(op == Op::sddmm ? any.size() : tokens * std::max(any.out, any.in));
    const Operands operands{.x = x.data(), .g = g.data(), .y = y.data(), .tokens = tokens};

    std::vector<Contender*> ready;
    std::vector<const Runner*> who;
    std::vector<double> errors;
    std::map<const losa::Mask*, Reference> references;
    for (Runner& r : runners) {
      Contender& c = *r.contender;
      if (!attempt(*r.entry, [&] { c.prepare(operands); })) continue;
      double error = 0;
      if (const auto own = c.own_error()) {
        error = *own;
      } else {
        const auto reference = references.try_emplace(r.layer.mask, r.layer, op, operands).first;
        std::ranges::fill(y, std::numeric_limits<float>::quiet_NaN());
        c.run();
        c.fetch();
        error = reference->second.error(y.data());
      }
      if (!(error <= tolerance(r.entry->type))) {
        leave_out(r.entry->name,
                  "wrong result at " + std::to_string(tokens) + " tokens, error " + std::to_string(error));
        if (r.entry->name.starts_with("losa")) losa_is_right_ = false;
        continue;
      }
      ready.push_back(&c);
      who.push_back(&r);
      errors.push_back(error);
    }
    std::fprintf(stderr, "compare: %s of %zu × %zu, %zu tokens: %zu contenders\n", name(op), any.out, any.in, tokens,
                 ready.size());
    const std::size_t repeats = tokens >= 512 ? std::min<std::size_t>(o_.repeats, 3) : o_.repeats;
    const std::vector<Times> times = measure(ready, repeats, 1e-3 * o_.turn_ms);
    for (std::size_t i = 0; i < ready.size(); ++i) rows_.push_back(row(op, *who[i], tokens, times[i], errors[i]));
    write();
  }

  /// Two stacks at a time, losa's and a dense one, so that they fit into memory.
  void stack() {
    const auto usual = std::ranges::find_if(
        field_.entries, [](const Entry& e) { return e.sparse && e.type == "f32" && e.format == "bitmask"; });
    if (usual == field_.entries.end()) return;
    Stack ours(*usual, o_.stack, o_.prunings[0], pool_);
    std::optional<Times> fastest;
    Json of_ours;
    for (const Entry& e : field_.entries) {
      if (e.sparse || e.type != "f32" || e.op != Op::product) continue;
      attempt(e, [&] {
        Stack peer(e, o_.stack, {}, pool_);
        std::fprintf(stderr, "compare: %zu blocks, losa and %s\n", o_.stack, e.name.c_str());
        const std::vector<Times> times = measure({&ours, &peer}, o_.repeats, 1e-3 * o_.turn_ms);
        rows_.push_back(stack_row(e, peer, {}, times[1]));
        // A ratio to the fastest peer must come from the turns that the two took together.
        if (fastest && fastest->median <= times[1].median) return;
        fastest = times[1];
        of_ours = stack_row(*usual, ours, o_.prunings[0], times[0]);
      });
    }
    if (fastest) rows_.push_back(of_ours);
    write();
  }
  Json stack_row(const Entry& e, const Stack& s, const Pruning& p, const Times& times) const {
    return row_of("stack of " + std::to_string(o_.stack) + " blocks", e, s, p, Stack::hidden, Stack::hidden, 1,
                  s.kept(), times);
  }

  static const char* name(Op op) { return op == Op::product ? "spmm" : op == Op::dx ? "dx" : "sddmm"; }

  static Json row(Op op, const Runner& r, std::size_t tokens, const Times& times, double error) {
    const std::size_t kept = r.layer.mask == nullptr ? r.layer.size() : r.layer.mask->kept();
    Json made = row_of(name(op), *r.entry, *r.contender, r.layer.pruning, r.layer.out, r.layer.in, tokens, kept, times);
    made["error"] = error;
    return made;
  }
  static Json row_of(const std::string& op, const Entry& e, const Contender& c, const Pruning& pruning, std::size_t out,
                     std::size_t in, std::size_t tokens, std::size_t kept, const Times& times) {
    return {{"op", op},
            {"contender", e.name},
            {"type", e.type},
            {"format", e.format},
            {"kernel", c.kernel()},
            {"sparse", e.sparse},
            {"sparsity", pruning.sparsity},
            {"pattern", pruning.pattern()},
            {"out", out},
            {"in", in},
            {"tokens", tokens},
            {"ms", 1e3 * times.median},
            {"best_ms", 1e3 * times.best},
            {"worst_ms", 1e3 * times.worst},
            {"bytes", c.bytes()},
            {"kept", kept}};
  }

  static const char* isa() {
#if defined(LOSA_COMPARE_AVX2)
    return "avx2";
#endif
    if (std::ranges::any_of(losa::backends(),
                            [](const losa::Backend* b) { return b->name == std::string_view("amx"); }))
      return "amx";
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
      return "avx512";
    return __builtin_cpu_supports("avx2") ? "avx2" : "sse2";
#elif defined(__aarch64__)
    return "neon";
#else
    return "other";
#endif
  }

  static std::string processor() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);)
      if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
    return "unknown";
  }

  /// Written aside and renamed, after every cell: a run that is stopped leaves what it has measured.
  void write() const {
    Json libraries = Json::array();
    for (const Library& l : field_.libraries)
      libraries.push_back({{"name", l.name}, {"version", l.version}, {"absent", l.absent}});
    const Json all{{"machine",
                    {{"processor", processor()},
                     {"isa", isa()},
                     {"threads", pool_.concurrency()},
                     {"last_level_cache_bytes", cache_},
                     {"read_gb_per_s", roofs_.read_gb_per_s},
                     {"fma_gflop_per_s", roofs_.fma_gflop_per_s}}},
                   {"libraries", libraries},
                   {"left_out", left_out_},
                   {"rows", rows_}};
    const std::string aside = o_.out + ".part";
    std::ofstream file(aside);
    file << all.dump(1) << "\n";
    file.close();
    if (!file) throw std::runtime_error("cannot write " + aside);
    std::filesystem::rename(aside, o_.out);
  }

  Options o_;
  losa::ThreadPool pool_;
  Field field_;
  std::size_t cache_ = 0;
  Roofs roofs_;
  std::set<std::string> left_out_;
  std::vector<Json> rows_;
  bool losa_is_right_ = true;
};

}  // namespace
}  // namespace compare

int main(int argc, char** argv) {
  try {
    const compare::Options o = compare::parse(argc, argv);
    compare::settle_environment(argv);
    const std::size_t threads = o.threads == 0 ? losa::ThreadPool::hardware_threads() : o.threads;
    omp_set_num_threads(static_cast<int>(threads));
    compare::Comparison comparison(o, threads);
    comparison.run();
    return comparison.losa_is_right() ? 0 : 1;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "losa_compare: %s\n", e.what());
    return 2;
  }
}
