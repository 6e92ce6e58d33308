"""Token files: read where they are needed, told from text and from other files, by what they hold."""

import gzip
import json
import os
import signal
import subprocess
import time

import numpy as np

import support
from support import QUICK, TINY, TOOL, small_config

TEXT = (TINY / "test.txt").read_bytes()


class TokenFileCase(support.TestCase):
    def setUp(self):
        super().setUp()
        self.models = {}

    def model(self, vocabulary):
        if vocabulary not in self.models:
            config = small_config(vocab_size=vocabulary)
            self.models[vocabulary] = support.write_model(self.tmp / f"model-{vocabulary}", config=config)
        return self.models[vocabulary]

    def file(self, content, name="tokens"):
        path = self.tmp / name
        path.write_bytes(content)
        return path

    def ids(self, vocabulary=32000, count=4000, kind="<u2", seed=3):
        """As tokenisers give them: the n-th token about as often as 1/n."""
        random = np.random.default_rng(seed)
        return np.minimum(vocabulary**random.random(count) - 1, vocabulary - 1).astype(kind).tobytes()

    def evaluate(self, vocabulary, path, *more):
        return ["eval", "--model", self.model(vocabulary), "--tokens", path, "--context", "50", "--sequences", "2", *more]

    def everywhere(self, vocabulary, path, *more):
        """The three sub-commands that read a token file."""
        yield self.evaluate(vocabulary, path, *more)
        yield ["generate", "--model", self.model(vocabulary), "--prompt-tokens", path, "--tokens", "2", *more]
        yield ["adapt", "--model", self.model(vocabulary), "--train", path, "--out", self.tmp / "out", "--sparsity", "0.5",
               "--train-tokens", "100", "--context", "50", *QUICK, *more]


class Kinds(TokenFileCase):
    def refused(self, content, says, vocabulary=32000):
        path = self.file(content)
        for arguments in self.everywhere(vocabulary, path):
            done = self.refuse(1, *arguments, says=f"{path}: ")
            self.assertRegex(done.stderr, says)
        self.assertFalse((self.tmp / "out").exists())
        return done.stderr

    def accepted(self, content, vocabulary=32000, *more):
        self.succeed(*self.evaluate(vocabulary, self.file(content), *more))

    def test_text(self):
        cyrillic = "Все счастливые семьи похожи друг на друга. " * 60
        chinese = "天地玄黃，宇宙洪荒。日月盈昃，辰宿列張。\n" * 60
        others = {"english": TEXT[:20000], "odd": TEXT[:20001], "short": TEXT[:40], "cyrillic": cyrillic.encode(),
                  "chinese": chinese.encode(), "emoji": ("\U0001F600\U0001F680 ok " * 50).encode(),
                  "windows": TEXT[:8000].replace(b"\n", b"\r\n"), "marked": b"\xef\xbb\xbf" + TEXT[:4001],
                  "latin": cyrillic.encode("koi8-r"), "lines": b'{"text": "It was a dark night."}\n' * 50,
                  "table": b"id,text\r\n" * 100, "json": json.dumps([1, 2, 3] * 100).encode()}
        for name, content in others.items():
            for vocabulary in (32000, 65536, 70000):
                with self.subTest(name, vocabulary=vocabulary):
                    path = self.file(content)
                    done = self.refuse(1, *self.evaluate(vocabulary, path), says="looks like text")
                    self.assertIn("text.py encode", done.stderr)
        few = "Привет как дела у тебя сегодня? " * 100
        wide = {"english": TEXT[:4000].decode("ascii", "replace"), "cyrillic": cyrillic, "chinese": chinese, "few": few,
                "french": "Ça été déjà vu à l'étage où naît l'été. " * 100}
        for name, text in wide.items():
            for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"):
                for vocabulary in (256, 32000, 70000):
                    with self.subTest(name, encoding=encoding, vocabulary=vocabulary):
                        path = self.file(text.encode(encoding))
                        done = self.refuse(1, *self.evaluate(vocabulary, path), says=f"looks like {encoding[:6]} text")
                        self.assertNotIn("reads those", done.stderr)
        for encoding in ("cp1251", "koi8-r", "latin-1"):
            text = wide["french"] if encoding == "latin-1" else few
            for vocabulary in (32000, 70000):
                with self.subTest(encoding, vocabulary=vocabulary):
                    path = self.file(text.encode(encoding))
                    self.refuse(1, *self.evaluate(vocabulary, path), says="looks like text")
        told = self.refused(TEXT[:20000], "looks like text")
        self.assertIn("--token-bits 16", told)
        self.refused(cyrillic.encode("utf-16"), "looks like UTF-16", 65536)
        self.refused(TEXT[:4000].decode("ascii", "replace").encode("utf-16-le"), "looks like (UTF-16|text)")
        self.refused(TEXT[:4000].decode("ascii", "replace").encode("utf-16-be"), "looks like UTF-16")

    def test_insisting(self):
        path = self.file(bytes(b for b in TEXT[:4000] if b < 124))
        for arguments in self.everywhere(32000, path, "--token-bits", "16"):
            if arguments[0] != "generate":  # too long a prompt
                self.succeed(*arguments)
        self.accepted(TEXT[:4000], 256)
        self.refuse(1, *self.evaluate(32000, self.file(TEXT[:4001]), "--token-bits", "16"), says="no whole number of 16-bit")

    def test_ids_pass(self):
        for vocabulary in (257, 300, 1000, 32000, 49152, 65536):
            for seed in range(3):
                self.accepted(self.ids(vocabulary, seed=seed), vocabulary)
                even = np.random.default_rng(seed).integers(0, vocabulary, 4000).astype("<u2").tobytes()
                self.accepted(even, vocabulary)
        high = np.random.default_rng(1).integers(32000, 49153, 4000).astype("<u2").tobytes()
        self.accepted(high, 49153)  # one script's part of a vocabulary
        self.accepted(self.ids(70000, kind="<u4"), 70000)
        for few in (0, 1, 31999):
            self.accepted(np.full(4000, few, "<u2").tobytes())
        self.accepted(np.random.default_rng(1).integers(0, 256, 4000).astype("u1").tobytes(), 256)
        done = self.succeed("generate", "--model", self.model(32000), "--prompt-tokens", self.file(b"to be or"), "--tokens",
                            "2", "--json", "-")  # four ids are too few to tell
        self.assertEqual(len(json.loads(done.stdout)["prompt_ids"]), 4)

    def test_other_widths_and_orders(self):
        self.refused(self.ids(kind="<u4"), "32-bit numbers.*--token-bits 32 reads those")
        self.refused(self.ids(kind="<i8"), "64-bit numbers")
        self.refused(self.ids(kind=">u2"), "big-endian")
        self.refused(self.ids(65536, kind=">u2"), "big-endian", 65536)
        self.refused(self.ids(70000, kind=">u4"), "big-endian", 70000)
        self.refused(self.ids(), "16-bit numbers.*--token-bits 16 reads those", 70000)
        self.refused(self.ids(70000, kind="<i8"), "64-bit numbers", 70000)
        self.refused(self.ids(), "16-bit numbers", 256)  # another model's tokens
        self.refused(self.ids(256), "16-bit numbers.*--token-bits 16", 256)
        self.refused(TEXT[:4000].decode("ascii", "replace").encode("utf-16"), "UTF-16", 256)
        floats = np.random.default_rng(1).standard_normal(2000)
        for vocabulary in (256, 32000, 70000):
            self.refused(floats.astype("<f4").tobytes(), "floating-point numbers of 32 bits", vocabulary)
            self.refused(np.frombuffer(self.ids(), "<u2").astype("<f4").tobytes(), "floating-point numbers of 32 bits", vocabulary)
            self.refused(floats.astype("<f8").tobytes(), "floating-point numbers of 64 bits", vocabulary)
        self.accepted(self.ids(kind="<u4"), 32000, "--token-bits", "32")
        self.accepted(self.ids(256), 256, "--token-bits", "16")

    def test_formats(self):
        path = self.tmp / "array.npy"
        np.save(path, np.frombuffer(self.ids(), "<u2"))
        self.refused(path.read_bytes(), "NumPy")
        np.savez(self.tmp / "arrays.npz", np.frombuffer(self.ids(), "<u2"))
        self.refused((self.tmp / "arrays.npz").read_bytes(), "(?i)zip")
        self.refused(gzip.compress(self.ids()), "(?i)gzip")
        self.refused(gzip.compress(TEXT[:20000]), "(?i)gzip", 256)
        pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 400000000\n"
        for vocabulary in (256, 32000):
            self.refused(pointer, "Git LFS pointer.*git lfs pull", vocabulary)
        self.refused(b"PAR1" + self.ids() + b"PAR1", "(?i)parquet")
        self.refused((self.model(32000) / "model.safetensors").read_bytes(), "(?i)safetensors")


class Memory(TokenFileCase):
    SIZE = 400_000_000

    def sparse(self, head):
        path = self.file(head, "large")
        os.truncate(path, self.SIZE)
        return path

    def peak(self, arguments):
        """Highest resident memory of the program, in bytes."""
        code = ("import resource, subprocess, sys\n"
                "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
                "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)\n"
                "sys.exit(done.returncode)")
        done = subprocess.run([support.sys.executable, "-c", code, TOOL, *map(str, arguments)], capture_output=True,
                              text=True, timeout=600)
        self.assertEqual(done.returncode, 0, done.stderr)
        return int(done.stdout)

    def test_a_part_of_a_large_file(self):
        small = self.peak(self.evaluate(32000, self.file(self.ids())))
        large = self.sparse(self.ids())
        self.assertLess(self.peak(self.evaluate(32000, large)) - small, 16_000_000)
        with self.subTest("the same numbers"):
            told = [self.succeed(*self.evaluate(32000, path)).stdout for path in (self.tmp / "tokens", large)]
            self.assertEqual(*told)
        self.refuse(1, "generate", "--model", self.model(32000), "--prompt-tokens", large, says="exceed max_position")

    def test_all_of_a_large_file(self):
        """`adapt` draws from all of it, and keeps none of it."""
        adapt = list(self.everywhere(32000, self.file(self.ids())))[2]
        small = self.peak(adapt)
        adapt[adapt.index("--out") + 1] = self.tmp / "large-out"
        adapt[adapt.index("--train") + 1] = self.sparse(self.ids())
        # Besides, 8 bytes for every window of 50 tokens: where it begins.
        self.assertLess(self.peak([*adapt, "--hold-out", "0.1"]) - small, 16_000_000 + self.SIZE // 2 // 50 * 8)

    def test_only_what_is_used_is_looked_at(self):
        ids = bytearray(self.ids(1000, count=4000))
        ids[6000:6002] = b"\xff\xff"  # token 3000
        path = self.file(bytes(ids))
        self.succeed(*self.evaluate(1000, path))
        evaluate, _, adapt = self.everywhere(1000, path)
        says = "token 3000 is 65535, outside the vocabulary of 1000"
        self.refuse(1, *evaluate[:-1], "all", says=says)
        self.refuse(1, *adapt, says=says)
        self.assertFalse((self.tmp / "out").exists())

    def test_a_pipe(self):
        content = self.ids()
        path = self.file(content)
        plain = self.succeed(*self.evaluate(32000, path)).stdout
        done = subprocess.run([TOOL, *map(str, self.evaluate(32000, "/dev/stdin"))], input=content, capture_output=True)
        self.assertEqual((done.returncode, done.stdout.decode()), (0, plain), done.stderr)

    def test_a_signal_ends_the_wait_for_a_pipe(self):
        """Whether nobody opens it, or nobody writes."""
        fifo = self.tmp / "fifo"
        os.mkfifo(fifo)
        for path in (fifo, "/dev/stdin"):
            for arguments in self.everywhere(32000, path):
                for which in (signal.SIGTERM, signal.SIGINT):
                    with self.subTest(arguments[0], path=path, signal=which):
                        process = subprocess.Popen([TOOL, *map(str, arguments)], stdin=subprocess.PIPE,
                                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                        self.addCleanup(process.kill)
                        time.sleep(0.5)
                        self.assertIsNone(process.poll())
                        process.send_signal(which)
                        process.wait(20)  # before its standard input ends
                        self.assertEqual(process.returncode, 128 + which)
                        self.assertEqual(process.communicate(), ("", "losa-llama: stopped\n"))
                        self.assertFalse((self.tmp / "out").exists())


if __name__ == "__main__":
    support.main()
