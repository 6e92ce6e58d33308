#include "openblas.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <losa/core/error.hpp>
#include <mutex>
#include <string_view>

extern "C" {
// Absent unless OpenBLAS is what was linked.
char* openblas_get_config() __attribute__((weak));
void* blas_memory_alloc(int kind) __attribute__((weak));
void blas_memory_free(void* space) __attribute__((weak));

// OpenBLAS starts as many threads as there are processors when it is loaded: before main, before any constructor of the
// program, and with SIGINT to the process where the system refuses one. It asks this function of its own what
// OPENBLAS_NUM_THREADS says; the program's definition comes before a shared library's, and says 1.
//
// Tried without success: setting the variable from .preinit_array, which runs before the library's constructor, but
// before glibc has set `environ`, too; and openblas_set_num_threads(1), which comes when the threads are there.
__attribute__((weak, visibility("default"))) int openblas_num_threads_env() { return 1; }

// A static OpenBLAS keeps its own definition, as the one above is weak. But then its constructor is one of the
// program's, of this priority at the earliest and further down on the linker's line.
__attribute__((constructor(101))) static void ask_for_one_thread() { setenv("OPENBLAS_NUM_THREADS", "1", 1); }
}

namespace llama {
namespace {

#if defined(__powerpc64__)
constexpr std::size_t work_space = std::size_t{256} << 20;
#else
constexpr std::size_t work_space = std::size_t{128} << 20;  // or less
#endif

/// Calls at a time that OpenBLAS has tables for: twice the MAX_THREADS that it was built with. Without threads it does
/// not tell; there are 50 at least.
std::size_t most_calls() {
  if (openblas_get_config == nullptr) return 48;
  const std::string_view config = openblas_get_config();
  constexpr std::string_view key = "MAX_THREADS=";
  const std::size_t at = config.find(key);
  if (at == std::string_view::npos) return 48;
  const long threads = std::strtol(config.data() + at + key.size(), nullptr, 10);
  return threads < 1 ? 48 : static_cast<std::size_t>(2 * threads);
}

/// True if the system would give space to one more than `had` calls, and leave as much again as all of them have then:
/// where address space is limited, everything that is to come needs some. One call is not refused for that.
bool another_fits(std::size_t had) {
  const std::size_t size = (had + 1) * work_space;
  void* const trial = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return trial != MAP_FAILED && munmap(trial, size) == 0;
}

class Room {
 public:
  void enter() {
    if (try_enter()) return;
    std::unique_lock lock(mutex_);
    ++waiting_;
    while (!try_enter()) {
      if (growing_ || full_) {
        changed_.wait(lock);
      } else if (!grow(lock)) {
        --waiting_;
        losa::detail::raise<losa::UnsupportedError>("OpenBLAS needs ", work_space >> 20,
                                                    " MB of address space, which the system refuses; raise the limit "
                                                    "(ulimit -v, ulimit -d)");
      }
    }
    --waiting_;
  }

  /// So many places, or as many as there is room for.
  void prepare(std::size_t calls) {
    std::unique_lock lock(mutex_);
    while (!growing_ && !full_ && places(state_.load()) < calls)
      if (!grow(lock)) return;
  }

  void leave() {
    state_.fetch_sub(1);
    if (waiting_.load() == 0) return;  // who waits has counted itself before it looked at the state
    { std::lock_guard lock(mutex_); }
    changed_.notify_all();
  }

 private:
  static std::uint64_t places(std::uint64_t state) { return state >> 32; }
  static std::uint64_t inside(std::uint64_t state) { return state & 0xffffffffu; }

  bool try_enter() {
    std::uint64_t state = state_.load();
    while (inside(state) < places(state))
      if (state_.compare_exchange_weak(state, state + 1)) return true;
    return false;
  }

  /// Doubles the places, or makes the first. OpenBLAS gives a call the first space that is free, so the calls that run
  /// have to end before all spaces can be taken, the new ones too. False if there is none.
  bool grow(std::unique_lock<std::mutex>& lock) {
    growing_ = true;
    const auto had = static_cast<std::size_t>(places(state_.load()));
    state_.fetch_and(0xffffffffu);  // no place: nobody enters
    changed_.wait(lock, [&] { return inside(state_.load()) == 0; });
    std::array<void*, 1024> spaces;
    const std::size_t most = std::min(most_calls(), spaces.size());
    const std::size_t wanted = std::min(most, std::max<std::size_t>(1, 2 * had));
    std::size_t n = 0;
    for (; n < wanted && (n < had || another_fits(n)); ++n) spaces[n] = blas_memory_alloc(0);
    for (std::size_t i = 0; i < n; ++i) blas_memory_free(spaces[i]);
    full_ = n != 0 && (n < wanted || n == most);
    growing_ = false;
    state_.store(std::uint64_t{n} << 32);
    changed_.notify_all();
    return n != 0;
  }

  std::atomic<std::uint64_t> state_{0};  // places · 2³² + calls that run
  std::atomic<std::size_t> waiting_{0};
  std::mutex mutex_;  // guards what follows, and growing
  std::condition_variable changed_;
  bool growing_ = false;
  bool full_ = false;
};

Room& room() {
  static Room room;
  return room;
}

bool limited() { return blas_memory_alloc != nullptr && blas_memory_free != nullptr; }

}  // namespace

void make_room(std::size_t calls) {
  if (limited()) room().prepare(calls);
}

BlasCall::BlasCall() {
  if (limited()) room().enter();
}

BlasCall::~BlasCall() {
  if (limited()) room().leave();
}

}  // namespace llama
