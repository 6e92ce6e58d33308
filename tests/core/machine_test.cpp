#include <losa/core/machine.hpp>

#include <doctest/doctest.h>

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#include <sys/resource.h>
#endif
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED  // which holds terabytes
#endif
#endif

namespace {

using Number = std::optional<std::size_t>;

/// A machine's /proc and /sys as a test wants them.
class Machine {
 public:
  Machine() {
    std::string name = (std::filesystem::temp_directory_path() / "losa-machine-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    root_ = name;
  }
  ~Machine() { std::filesystem::remove_all(root_); }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  Machine& file(const std::string& path, const std::string& content) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << content;
    return *this;
  }
  Machine& groups(const std::string& lines) { return file("/proc/self/cgroup", lines); }
  Machine& mounts(const std::string& lines) { return file("/proc/self/mountinfo", lines); }

  Number threads() const { return losa::detail::group_threads(root_); }
  Number memory() const { return losa::detail::group_memory(root_); }

 private:
  std::string root_;
};

const std::string plain_mounts =
    "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
    "23 22 0:5 / /proc rw,nosuid shared:14 - proc proc rw\n";
const std::string second_version =
    plain_mounts + "31 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
const std::string first_version =
    plain_mounts +
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";
const std::string first_groups =
    "9:name=systemd:/x\n5:cpuset:/s\n4:memory:/jobs/7\n2:cpu,cpuacct:/jobs/7\n0::/elsewhere\n";

}  // namespace

TEST_CASE("machine: no control groups, no limit") {
  CHECK(Machine().threads() == Number());
  CHECK(Machine().memory() == Number());
  Machine mounted;
  mounted.mounts(first_version);
  CHECK(mounted.threads() == Number());
  Machine grouped;
  grouped.groups("0::/a\n").file("/sys/fs/cgroup/a/cpu.max", "100000 100000\n");  // which is not mounted
  CHECK(grouped.threads() == Number());
}

TEST_CASE("machine: second version, quotas are rounded up") {
  for (const auto& [limit, expected] : {std::pair("100000 100000\n", Number(1)),
                                        {"200000 100000\n", Number(2)},
                                        {"150000 100000\n", Number(2)},
                                        {"10000 100000\n", Number(1)},
                                        {"200001 100000\n", Number(3)},
                                        {"75000 50000", Number(2)},
                                        {"300000\n", Number(3)},
                                        {"max 100000\n", Number()},
                                        {"max\n", Number()}}) {
    const char* content = limit;  // CAPTURE takes no structured binding before clang 16
    CAPTURE(content);
    Machine machine;
    machine.groups("0::/a\n").mounts(second_version).file("/sys/fs/cgroup/a/cpu.max", content);
    CHECK(machine.threads() == expected);
  }
}

TEST_CASE("machine: what is no limit is none") {
  for (const char* content : {"", "\n", " ", "abc", "12x 100000\n", "-1 100000\n", "0 100000\n", "100000 0\n",
                              "100000 x\n", "100000 -100000\n", "99999999999999999999999 100000\n", "1e5 100000\n"}) {
    CAPTURE(content);
    Machine machine;
    machine.groups("0::/a\n").mounts(second_version).file("/sys/fs/cgroup/a/cpu.max", content);
    machine.file("/sys/fs/cgroup/a/memory.max", content).file("/sys/fs/cgroup/a/memory.high", content);
    CHECK(machine.threads() == Number());
    CHECK(machine.memory() == Number());
  }
  for (const char* groups : {"", "\n\n", "0", "0:", "0::", ":::::", "0::a", "x::/a\n", "0:cpu:/a\n", "0::/b\n"}) {
    CAPTURE(groups);
    Machine machine;
    machine.groups(groups).mounts(second_version).file("/sys/fs/cgroup/a/cpu.max", "100000 100000\n");
    CHECK(machine.threads() == Number());
  }
  for (const char* mounts :
       {"", "\n", "31 23 0:26 / /sys/fs/cgroup", "- - - - - - - cgroup2", "31 23 0:26 / /sys/fs/cgroup - ",
        "31 23 0:26 / /sys/fs/cgroup rw cgroup2 cgroup2 rw", "1 2 3 \\0 \\777 - cgroup2 x rw"}) {
    CAPTURE(mounts);
    Machine machine;
    machine.groups("0::/a\n").mounts(mounts).file("/sys/fs/cgroup/a/cpu.max", "100000 100000\n");
    CHECK(machine.threads() == Number());
  }
}

TEST_CASE("machine: the least of a group and of all above it, up to the mount") {
  Machine machine;
  machine.groups("0::/a/b/c\n").mounts(second_version);
  machine.file("/sys/fs/cgroup/a/b/c/cpu.max", "800000 100000\n").file("/sys/fs/cgroup/a/b/c/memory.max", "max\n");
  CHECK(machine.threads() == Number(8));
  CHECK(machine.memory() == Number());
  machine.file("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n").file("/sys/fs/cgroup/a/b/memory.max", "9000\n");
  machine.file("/sys/fs/cgroup/a/cpu.max", "250000 100000\n").file("/sys/fs/cgroup/a/memory.max", "4000\n");
  CHECK(machine.threads() == Number(3));
  CHECK(machine.memory() == Number(4000));
  machine.file("/sys/fs/cgroup/cpu.max", "200000 100000\n").file("/sys/fs/cgroup/memory.max", "3000\n");
  CHECK(machine.threads() == Number(2));
  CHECK(machine.memory() == Number(3000));
  machine.file("/sys/fs/cpu.max", "100000 100000\n").file("/sys/fs/cgroup/a/b/c/d/cpu.max", "100000 100000\n");
  machine.file("/sys/fs/cgroup/z/cpu.max", "100000 100000\n");  // above the mount, below the group, beside it
  CHECK(machine.threads() == Number(2));
}

TEST_CASE("machine: memory.high holds a process back, so it counts") {
  Machine machine;
  machine.groups("0::/\n").mounts(second_version).file("/sys/fs/cgroup/memory.max", "5000000\n");
  CHECK(machine.memory() == Number(5000000));
  machine.file("/sys/fs/cgroup/memory.high", "4000000\n");
  CHECK(machine.memory() == Number(4000000));
}

TEST_CASE("machine: first version, each controller in its hierarchy") {
  Machine machine;
  machine.groups(first_groups).mounts(first_version);
  const std::string cpu = "/sys/fs/cgroup/cpu,cpuacct", memory = "/sys/fs/cgroup/memory";
  machine.file(cpu + "/jobs/7/cpu.cfs_quota_us", "-1\n").file(cpu + "/jobs/7/cpu.cfs_period_us", "100000\n");
  machine.file(memory + "/jobs/7/memory.limit_in_bytes", "9223372036854771712\n");
  CHECK(machine.threads() == Number());
  CHECK(machine.memory() == Number(9223372036854771712u));  // more than any machine has
  machine.file(cpu + "/jobs/7/cpu.cfs_quota_us", "350000\n");
  machine.file(memory + "/jobs/7/memory.limit_in_bytes", "700000\n");
  CHECK(machine.threads() == Number(4));
  CHECK(machine.memory() == Number(700000));
  machine.file(cpu + "/jobs/cpu.cfs_quota_us", "50000\n");  // of a period that is missing
  CHECK(machine.threads() == Number(4));
  machine.file(cpu + "/jobs/cpu.cfs_period_us", "25000\n");
  CHECK(machine.threads() == Number(2));
  machine.file(memory + "/memory.limit_in_bytes", "600000\n");
  CHECK(machine.memory() == Number(600000));
  machine.file(memory + "/jobs/7/memory.stat", "cache 5\nhierarchical_memory_limit 500000\nrss 100\n");
  CHECK(machine.memory() == Number(500000));
  machine.file("/sys/fs/cgroup/cpuset/s/cpu.cfs_quota_us", "1\n")
      .file("/sys/fs/cgroup/cpuset/s/cpu.cfs_period_us", "1\n");
  CHECK(machine.threads() == Number(2));
}

TEST_CASE("machine: both versions at once, each with some of the controllers") {
  Machine machine;
  machine.groups(first_groups);
  machine.mounts(first_version + "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n");
  machine.file("/sys/fs/cgroup/cpu,cpuacct/jobs/7/cpu.cfs_quota_us", "300000\n");
  machine.file("/sys/fs/cgroup/cpu,cpuacct/jobs/7/cpu.cfs_period_us", "100000\n");
  machine.file("/sys/fs/cgroup/unified/elsewhere/memory.max", "4096\n");
  machine.file("/sys/fs/cgroup/unified/jobs/7/cpu.max", "100000 100000\n");  // the process is not there
  CHECK(machine.threads() == Number(3));
  CHECK(machine.memory() == Number(4096));
  machine.file("/sys/fs/cgroup/unified/elsewhere/cpu.max", "200000 100000\n");
  CHECK(machine.threads() == Number(2));
}

TEST_CASE("machine: a mount that begins at the container's own group") {
  Machine machine;
  machine.groups("3:cpu:/docker/1f/worker\n0::/docker/1f/worker\n");
  machine.mounts("35 31 0:32 /docker/1f /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n");
  machine.file("/sys/fs/cgroup/cpu/worker/cpu.cfs_quota_us", "400000\n");
  machine.file("/sys/fs/cgroup/cpu/worker/cpu.cfs_period_us", "100000\n");
  CHECK(machine.threads() == Number(4));
  machine.file("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n");
  machine.file("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  CHECK(machine.threads() == Number(2));
  machine.groups("3:cpu:/docker/1f\n");
  CHECK(machine.threads() == Number(2));
}

TEST_CASE("machine: a mount that begins at another's group says nothing") {
  for (const char* top : {"/docker/1", "/docker/1f/2", "/../other"}) {
    CAPTURE(top);
    Machine machine;
    machine.groups("0::/docker/1f\n").mounts("35 31 0:32 " + std::string(top) + " /c rw - cgroup2 cgroup2 rw\n");
    machine.file("/c/cpu.max", "100000 100000\n").file("/c/docker/1f/cpu.max", "100000 100000\n");
    CHECK(machine.threads() == Number());
  }
}

TEST_CASE("machine: namespaces") {
  // The mount is from above the namespace: its topmost group is above the process for certain.
  Machine above;
  above.groups("0::/\n").mounts("35 31 0:32 /../.. /c rw - cgroup2 cgroup2 rw\n").file("/c/cpu.max", "300000 100000\n");
  CHECK(above.threads() == Number(3));
  // The process was moved out of its namespace: what the mount shows does not hold it.
  Machine outside;
  outside.groups("0::/../b\n")
      .mounts("35 31 0:32 / /c rw - cgroup2 cgroup2 rw\n")
      .file("/c/cpu.max", "300000 100000\n");
  CHECK(outside.threads() == Number());
  outside.mounts("35 31 0:32 /.. /c rw - cgroup2 cgroup2 rw\n").file("/c/b/cpu.max", "100000 100000\n");
  CHECK(outside.threads() == Number(1));
}

TEST_CASE("machine: names with spaces, colons and escapes, and groups that are gone") {
  Machine machine;
  machine.groups("0::/a: b/c (deleted)\n");
  machine.mounts("35 31 0:32 /a:\\040b /sys/my\\040groups\\134x rw shared:1 master:2 - cgroup2 none rw\n");
  machine.file("/sys/my groups\\x/cpu.max", "500000 100000\n");
  CHECK(machine.threads() == Number(5));
}

TEST_CASE("machine: this one") {
  const std::size_t threads = losa::usable_threads();
  CHECK(threads >= 1);
  if (std::thread::hardware_concurrency() != 0) CHECK(threads <= std::thread::hardware_concurrency());
  CHECK(losa::usable_memory() > 0);
}

#if defined(__linux__)
TEST_CASE("machine: a thread that is pinned to one processor") {
  std::size_t pinned = 0;
  std::thread([&] {
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    for (std::size_t i = 0; i < CPU_SETSIZE; ++i) {
      CPU_SET(i, &allowed);
      if (::sched_setaffinity(0, sizeof allowed, &allowed) == 0) break;
      CPU_CLR(i, &allowed);
    }
    pinned = losa::usable_threads();
  }).join();
  CHECK(pinned == 1);
}
#endif

#if defined(__linux__) && !defined(SANITIZED) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST_CASE("machine: the process's own limit of memory") {
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_DATA, &before) == 0);
  rlimit lower = before;
  lower.rlim_cur = std::min<rlim_t>(before.rlim_cur, rlim_t{1} << 29);
  REQUIRE(::setrlimit(RLIMIT_DATA, &lower) == 0);
  CHECK(losa::usable_memory() <= std::size_t{1} << 29);
  REQUIRE(::setrlimit(RLIMIT_DATA, &before) == 0);
}
#endif
