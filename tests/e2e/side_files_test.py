"""Beside the weights: what belongs to a model is in the result, what does not is named and left."""

import errno
import os
import socket
import subprocess
import sys
import unittest

import support
from support import QUICK

FAULTS = os.environ.get("LOSA_E2E_FAULTS")  # the library of faults.cpp
LARGE = 3_000_000


class SideFiles(support.TestCase):
    def setUp(self):
        super().setUp()
        self.model = support.write_model(self.tmp / "model", shards=2)
        self.train = support.write_tokens(self.tmp / "train.bin")
        self.out = self.tmp / "out"

    def put(self, name, content=b"{}", size=None):
        path = self.model / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if size is not None:
            os.truncate(path, size)
        return path

    def arguments(self, model=None, out=None, *more):
        return ["adapt", "--model", model or self.model, "--train", self.train, "--out", out or self.out, "--sparsity", "0.5",
                "--method", "prune", "--context", "50", *QUICK, *more]

    def adapt(self, model=None, out=None, *more):
        self.told = self.succeed(*self.arguments(model, out, *more)).stdout
        run = support.report(out or self.out)["run"]
        return {entry["name"]: entry for entry in run["left_out"]}, run["single_copy"]

    def beside(self, directory):
        own = {"config.json", "report.json", "model.safetensors"}
        return {name for name in support.files_below(directory)
                if name not in own and not name.startswith(("compressed/", "adapter/"))}

    def test_what_belongs_is_copied_the_rest_is_named(self):
        belong = ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "merges.txt", "vocab.json",
                  "chat_template.jinja", "additional_chat_templates/tools.jinja", "LICENSE", "USE_POLICY.md", "README.md",
                  "preprocessor_config.json", "notes.txt", "tokenizer.model", "tokenization_x.py"]
        for name in belong:
            self.put(name)
        self.put("tokenizer.json", b"\0 any bytes \xff" * 5, LARGE)
        stay = {"model.onnx_data": LARGE, "onnx/model.onnx": 50, "onnx/model.onnx_data": LARGE, "optimizer.pt": 100,
                "pytorch_model.bin": 7, "consolidated.00.pth": 8, "original/consolidated.01.pth": 9, "rust_model.ot": 10,
                "x.mlmodel": 11, "x.tflite": 12, "x.gguf": 13, "training_args.bin": 14, "nameless": 2 * LARGE,
                "long.json": LARGE, "pytorch_model.bin.index.json": 2, "other.safetensors": 15, "picture.png": 16}
        for name, size in stay.items():
            self.put(name, b"x", size)
        self.put("zeros.txt", b"\0" * 10)
        self.put("pointer.txt", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
        self.put(".git/objects/aa/bb", b"abc")
        self.put(".gitattributes")
        left, single = self.adapt()
        self.assertEqual(self.beside(self.out), {*belong, "tokenizer.json"})
        self.assertEqual(self.beside(self.out / "compressed"), set(belong), "no second copy above 1 MB")
        self.assertEqual(single, ["tokenizer.json"])
        for name in self.beside(self.out):
            self.assertEqual((self.out / name).read_bytes(), (self.model / name).read_bytes())
        self.assertEqual(set(left), {*stay, "zeros.txt", "pointer.txt", ".git/", ".gitattributes"})
        for name, size in stay.items():
            self.assertEqual((left[name]["files"], left[name]["bytes"]), (1, size), name)
            self.assertTrue(left[name]["why"])
        self.assertEqual((left[".git/"]["files"], left[".git/"]["bytes"]), (1, 3))
        line = [line for line in self.told.splitlines() if line.startswith("left out ")]
        self.assertEqual(len(line), 1, self.told)
        self.assertRegex(line[0], r"^left out     21 files \(15\.0 MB\): nameless \(6\.0 MB\), .* and more, in report\.json$")
        self.assertIn("one copy     tokenizer.json: not again in compressed/\n", self.told)

    def test_what_describes_files_that_are_left_is_left(self):
        """adapter_config.json would make another model of the result; nor are the others about it."""
        about = ["adapter_config.json", "quantize_config.json", "recipe.yaml", "params.json", "trainer_state.json",
                 "training_args.json", "hf_quant_config.json", "notes/adapter_config.json"]
        folders = {"onnx/config.json": 2, "onnx/tokenizer.json": 2, "original/tokenizer.model": 2, "original/readme.md": 2,
                   "checkpoint-100/config.json": 2, "checkpoint-100/more/vocab.txt": 2,
                   "exported/model.safetensors": 10, "exported/config.json": 500, "exported/sub/config.json": 2,
                   "mobile/model.pte": 1000, "mobile/config.json": 999, "old/pytorch_model.bin": 1, "old/config.json": 20}
        stays = {"notes/text.txt": 5, "additional_chat_templates/x.jinja": 5, "pictures/one.png": 9, "pictures/list.txt": 10,
                 "1_Pooling/config.json": 7, "tree/deep/a.txt": 5, "tree/branch/model.pt": 50}
        for name in about:
            self.put(name)
        for name, size in (folders | stays).items():
            self.put(name, b"x" * size)
        (self.model / "linked").mkdir()
        (self.model / "linked/model.onnx").symlink_to("nowhere")
        self.put("linked/config.json")
        left, _ = self.adapt()
        kept = {"notes/text.txt", "additional_chat_templates/x.jinja", "pictures/list.txt", "1_Pooling/config.json", "tree/deep/a.txt"}
        self.assertEqual(self.beside(self.out), kept)
        self.assertEqual(self.beside(self.out / "compressed"), kept)
        linked = {"linked/model.onnx", "linked/config.json"}
        self.assertEqual(set(left), {*about, *folders, *(stays.keys() - kept), *linked})
        self.assertEqual(left["adapter_config.json"]["why"], "describes what is not copied")
        self.assertEqual(left["onnx/config.json"]["why"], "is of the model in another form")
        self.assertEqual(left["exported/sub/config.json"]["why"], "lies beside what is not copied")

    def test_nothing_beside(self):
        self.assertEqual(self.adapt(), ({}, []))
        self.assertNotIn("left out", self.told)
        self.assertNotIn("one copy", self.told)

    def test_a_result_is_adapted_again_from_either_form(self):
        self.put("tokenizer.json", b" ", LARGE)
        self.adapt()
        for form in (self.out, self.out / "compressed"):
            again = self.tmp / f"again-{form.name}"
            self.assertEqual(self.adapt(form, again)[1], ["tokenizer.json"])
            self.assertEqual((again / "tokenizer.json").stat().st_size, LARGE)

    def test_text_finds_the_tokenizer_of_both_forms(self):
        try:
            import tokenizers
        except ImportError:
            raise unittest.SkipTest("the package tokenizers is not there (cmake/setup.sh --with-smollm2)") from None
        words = {"[UNK]": 0, "river": 1} | {f"word{n}": n for n in range(2, 60000)}
        model = tokenizers.models.WordLevel(words, unk_token="[UNK]")
        tokenizers.Tokenizer(model).save(str(self.model / "tokenizer.json"))
        self.assertEqual(self.adapt()[1], ["tokenizer.json"])
        text = support.HERE.parents[1] / "examples" / "llama" / "tools" / "text.py"
        for form in (self.out, self.out / "compressed"):
            done = subprocess.run([sys.executable, text, "encode", "--model", form, "river"], capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stdout), (0, "1\n"), done.stderr)

    def test_links(self):
        """As the caches of Hugging Face have them: contents are copied, and no link is left."""
        blobs = self.tmp / "blobs"
        blobs.mkdir()
        for path in list(self.model.iterdir()):
            path.rename(blobs / path.name)
            path.symlink_to(f"../blobs/{path.name}")
        (blobs / "1").write_text("{}")
        (self.model / "tokenizer.json").symlink_to(blobs / "1")
        (self.model / "README.md").symlink_to("tokenizer.json")
        (self.model / "folder").symlink_to(blobs)
        (self.model / "loop").symlink_to(".")
        (self.model / "nowhere.txt").symlink_to("nothing")
        (self.model / "round.txt").symlink_to("round.txt")
        left, _ = self.adapt()
        self.assertEqual(self.beside(self.out), {"tokenizer.json", "README.md"})
        self.assertEqual([p for p in self.out.rglob("*") if p.is_symlink() or p.lstat().st_nlink > 1 and p.is_file()], [])
        self.assertEqual(set(left), {"folder/", "loop/", "nowhere.txt", "round.txt"})

    def test_what_is_no_file(self):
        os.mkfifo(self.model / "pipe.txt")
        (self.model / "device.txt").symlink_to("/dev/zero")
        here = os.getcwd()
        os.chdir(self.model)  # names of sockets must be short
        self.addCleanup(os.chdir, here)
        bound = socket.socket(socket.AF_UNIX)
        self.addCleanup(bound.close)
        bound.bind("socket.txt")
        left, _ = self.adapt()
        self.assertEqual(set(left), {"pipe.txt", "device.txt", "socket.txt"})
        self.assertEqual(self.beside(self.out), set())

    def test_a_tokenizer_that_cannot_be_read_is_told_before_the_work(self):
        def dangling(path):
            path.symlink_to("nothing")
        for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json", "x.model"):
            for make in (os.mkfifo, dangling):
                with self.subTest(name, make=make):
                    make(self.model / name)
                    self.refuse(1, *self.arguments(), says=f"{name}: is ")
                    self.assertFalse(self.out.exists())
                    (self.model / name).unlink()

    @unittest.skipUnless(FAULTS, "LOSA_E2E_FAULTS does not name the library of faults.cpp")
    def test_files_that_may_not_be_read(self):
        def closed(name, error):
            return os.environ | {"LD_PRELOAD": FAULTS, "FAULT_CALL": "open", "FAULT_ERRNO": str(error), "FAULT_PATH": name}
        if support.call("--version", env=closed("none", 0)).returncode != 0:
            self.skipTest("this build cannot be loaded together with the library of faults.cpp")
        self.put("notes.txt")
        self.put("tokenizer.json")
        for error in (errno.EACCES, errno.EIO):
            out = self.tmp / str(error)
            self.succeed(*self.arguments(None, out), env=closed("notes.txt", error))
            (left,) = support.report(out)["run"]["left_out"]
            self.assertEqual(left["name"], "notes.txt")
            self.assertEqual(left["why"], f"cannot open for reading: {os.strerror(error)}")
            self.assertEqual(self.beside(out), {"tokenizer.json"})
            self.refuse(1, *self.arguments(), env=closed("tokenizer.json", error), says="tokenizer.json: cannot open for reading")
            self.assertFalse(self.out.exists())

    def test_names_that_steer_a_terminal(self):
        self.put("\x1b[2J\x07" + "long" * 40 + ".bin")
        self.adapt()
        self.assertFalse([c for c in self.told if ord(c) < 32 and c != "\n"])
        self.assertLess(max(map(len, self.told.splitlines())), 400)

    def test_memory(self):
        """Copies go in pieces."""
        plain = self.tmp / "plain"
        self.adapt(None, plain)
        self.put("tokenizer.json", b" ", 100_000_000)
        self.adapt()
        peaks = [support.report(out)["run"]["peak_memory_bytes"] for out in (plain, self.out)]
        self.assertLess(peaks[1] - peaks[0], 30_000_000)


if __name__ == "__main__":
    support.main()
