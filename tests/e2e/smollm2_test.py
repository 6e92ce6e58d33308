"""losa-llama on SmolLM2-135M-Instruct against PyTorch: logits of a short prompt, perplexity on WikiText-2.

Skipped, with ctest's code for that, where the model cannot be had: no network, or no cmake/setup.sh --with-smollm2.
"""

import json
import pathlib
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


if __name__ == "__main__":
    try:
        smollm2.provide(HERE)
    except smollm2.Unavailable as why:
        print(f"SKIPPED: SmolLM2 is not there: {why}")
        sys.exit(SKIPPED)
    support.main()
