"""A run that was killed or stopped at any moment ends, with --resume, as if nothing had happened."""

import os
import shutil
import signal
import subprocess
import time
import unittest

import support
from support import QUICK, TINY, TOOL

FAULTS = os.environ.get("LOSA_E2E_FAULTS")  # the library of faults.cpp


def wait_until(condition, process):
    """Polls as fast as it can; gives up when the process has ended."""
    while not condition() and process.poll() is None:
        pass


class RunTestCase(support.TestCase):
    def setUp(self):
        super().setUp()
        self.model = support.write_model(self.tmp / "model", shards=2, dtype="BF16")
        self.train = support.write_tokens(self.tmp / "train.bin")

    def arguments(self, out, *more):
        return ["adapt", "--model", self.model, "--train", self.train, "--out", out, *more]

    # Saved twice while it trains: after the prunings, and between the steps of the schedule.
    def short(self, out, *more):
        quick = ["--sparsity", "0.5", "--schedule-steps", "2", "--train-tokens", "600", "--early-share", "0.4"]
        return self.arguments(out, *quick, "--context", "50", "--batch", "1", *QUICK, *more)

    def long(self, out, *more):
        slow = ["--sparsity", "0.5", "--schedule-steps", "4", "--train-tokens", "24000", "--early-share", "0.2"]
        return self.arguments(out, *slow, "--context", "50", *QUICK, *more)

    def start(self, arguments, **options):
        process = subprocess.Popen([TOOL, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, **options)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def assert_finished(self, out, expected):
        self.assert_same_result(out, expected)
        self.assertFalse((out / ".partial").exists())


class Killed(RunTestCase):
    def killed_when(self, arguments, condition):
        """Kills the run as soon as the condition holds. True if it was still running then."""
        process = self.start(arguments)
        wait_until(condition, process)
        process.kill()
        process.communicate()
        return process.returncode == -signal.SIGKILL

    def test_while_it_computes(self):
        expected = self.tmp / "expected"
        began = time.monotonic()
        self.succeed(*self.long(expected, "--threads", "1"))
        whole = time.monotonic() - began
        killed = 0
        for share in (0.02, 0.2, 0.4, 0.55, 0.7, 0.85, 0.95):
            out = self.tmp / f"after-{share}"
            end = time.monotonic() + share * whole
            killed += self.killed_when(self.long(out, "--threads", "2"), lambda: time.monotonic() >= end)
            self.succeed(*self.long(out, "--threads", "3", "--resume"))
            self.assert_finished(out, expected)
        self.assertGreaterEqual(killed, 4)

    def test_when_a_file_appears(self):
        expected = self.tmp / "expected"
        self.succeed(*self.long(expected))
        moments = [".partial/lock", ".partial/state.safetensors", ".partial/result",
                   ".partial/result/compressed/config.json", ".partial/result/report.json", "adapter"]
        killed = 0
        for moment in moments:
            out = self.tmp / moment.replace("/", "-")
            killed += self.killed_when(self.long(out), (out / moment).exists)
            self.succeed(*self.long(out, "--resume"))
            self.assert_finished(out, expected)
        self.assertGreaterEqual(killed, 3)

    def test_again_and_again(self):
        expected, out = self.tmp / "expected", self.tmp / "out"
        began = time.monotonic()
        self.succeed(*self.long(expected))
        pause = (time.monotonic() - began) / 6
        for attempt in range(100):
            end = time.monotonic() + pause * (1 + attempt / 5)
            if not self.killed_when(self.long(out, "--resume"), lambda: time.monotonic() >= end):
                break
        self.assert_finished(out, expected)

    def test_two_to_four_and_plain_adapters(self):
        pattern = ["--pattern", "2:4", "--method", "unmasked", "--train-tokens", "20000", "--context", "50", *QUICK]
        expected, out = self.tmp / "expected", self.tmp / "out"
        self.succeed(*self.arguments(expected, *pattern))
        self.killed_when(self.arguments(out, *pattern), (out / ".partial/state.safetensors").exists)
        self.succeed(*self.arguments(out, *pattern, "--resume"))
        self.assert_finished(out, expected)


@unittest.skipUnless(FAULTS, "LOSA_E2E_FAULTS does not name the library of faults.cpp")
class Faults(RunTestCase):
    """The program stopped before chosen changes of the file system."""

    def environment(self, fault, at=0):
        return os.environ | {"LD_PRELOAD": FAULTS, "FAULT": fault, "FAULT_AT": str(at)}

    def undisturbed(self):
        """A finished run, and how often it changed the file system."""
        expected = self.tmp / "expected"
        done = self.succeed(*self.short(expected), env=self.environment("count"))
        return expected, int(done.stderr.removeprefix("calls "))

    @staticmethod
    def moments(calls):
        """Every fifth, and all of the last: there the result is published and the state removed."""
        return sorted({*range(1, calls - 14, 5), *range(calls - 14, calls + 1)})

    def test_killed_before_a_change(self):
        expected, calls = self.undisturbed()
        self.assertGreater(calls, 40)
        for at in self.moments(calls):
            with self.subTest(change=at, of=calls):
                out = self.tmp / f"killed-{at}"
                done = support.call(*self.short(out), env=self.environment("kill", at))
                self.assertEqual(done.returncode, -signal.SIGKILL, done.stderr)
                self.succeed(*self.short(out, "--resume"))
                self.assert_finished(out, expected)

    def test_killed_while_publishing_then_resumed_with_a_mistake(self):
        expected = self.tmp / "expected"
        arguments = ["--method", "prune"]
        calls = int(self.succeed(*self.short(expected, *arguments),
                                 env=self.environment("count")).stderr.removeprefix("calls "))
        begun = 0
        for at in range(calls - 14, calls):
            out = self.tmp / f"killed-{at}"
            support.call(*self.short(out, *arguments), env=self.environment("kill", at))
            if (out / "report.json").exists() or {p.name for p in out.iterdir()} == {".partial"}:
                continue  # complete, or nothing published yet
            begun += 1
            with self.subTest(change=at, of=calls):
                self.refuse(1, *self.short(out, *arguments, "--resume", "--skip", ".*"))
                self.succeed(*self.short(out, *arguments, "--resume"))
                self.assert_finished(out, expected)
        self.assertGreater(begun, 1)

    def test_full_disk_with_one_block_in_memory(self):
        """A run that only prunes leaves the complete model or nothing."""
        expected = self.tmp / "expected"
        arguments = ["--method", "prune", "--memory", "block"]
        calls = int(self.succeed(*self.short(expected, *arguments),
                                 env=self.environment("count")).stderr.removeprefix("calls "))
        for at in self.moments(calls)[::4]:
            with self.subTest(change=at, of=calls):
                out = self.tmp / f"full-{at}"
                done = support.call(*self.short(out, *arguments), env=self.environment("full", at))
                if done.returncode != 0:
                    self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (1, "", 1), done.stderr)
                    self.assertIn("space", done.stderr)
                    self.assertFalse((out / "report.json").exists(), "a result that looks finished")
                self.succeed(*self.short(out, *arguments, "--resume"))
                self.assert_same_result(out, expected)

    def test_full_disk(self):
        expected, calls = self.undisturbed()
        for at in self.moments(calls)[::2]:
            with self.subTest(change=at, of=calls):
                out = self.tmp / f"full-{at}"
                done = support.call(*self.short(out), env=self.environment("full", at))
                if done.returncode == 0:  # nothing but removals was left to do
                    self.assertGreater(at, calls - 15)
                else:
                    self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (1, "", 1), done.stderr)
                    self.assertIn("space", done.stderr)
                    self.assertFalse((out / "report.json").exists(), "a result that looks finished")
                    self.assertTrue(not out.exists() or (out / ".partial" / "state.safetensors").exists())
                self.succeed(*self.short(out, "--resume"))
                self.assert_finished(out, expected)


class Interrupted(RunTestCase):
    def interrupt(self, arguments, condition, which=signal.SIGINT):
        process = self.start(arguments)
        wait_until(condition, process)
        process.send_signal(which)
        stdout, stderr = process.communicate()
        self.assertEqual(process.returncode, 1, stderr)
        self.assertEqual((stdout, stderr.count("\n")), ("", 1), stderr)
        return stderr

    def test_stops_at_a_saved_state(self):
        expected, out = self.tmp / "expected", self.tmp / "out"
        self.succeed(*self.long(expected))
        state = out / ".partial/state.safetensors"
        for which in (signal.SIGINT, signal.SIGTERM):
            before = state.stat().st_mtime_ns if state.exists() else 0
            saved = lambda: state.exists() and state.stat().st_mtime_ns != before
            told = self.interrupt(self.long(out, "--resume"), saved, which)
            self.assertIn("--resume", told)
            self.assertEqual(sorted(p.name for p in out.iterdir()), [".partial"])
        self.succeed(*self.long(out, "--resume"))
        self.assert_finished(out, expected)
        self.assertEqual(support.report(out)["run"]["resumes"], 2)

    def test_saving_nothing(self):
        out = self.tmp / "out"
        endless = ["--sparsity", "0.5", "--train-tokens", "40000000", "--context", "50", *QUICK]
        self.interrupt(self.arguments(out, *endless), (out / ".partial/state.safetensors").exists)  # there is one soon
        shutil.rmtree(out)
        until = time.monotonic() + 3
        told = self.interrupt(self.arguments(out, *endless, "--save-every", 0), lambda: time.monotonic() > until)
        self.assertIn("before anything was saved", told)
        self.assertFalse(out.exists())

    def test_before_anything_is_saved(self):
        out = self.tmp / "out"
        slow = ["--calibration-sequences", "64", "--calibration-context", "256", "--sparsity", "0.5"]
        arguments = ["adapt", "--model", TINY, "--train", TINY / "train.txt", "--out", out, *slow]
        self.interrupt(arguments, (out / ".partial").exists)
        self.assertFalse(out.exists())


class Resume(RunTestCase):
    def killed_with_state(self, out, *more):
        process = self.start(self.long(out, *more))
        wait_until((out / ".partial/state.safetensors").exists, process)
        process.kill()
        process.communicate()
        self.assertTrue((out / ".partial/state.safetensors").exists())

    def snapshot(self, directory):
        return {p: (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in directory.rglob("*")}

    def test_on_nothing_starts_afresh(self):
        expected, new, empty = self.tmp / "expected", self.tmp / "new", self.tmp / "empty"
        self.succeed(*self.short(expected))
        self.succeed(*self.short(new, "--resume"))
        self.assert_finished(new, expected)
        empty.mkdir()
        self.succeed(*self.short(empty, "--resume"))
        self.assert_finished(empty, expected)
        self.assertEqual(support.report(empty)["run"]["resumes"], 0)

    def test_on_a_complete_result_changes_nothing(self):
        out = self.tmp / "out"
        self.succeed(*self.short(out))
        before = self.snapshot(out)
        done = self.succeed(*self.short(out, "--resume", "--threads", "1", "--json", "-"))
        self.assertEqual(support.json.loads(done.stdout), support.report(out))
        self.assertTrue(self.snapshot(out) == before)
        self.refuse(1, *self.short(out, "--resume", "--seed", "5"), says="other arguments")
        self.refuse(2, *self.short(out), says="not empty")
        self.assertTrue(self.snapshot(out) == before)

    def test_a_result_that_lost_a_file_is_not_complete(self):
        out = self.tmp / "out"
        self.succeed(*self.short(out))
        (out / "compressed" / "model.safetensors").unlink()
        done = support.call(*self.short(out, "--resume"))
        self.assertEqual(done.returncode, 1)
        self.assertIn("model.safetensors: is missing from a finished run", done.stderr)
        shutil.rmtree(out)
        self.succeed(*self.short(out))
        os.truncate(out / "model.safetensors", 100)
        done = support.call(*self.short(out, "--resume"))
        self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)
        self.assertIn("model.safetensors", done.stderr)

    def test_inside_the_model(self):
        """Neither its own directory nor another run's result is copied."""
        first, second = self.model / "first", self.model / "deep" / "second"
        self.succeed(*self.short(first))
        self.succeed(*self.short(second))
        for out in (first, second):
            found = {path.relative_to(out).as_posix() for path in out.rglob("*")}
            self.assertFalse([name for name in found if "first" in name or "second" in name or "deep" in name], found)

    def test_what_a_killed_cleaning_leaves_is_removed(self):
        out = self.tmp / "out"
        self.succeed(*self.short(out))
        before = self.snapshot(out)
        (out / ".partial").mkdir()
        self.succeed(*self.short(out, "--resume"))
        self.assertTrue(self.snapshot(out) == before)

    def test_with_other_arguments_is_refused(self):
        out = self.tmp / "out"
        self.killed_with_state(out)
        before = self.snapshot(out)
        others = [["--seed", "7"], ["--lr", "0.001"], ["--mean-rank", "4"], ["--alpha", "8"], ["--delta", "0.1"],
                  ["--batch", "1"], ["--mask", "wanda"], ["--skip", "q_proj"], ["--dtype", "f32"],
                  ["--hold-out", "0.1"], ["--regrow"], ["--method", "unmasked"], ["--keep-mask"], ["--no-keep-mask"]]
        for other in others:
            self.refuse(1, *self.long(out, "--resume", *other), says="other arguments")
        self.refuse(1, *self.long(out, "--resume", "--seed", "7"), says="other arguments: seed 0, now 7\n")
        self.refuse(2, *self.long(out), says="not empty")
        text = self.train.read_bytes()
        self.train.write_bytes(text[:-1] + b"\0")  # the same name, another text
        self.refuse(1, *self.long(out, "--resume"), says="other arguments")
        self.assertTrue(self.snapshot(out).keys() == before.keys())
        self.train.write_bytes(text)
        self.succeed(*self.long(out, "--resume", "--threads", "3"))

    def test_without_an_argument_that_was_given_is_refused(self):
        """Every argument that may be left out: forgotten, it is another run."""
        given = [("keep_mask", ["--keep-mask"]), ("keep_mask", ["--no-keep-mask"]), ("regrow", ["--regrow"]), ("skip", ["--skip", "q_proj"])]
        for n, (name, more) in enumerate(given):
            with self.subTest(more):
                out = self.tmp / f"out-{n}"
                self.killed_with_state(out, *more)
                self.refuse(1, *self.long(out, "--resume"), says=f"other arguments: {name} ")
        finished = self.tmp / "finished"
        self.succeed(*self.short(finished, "--keep-mask"))
        self.refuse(1, *self.short(finished, "--resume"), says="other arguments: keep_mask true, now null\n")
        self.succeed(*self.short(finished, "--resume", "--keep-mask"))

    def test_with_other_kernels_is_refused(self):
        out = self.tmp / "out"
        self.killed_with_state(out)
        environment = os.environ | {"LOSA_ISA": "reference"}
        self.refuse(1, *self.long(out, "--resume"), says='now "reference"', env=environment)
        self.succeed(*self.long(out, "--resume"))

    def test_a_damaged_state_is_refused(self):
        out = self.tmp / "out"
        self.killed_with_state(out)
        state = out / ".partial/state.safetensors"
        content = bytearray(state.read_bytes())
        for damaged in (content[: len(content) // 2], content[:-100] + bytes([content[-100] ^ 1]) + content[-99:], b""):
            state.write_bytes(damaged)
            self.refuse(1, *self.long(out, "--resume"), says="state.safetensors")
            self.assertEqual(state.read_bytes(), bytes(damaged))

    def test_a_directory_with_something_else_is_refused(self):
        out = self.tmp / "out"
        out.mkdir()
        (out / "thesis.txt").write_text("the only copy")
        for resume in ([], ["--resume"]):
            self.refuse(2, *self.short(out, *resume))
        self.assertEqual(support.files_below(out), ["thesis.txt"])
        self.refuse(2, *self.short(out / "thesis.txt"), says="not a directory")

    def test_two_processes_on_one_output_are_refused(self):
        expected, out = self.tmp / "expected", self.tmp / "out"
        self.succeed(*self.long(expected))
        first = self.start(self.long(out))
        wait_until((out / ".partial/lock").exists, first)
        self.refuse(2, *self.long(out, "--resume"), says="another process")
        self.refuse(2, *self.long(out), says="not empty")
        self.assertIsNone(first.poll(), "the first run ended before the second was tried")
        self.assertEqual(first.communicate()[1], "")
        self.assertEqual(first.returncode, 0)
        self.assert_finished(out, expected)


if __name__ == "__main__":
    support.main()
