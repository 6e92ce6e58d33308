"""Threads and memory: what this process may use, not what the machine has; and a system that refuses them is one line."""

import json
import os
import re
import resource
import unittest

import support
from support import QUICK, TINY

PRELOAD = os.environ.get("LOSA_E2E_MACHINE", "")
FAULTS = os.environ.get("LOSA_E2E_FAULTS", "")
PROCESSORS = len(os.sched_getaffinity(0))


def machine(**variables):
    """The environment of a program on another machine."""
    return {"env": {**os.environ, "LD_PRELOAD": PRELOAD, **{name: str(value) for name, value in variables.items()}}}


def address_space(megabytes):
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

    return {"preexec_fn": limit, "timeout": 120}


class TestCase(support.TestCase):
    def commands(self):
        """Every sub-command with little to do, by name."""
        tokens = ["--tokens", TINY / "test.txt", "--sequences", "2", "--context", "64"]
        return {
            "adapt": ["adapt", "--model", TINY, "--train", TINY / "train.txt", "--sparsity", "0.5", "--method", "prune",
                      "--mask", "wanda", "--out", self.tmp / "out", *QUICK],
            "eval": ["eval", "--model", TINY, *tokens],
            "generate": ["generate", "--model", TINY, "--prompt", "The ", "--tokens", "4"],
            "bench": ["bench", "--model", TINY, "--prefill", "16", "--decode", "4", "--repeats", "1"],
            "inspect": ["inspect", "--model", TINY],
        }

    def default_threads(self, **options):
        told = self.succeed("eval", "--help", **options).stdout
        (line,) = [line for line in told.splitlines() if "--threads" in line]
        return int(re.search(r"=(\d+)", line)[1])


@unittest.skipUnless(PRELOAD, "LOSA_E2E_MACHINE is not set")
class Threads(TestCase):
    def test_one_thread_means_none_is_started(self):
        log = self.tmp / "log"
        options = machine(THREADS_MOST=0, THREADS_LOG=log)
        for arguments in (["--version"], ["--help"], *([name, "--help"] for name in self.commands())):
            self.succeed(*arguments, **options)
        for arguments in self.commands().values():
            self.succeed(*arguments, "--threads", "1", **options)
        self.assertFalse(log.exists() and log.read_text())
        self.succeed("eval", *self.commands()["eval"][1:], "--threads", "3", **machine(THREADS_LOG=log))
        self.assertEqual(log.read_text(), "thread\n" * 2)  # so the log would have told

    def test_refused_threads_that_were_asked_for(self):
        for arguments in self.commands().values():
            for most, given in ((0, 1), (3, 4)):
                self.refuse(1, *arguments, "--threads", "8", **machine(THREADS_MOST=most),
                            says=f"--threads 8: the system gives {given}; ask for fewer")
        self.assertFalse((self.tmp / "out").exists())

    @unittest.skipIf(PROCESSORS < 2, "one processor")
    def test_refused_threads_that_nobody_asked_for(self):
        for arguments in self.commands().values():
            done = self.succeed(*arguments, **machine(THREADS_MOST=0))
            said = [line for line in done.stderr.splitlines() if "threads" in line]
            self.assertEqual(len(said), 1, done.stderr)
            self.assertIn(f"the system gives 1 of {self.default_threads()} threads", said[0])
        self.assertEqual(support.report(self.tmp / "out")["run"]["threads"], 1)
        # A mistake is the only line there is.
        self.refuse(1, "inspect", "--model", self.tmp / "absent", **machine(THREADS_MOST=0))


class AddressSpace(TestCase):
    """`ulimit -v`: the stacks of threads, their heaps and the BLAS's work space all count."""

    def test_no_signal_and_no_endless_wait(self):
        for megabytes, threads in ((100, "1"), (200, "3"), (250, "16"), (700, "16"), (700, "64"), (1953, "1024")):
            for name, arguments in self.commands().items():
                done = support.call(*arguments, "--threads", threads, **address_space(megabytes))
                told = f"{name} --threads {threads} with {megabytes} MB: {done.returncode}, {done.stderr}"
                self.assertIn(done.returncode, (0, 1), told)
                if done.returncode == 1:
                    self.assertEqual(done.stderr.count("\n"), 1, told)
                support.shutil.rmtree(self.tmp / "out", ignore_errors=True)

    def test_many_threads(self):
        self.refuse(1, *self.commands()["eval"], "--threads", "1024", says="--threads 1024: the system gives ",
                    **address_space(1953))

    def test_fewer_places_than_threads(self):
        """The BLAS has room for two of sixteen threads: products wait for one another, and are the same."""
        arguments = ["eval", "--model", TINY, "--tokens", TINY / "test.txt", "--sequences", "24", "--context", "128"]
        self.assertEqual(self.succeed(*arguments, "--threads", "16", **address_space(700)).stdout,
                         self.succeed(*arguments, "--threads", "1").stdout)

    def test_layer(self):
        self.refuse(1, "bench", "--layer", "64x64", says="there are 734.0 MB (machine, container, ulimit)",
                    **address_space(700))


class Affinity(TestCase):
    def setUp(self):
        super().setUp()
        one = min(os.sched_getaffinity(0))
        self.pinned = {"preexec_fn": lambda: os.sched_setaffinity(0, {one})}

    def test_default(self):
        self.assertEqual(self.default_threads(**self.pinned), 1)
        self.succeed(*self.commands()["adapt"], **self.pinned)
        self.assertEqual(support.report(self.tmp / "out")["run"]["threads"], 1)

    def test_asked_for(self):
        self.succeed(*self.commands()["adapt"], "--threads", "3", **self.pinned)
        self.assertEqual(support.report(self.tmp / "out")["run"]["threads"], 3)
        self.succeed(*self.commands()["bench"], "--threads", "2", "--json", self.tmp / "bench.json", **self.pinned)
        self.assertEqual(json.loads((self.tmp / "bench.json").read_text())["threads"], 2)


@unittest.skipUnless(PRELOAD, "LOSA_E2E_MACHINE is not set")
class Container(TestCase):
    def container(self, files, groups="0::/box\n", mounts="31 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"):
        root = self.tmp / "root"
        support.shutil.rmtree(root, ignore_errors=True)
        for path, content in {"/proc/self/cgroup": groups, "/proc/self/mountinfo": mounts, **files}.items():
            file = root / path[1:]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        return machine(MACHINE_ROOT=root)

    def test_quota(self):
        for quota, expected in (("100000 100000\n", 1), ("50000 100000\n", 1), ("110000 100000\n", min(2, PROCESSORS)),
                                ("max 100000\n", PROCESSORS), ("what\n", PROCESSORS)):
            self.assertEqual(self.default_threads(**self.container({"/sys/fs/cgroup/box/cpu.max": quota})), expected)
        first = self.container({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
                                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
                               "4:cpu:/box\n", "35 31 0:32 /box /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n")
        self.assertEqual(self.default_threads(**first), 1)
        self.succeed(*self.commands()["adapt"], **first)
        self.assertEqual(support.report(self.tmp / "out")["run"]["threads"], 1)
        support.shutil.rmtree(self.tmp / "out")
        self.succeed(*self.commands()["adapt"], "--threads", "2", **first)
        self.assertEqual(support.report(self.tmp / "out")["run"]["threads"], 2)

    def test_memory(self):
        small = self.container({"/sys/fs/cgroup/box/memory.max": "1000000\n"})
        self.refuse(1, "bench", "--layer", "64x64", says="there are 1.0 MB (machine, container, ulimit)", **small)

    @unittest.skipUnless(FAULTS, "LOSA_E2E_FAULTS is not set")
    def test_memory_auto(self):
        """Which way adapt goes shows in its calls of the file system: one block at a time writes scratch files."""

        def calls(memory, limit):
            options = self.container({"/sys/fs/cgroup/memory.max": limit})
            options["env"].update(LD_PRELOAD=f"{PRELOAD} {FAULTS}", FAULT="count")
            done = self.succeed(*self.commands()["adapt"], "--save-every", "0", "--memory", memory, **options)
            support.shutil.rmtree(self.tmp / "out")
            return done.stderr.split("calls ")[1]

        whole, parts = calls("all", "max\n"), calls("block", "max\n")
        self.assertNotEqual(whole, parts)
        self.assertEqual(calls("auto", "max\n"), whole)
        self.assertEqual(calls("auto", "1000000\n"), parts)


if __name__ == "__main__":
    support.main()
