"""File systems lack services: what a result does not hang on may be missing, what it hangs on is an error."""

import errno
import os
import unittest

import support
from support import QUICK

FAULTS = os.environ.get("LOSA_E2E_FAULTS")  # the library of faults.cpp

MISSING = [errno.ENOSYS, errno.ENOTSUP, errno.EINVAL]
FAILED = [errno.EIO, errno.ENOSPC, errno.EDQUOT]


@unittest.skipUnless(FAULTS, "LOSA_E2E_FAULTS does not name the library of faults.cpp")
class Services(support.TestCase):
    def setUp(self):
        super().setUp()
        if support.call("--version", env=self.lacking("none", 0)).returncode != 0:
            self.skipTest("this build cannot be loaded together with the library of faults.cpp")
        self.model = support.write_model(self.tmp / "model", shards=2, dtype="BF16")
        (self.model / "tokenizer.json").write_text("{}")
        self.train = support.write_tokens(self.tmp / "train.bin")
        self.expected = self.tmp / "expected"
        self.succeed(*self.adapt(self.expected))

    @staticmethod
    def lacking(call, error, path=None, times=None):
        more = ({"FAULT_PATH": path} if path else {}) | ({"FAULT_TIMES": str(times)} if times else {})
        return os.environ | {"LD_PRELOAD": FAULTS, "FAULT_CALL": call, "FAULT_ERRNO": str(error)} | more

    def adapt(self, out, *more):
        quick = ["--sparsity", "0.5", "--train-tokens", "300", "--context", "50", "--batch", "1", *QUICK]
        return ["adapt", "--model", self.model, "--train", self.train, "--out", out, *quick, *more]

    def goes_on(self, call, error, *arguments, notes=0, says="", path=None, times=None):
        """The identical result, with so many notes and nothing left behind."""
        with self.subTest(call=call, error=errno.errorcode[error]):
            out = self.tmp / f"{call}-{error}"
            done = self.succeed(*self.adapt(out, *arguments), env=self.lacking(call, error, path, times))
            self.assertEqual(done.stderr.count("\n"), notes, done.stderr)
            self.assertTrue(done.stderr == "" or done.stderr.startswith("losa-llama: note: "), done.stderr)
            self.assertIn(says, done.stderr)
            self.assert_same_result(out, self.expected)
            self.assertEqual([p for p in out.rglob(".*")], [])
            return out

    def is_error(self, call, error, *arguments, path=None):
        """One line with the reason; nothing that looks finished, nothing that a run could stumble over."""
        with self.subTest(call=call, error=errno.errorcode[error], path=path):
            out = self.tmp / f"{call}-{error}-{path}"
            done = self.refuse(1, *self.adapt(out, *arguments), env=self.lacking(call, error, path),
                               says=os.strerror(error))
            self.assertFalse((out / "report.json").exists(), done.stderr)
            self.assertEqual([p for p in out.rglob("*.tmp")], [])
            self.assertTrue(not out.exists() or (out / ".partial" / "state.safetensors").exists(),
                            sorted(out.rglob("*")))
            self.succeed(*self.adapt(out, "--resume"))
            self.assert_same_result(out, self.expected)

    def test_locking(self):
        for error in [*MISSING, errno.ENOLCK, errno.EBADF, errno.EIO]:
            self.goes_on("flock", error, notes=1, says="cannot be locked")
        out = self.tmp / "held"
        self.refuse(2, *self.adapt(out), env=self.lacking("flock", errno.EWOULDBLOCK), says="another process")
        self.succeed(*self.adapt(self.tmp / "interrupted"), env=self.lacking("flock", errno.EINTR, times=2))

    def test_cleaning_without_locking(self):
        out = self.goes_on("flock", errno.ENOSYS, notes=1)
        (out / ".partial").mkdir()
        (out / ".partial" / "lock").touch()
        done = self.succeed(*self.adapt(out, "--resume"), env=self.lacking("flock", errno.ENOSYS))
        self.assertFalse((out / ".partial").exists(), done.stderr)

    def test_numbers_of_files_that_change(self):
        self.goes_on("inode", errno.ENOSYS)

    def test_permissions(self):
        told = self.tmp / "told.json"
        for error in [*MISSING, errno.EPERM, errno.EACCES, errno.EROFS]:
            told.write_text("before")
            told.chmod(0o600)
            self.succeed("inspect", "--model", self.model, "--json", told, env=self.lacking("fchmod", error))
            self.assertIn("layers", told.read_text())
            self.assertEqual(told.stat().st_mode & 0o077, 0)
            self.goes_on("fchmod", error)
        for error in [errno.ENOSYS, errno.EINVAL, errno.EIO]:
            self.succeed("inspect", "--model", self.model, "--json", told, env=self.lacking("access", error))
            self.goes_on("access", error)
        self.refuse(1, "inspect", "--model", self.model, "--json", told, env=self.lacking("access", errno.EACCES),
                    says="permission denied")

    def test_flushing(self):
        for error in MISSING:
            self.goes_on("fsync", error, notes=1, says="cannot be flushed")
            self.goes_on("fsync_directory", error, notes=1, says="cannot be flushed")
        for error in (errno.EBADF, errno.EISDIR, errno.EACCES):
            self.goes_on("fsync_directory", error, notes=1)
        for error in [*FAILED, errno.EROFS]:
            self.is_error("fsync", error)
            self.is_error("fsync_directory", error)
        # … also where only the last flushes fail.
        self.is_error("fsync", errno.EIO, path="result")
        self.is_error("fsync_directory", errno.EIO, path="compressed")
        self.is_error("close", errno.EIO, path="result")

    def test_flushing_is_made_again_when_interrupted(self):
        self.goes_on("fsync", errno.EINTR, times=3)
        self.goes_on("close", errno.EINTR)

    def test_room_in_advance(self):
        for error in MISSING:
            self.goes_on("posix_fallocate", error, "--memory", "block")
        for error in FAILED:
            self.is_error("posix_fallocate", error, "--memory", "block")
        for error in (errno.ENOTSUP, errno.EIO):
            self.goes_on("fallocate", error, "--memory", "block")

    def test_mapping(self):
        for error in [errno.ENODEV, *MISSING]:
            self.goes_on("mmap", error, notes=1, says="cannot map")
            self.goes_on("mmap_shared", error, "--memory", "block", notes=1, says="memory")
        plain = self.succeed("eval", "--model", self.model, "--tokens", self.train, "--context", "50")
        for error in (errno.ENODEV, errno.ENOTSUP):
            for arguments in (["eval", "--tokens", self.train, "--context", "50"], ["inspect"],
                              ["bench", "--repeats", "1", "--prefill", "4", "--decode", "4"],
                              ["generate", "--prompt", "a", "--tokens", "4", "--json", "-"]):
                done = self.succeed(arguments[0], "--model", self.model, *arguments[1:], env=self.lacking("mmap", error))
                self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
                self.assertRegex(done.stderr, r"note: .* read into memory, [0-9.]+ kB")
                if arguments[0] == "eval":
                    self.assertEqual(done.stdout, plain.stdout)
        self.refuse(1, "inspect", "--model", self.model, env=self.lacking("mmap", errno.ENOMEM), says="cannot allocate")

    def test_hints(self):
        for error in (errno.ENOSYS, errno.EINVAL, errno.EIO):
            self.goes_on("madvise", error)

    def test_removing_open_files(self):
        """Network file systems keep the name of a removed file that is open, or refuse to remove it."""
        for error in (errno.EBUSY, errno.ETXTBSY, errno.EPERM):
            self.goes_on("unlink", error, "--memory", "block", path="scratch", times=1)
            self.goes_on("unlinkat", error, path="lock", times=1)
        for call in ("unlinkat", "rmdir"):
            with self.subTest(call):
                out = self.tmp / call
                done = self.succeed(*self.adapt(out), env=self.lacking(call, errno.EBUSY) | {"FAULT_PATH": "lock"})
                if call == "unlinkat":
                    self.assertRegex(done.stderr, r"^losa-llama: note: .*\.partial cannot be removed .*\n$")
                self.assertTrue((out / "report.json").exists())
                self.succeed(*self.adapt(out, "--resume"))
                self.assertFalse((out / ".partial").exists())
                self.assert_same_result(out, self.expected)

    def test_renaming(self):
        for error in (errno.EXDEV, errno.ENOSYS, errno.EPERM):
            self.goes_on("rename_directory", error)
        for error in [errno.EXDEV, errno.EIO, *MISSING]:
            self.is_error("rename", error)

    def test_what_nothing_can_stand_in_for(self):
        for error in FAILED:
            self.is_error("write", error)
            self.is_error("pwrite", error)
            self.is_error("mkdir", error)
            self.is_error("mkostemp", error, "--memory", "block")


if __name__ == "__main__":
    support.main()
