#pragma once
// What this process may use of the machine. The hardware is often more than that: a batch system pins a process to some
// processors, a container has a quota of processor time and of memory, `ulimit -v` bounds the address space.
//
//   losa::ThreadPool pool(losa::AtMost{losa::usable_threads()});
//   if (needed > losa::usable_memory()) ...
//
// Both read a few small files below /proc and /sys (about 0.1 ms); where there are none, as on other systems than
// Linux, the hardware's numbers remain.

#include <algorithm>
#include <bit>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdio>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <sys/resource.h>
#include <unistd.h>
#endif

namespace losa::inline v0 {

namespace detail {

/// The least of the limits that were found.
struct Limit {
  std::optional<std::size_t> value;
  void at_most(std::optional<std::size_t> other) {
    if (other && (!value || *other < *value)) value = other;
  }
};

inline std::string small_file(const std::string& path) {
  std::string content;
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  const std::unique_ptr<std::FILE, Close> file(std::fopen(path.c_str(), "r"));
  char piece[4096];
  while (file) {
    const std::size_t n = std::fread(piece, 1, sizeof piece, file.get());
    if (n == 0) break;
    content.append(piece, n);
  }
  return content;
}

/// What comes before the next `end` of `text` (or all), which is cut off with it.
inline std::string_view cut(std::string_view& text, char end) {
  const std::size_t n = std::min(text.find(end), text.size());
  const std::string_view piece = text.substr(0, n);
  text.remove_prefix(std::min(n + 1, text.size()));
  return piece;
}

/// The positive number that is all of `text`; nothing for "max", "-1" and what else is no limit.
inline std::optional<std::size_t> limit_number(std::string_view text) {
  std::size_t value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || rest != end || value == 0) return std::nullopt;
  return value;
}
/// The same of a file's first line.
inline std::optional<std::size_t> limit_in(const std::string& path) {
  const std::string content = small_file(path);
  std::string_view text = content;
  return limit_number(cut(text, '\n'));
}

inline bool has_item(std::string_view list, std::string_view item) {
  while (!list.empty())
    if (cut(list, ',') == item) return true;
  return false;
}

/// /proc/self/mountinfo writes a space as \040, and so the other characters that would end a field.
inline std::string without_escapes(std::string_view field) {
  std::string plain;
  for (std::size_t i = 0; i < field.size(); ++i) {
    unsigned code = 0;
    if (field[i] == '\\' && i + 4 <= field.size() &&
        std::from_chars(&field[i + 1], &field[i + 1] + 3, code, 8).ptr == &field[i + 1] + 3) {
      plain += static_cast<char>(code);
      i += 3;
    } else {
      plain += field[i];
    }
  }
  return plain;
}

/// Where a control group lies below a mount that shows the hierarchy from `top` on; nothing if it lies elsewhere.
inline std::optional<std::string> group_below(std::string_view top, std::string_view group) {
  if (top == "/") top = {};
  if (group == "/") group = {};
  if (group.starts_with(top) && (group.size() == top.size() || group[top.size()] == '/') &&
      !group.substr(top.size()).starts_with("/.."))
    return std::string(group.substr(top.size()));
  // A mount from outside the process's namespace. Of the groups above, at least the topmost is there to see.
  bool above = !top.empty();
  while (!top.empty() && above) {
    above = top.starts_with("/..") && (top.size() == 3 || top[3] == '/');
    if (above) top.remove_prefix(3);
  }
  if (above) return std::string();
  return std::nullopt;
}

/// Calls f(folder) with the folder of the process's own control group and with those of all groups that it lies in, as
/// far as they are mounted: of the first version's hierarchy with this controller, or, where it is empty, of the second
/// version's. `root` comes before every path.
template <class Visitor>
void for_each_group(const std::string& root, std::string_view controller, Visitor&& visit) {
  const std::string groups = small_file(root + "/proc/self/cgroup");
  const std::string mounts = small_file(root + "/proc/self/mountinfo");
  for (std::string_view remaining = groups; !remaining.empty();) {
    std::string_view group = cut(remaining, '\n');  // 4:cpu,cpuacct:/path, or 0::/path
    const std::string_view number = cut(group, ':');
    const std::string_view controllers = cut(group, ':');
    if (controller.empty() ? number != "0" || !controllers.empty() : !has_item(controllers, controller)) continue;
    for (std::string_view rest = mounts; !rest.empty();) {
      // 31 23 0:26 /top /mount/point options optional... - type source options
      std::string_view fields = cut(rest, '\n');
      for (int skipped = 0; skipped < 3; ++skipped) cut(fields, ' ');
      const std::string top = without_escapes(cut(fields, ' '));
      const std::string point = without_escapes(cut(fields, ' '));
      while (!fields.empty() && cut(fields, ' ') != "-") continue;
      const std::string_view type = cut(fields, ' ');
      cut(fields, ' ');
      if (controller.empty() ? type != "cgroup2" : type != "cgroup" || !has_item(fields, controller)) continue;
      std::optional<std::string> below = group_below(top, group);
      for (; below; below->resize(below->rfind('/'))) {
        visit(root + point + *below);
        if (below->empty()) break;
      }
    }
  }
}

/// Processors' worth of time that the control groups leave to the process, rounded up.
inline std::optional<std::size_t> group_threads(const std::string& root) {
  Limit least;
  const auto share = [&](std::optional<std::size_t> quota, std::optional<std::size_t> period) {
    if (quota && period) least.at_most(*quota / *period + (*quota % *period != 0));
  };
  for_each_group(root, "cpu", [&](const std::string& group) {
    share(limit_in(group + "/cpu.cfs_quota_us"), limit_in(group + "/cpu.cfs_period_us"));
  });
  for_each_group(root, {}, [&](const std::string& group) {
    const std::string content = small_file(group + "/cpu.max");  // "150000 100000" or "max 100000"
    std::string_view text = content;
    std::string_view line = cut(text, '\n');
    const std::optional<std::size_t> quota = limit_number(cut(line, ' '));
    share(quota, line.empty() ? 100000 : limit_number(line));
  });
  return least.value;
}

/// Bytes that the control groups leave to the process. memory.high counts as well: what is above it is not refused, but
/// the kernel takes it away again, and the process waits.
inline std::optional<std::size_t> group_memory(const std::string& root) {
  Limit least;
  for_each_group(root, "memory", [&](const std::string& group) {
    least.at_most(limit_in(group + "/memory.limit_in_bytes"));
    // Groups above the mount count here too.
    const std::string statistics = small_file(group + "/memory.stat");
    for (std::string_view remaining = statistics; !remaining.empty();) {
      std::string_view line = cut(remaining, '\n');
      if (cut(line, ' ') == "hierarchical_memory_limit") least.at_most(limit_number(line));
    }
  });
  for_each_group(root, {}, [&](const std::string& group) {
    for (const char* file : {"/memory.max", "/memory.high"}) least.at_most(limit_in(group + file));
  });
  return least.value;
}

/// Processors that the calling thread may run on; nothing where the system does not tell.
inline std::optional<std::size_t> affine_processors() {
#if defined(__linux__)
  // The kernel wants room for every processor it was built for, and refuses less.
  for (std::size_t bits = 1024; bits <= std::size_t{1} << 20; bits *= 2) {
    std::vector<unsigned long> mask(bits / std::numeric_limits<unsigned long>::digits);
    if (::sched_getaffinity(0, bits / 8, reinterpret_cast<cpu_set_t*>(mask.data())) == 0) {
      std::size_t n = 0;
      for (unsigned long word : mask) n += static_cast<std::size_t>(std::popcount(word));
      if (n != 0) return n;
      break;
    }
    if (errno != EINVAL) break;
  }
#endif
  return std::nullopt;
}

}  // namespace detail

/// Threads that can be busy at once, at least 1: the least of the processors that are online, those that the calling
/// thread may run on, and what the control groups leave of their time, rounded up.
inline std::size_t usable_threads() {
  detail::Limit least;
  const unsigned hardware = std::thread::hardware_concurrency();
  if (hardware != 0) least.at_most(hardware);
  least.at_most(detail::affine_processors());
  least.at_most(detail::group_threads({}));
  return least.value.value_or(1);
}

/// Bytes of memory that this process may come to hold: the least of the machine's memory, the control groups' limits
/// and the process's own (`ulimit -v`, `ulimit -d`); 0 where the system tells none of them. What others hold is not
/// subtracted.
inline std::size_t usable_memory() {
  detail::Limit least;
#if defined(_SC_PHYS_PAGES) && defined(_SC_PAGESIZE)
  constexpr std::size_t most = std::numeric_limits<std::size_t>::max();
  const long pages = ::sysconf(_SC_PHYS_PAGES), page = ::sysconf(_SC_PAGESIZE);
  if (pages > 0 && page > 0) {
    const auto n = static_cast<std::size_t>(pages), size = static_cast<std::size_t>(page);
    least.at_most(n > most / size ? most : n * size);
  }
#endif
#if defined(RLIMIT_AS) && defined(RLIMIT_DATA)
  for (const auto which : {RLIMIT_AS, RLIMIT_DATA}) {
    rlimit limit{};
    if (::getrlimit(which, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        limit.rlim_cur <= std::numeric_limits<std::size_t>::max())
      least.at_most(limit.rlim_cur);
  }
#endif
  least.at_most(detail::group_memory({}));
  return least.value.value_or(0);
}

}  // namespace losa::inline v0
