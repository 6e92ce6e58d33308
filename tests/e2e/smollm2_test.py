"""losa-llama on SmolLM2-135M-Instruct against PyTorch: logits of a short prompt, perplexity on WikiText-2.

Skipped, with ctest's code for that, where the model cannot be had: no network, or no cmake/setup.sh --with-smollm2.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np

import support

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples" / "llama" / "tools"))
import smollm2  # noqa: E402

SKIPPED = 77
HERE = ROOT / "build" / "smollm2"
FIXTURE = ROOT / "tests" / "data" / "smollm2_logits.json"


class SmolLM2(support.TestCase):
    def test_logits_of_a_prompt(self):
        fixture = json.loads(FIXTURE.read_text())
        prompt = np.array(fixture["prompt"], "<u2")
        (self.tmp / "prompt.u16").write_bytes(prompt.tobytes())
        self.succeed("eval", "--model", HERE / "model", "--tokens", self.tmp / "prompt.u16", "--context", len(prompt),
                     "--sequences", 1, "--logits", self.tmp / "logits")
        logits = np.fromfile(self.tmp / "logits", "<f4").reshape(len(prompt), -1)
        self.assertEqual(logits.shape[1], 49152)
        for expected in fixture["positions"]:
            with self.subTest(position=expected["position"]):
                row = logits[expected["position"]]
                self.assertLess(np.abs(row[expected["ids"]] - expected["logits"]).max(), 2e-3)
                ranked = expected["ids"][: fixture["top"]]
                self.assertLess(np.delete(row, ranked).max(), min(expected["logits"][: fixture["top"]]) + 2e-3)

    def test_perplexity_of_the_dense_model(self):
        done = self.succeed("eval", "--model", HERE / "model", "--tokens", HERE / "test.u16", "--context", 512,
                            "--sequences", 32, "--json", "-")
        told = json.loads(done.stdout)
        self.assertEqual(told["tokens"], 32 * 511)
        self.assertAlmostEqual(told["perplexity"], 28.373, delta=0.02)

    def text(self, *arguments):
        done = subprocess.run([sys.executable, ROOT / "examples/llama/tools/text.py", *map(str, arguments)],
                              stdout=subprocess.PIPE, check=True)
        return done.stdout.decode().removesuffix("\n")

    def test_text_for_the_tokeniser(self):
        text = "The river runs\r\nto 42 places."
        ids = self.text("encode", "--model", HERE / "model", text)
        self.assertEqual(self.text("decode", "--model", HERE / "model", ids), text)
        longer = self.text("generate", "--model", HERE / "model", "--tool", support.TOOL, "--prompt",
                           "The capital of France is", "--tokens", 4, "--threads", 1)
        self.assertTrue(longer.startswith("The capital of France is Paris"), longer)

    def test_questions_that_are_none(self):
        good = json.dumps({"context": "One", "choices": [" two"], "answer": 0})
        for bad in ("{", "[]", '{"context": "a", "choices": [" b"]}', '{"context": 1, "choices": [" b"], "answer": 0}',
                    '{"context": "a", "choices": " b", "answer": 0}', '{"context": "a", "choices": [[1]], "answer": 0}',
                    '{"context": "a", "choices": [" b"], "answer": 1}', '{"context": "a", "choices": [" b"], "answer": true}',
                    '{"context": "", "choices": [" b"], "answer": 0}',
                    '{"context": "a", "choices": [""], "answer": 0}', '{"context": "a", "choices": [" b"], "answer": NaN}',
                    '{"context": "a", "context": "b", "choices": [" c"], "answer": 0}'):
            with self.subTest(bad):
                (self.tmp / "questions.jsonl").write_text(good + "\n" + bad + "\n")
                done = subprocess.run([sys.executable, ROOT / "examples/llama/tools/text.py", "choices", "--model",
                                       HERE / "model", self.tmp / "questions.jsonl", "--out", self.tmp / "ids.jsonl"],
                                      capture_output=True, text=True, check=False)
                self.assertEqual(done.returncode, 1)
                self.assertRegex(done.stderr, r"^text: line 2 is no question")
                self.assertNotIn("Traceback", done.stderr)
                self.assertEqual([p.name for p in self.tmp.iterdir() if p.name.startswith("ids.jsonl")], [])

    def test_choices_behind_a_prefix_that_every_text_gets(self):
        from tokenizers import Tokenizer, models, normalizers
        words = ["<unk>", "▁", "▁capital", "▁is", "▁Paris"]
        tokenizer = Tokenizer(models.Unigram([(word, -1.0 - (word == "▁")) for word in words], unk_id=0))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.save(str(self.tmp / "tokenizer.json"))
        (self.tmp / "questions.jsonl").write_text(
            json.dumps({"context": "capital is", "choices": [" Paris", " is"], "answer": 0}))
        self.text("choices", "--model", self.tmp, self.tmp / "questions.jsonl", "--out", self.tmp / "ids.jsonl")
        told = json.loads((self.tmp / "ids.jsonl").read_text())
        self.assertEqual((told["context"], told["choices"]), ([2, 3], [[4], [3]]))

    def test_questions_in_text(self):
        questions = self.tmp / "questions.jsonl"
        questions.write_text("".join(json.dumps(q) + "\n" for q in (
            {"context": "The capital of France is", "choices": [" Paris", " sand", " Tuesday"], "answer": 0},
            {"context": "Two and two make", "choices": [" purple", " four"], "answer": 1})))
        self.text("choices", "--model", HERE / "model", questions, "--out", self.tmp / "ids.jsonl")
        done = self.succeed("eval", "--model", HERE / "model", "--choices", self.tmp / "ids.jsonl", "--json", "-")
        self.assertEqual(json.loads(done.stdout)["accuracy"], 1)


if __name__ == "__main__":
    try:
        smollm2.provide(HERE)
    except smollm2.Unavailable as why:
        tests = [name for name in dir(SmolLM2) if name.startswith("test_")]
        print(f"SKIPPED: {len(tests)} tests on SmolLM2, which is not there: {why}")
        sys.exit(SKIPPED)
    support.main()
