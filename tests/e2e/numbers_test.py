"""Numbers that a double or JSON cannot hold are said in words, and have a defined place in JSON."""

import json

import numpy as np

import support
from support import QUICK, Stored


def strict(text):
    """JSON as its standard has it: no NaN, no Infinity."""
    def no_number(name):
        raise ValueError(name)
    return json.loads(text, parse_constant=no_number)


class Overflow(support.TestCase):
    def setUp(self):
        super().setUp()
        self.train = support.write_tokens(self.tmp / "train.bin")

    def model(self, scale):
        """One whose loss is about as large as the scale of its head."""
        tensors = support.random_tensors(support.small_config())
        head = tensors["lm_head.weight"].numbers() * np.float32(scale)
        return support.write_model(self.tmp / f"model-{scale}", tensors=tensors | {"lm_head.weight": Stored.of(head)})

    def evaluate(self, model):
        path = self.tmp / "told.json"
        done = self.succeed("eval", "--model", model, "--tokens", self.train, "--context", "50", "--sequences", "2", "--json",
                            path)
        return done.stdout, strict(path.read_text())

    def test_eval(self):
        said, told = self.evaluate(self.model(1))
        self.assertRegex(said, r"^perplexity \d+\.\d{4}   mean nll \d+\.\d{5}   tokens 98 \(2 sequences of 50\)\n$")
        self.assertNotIn("perplexity_overflows", told)
        self.assertAlmostEqual(told["perplexity"], np.exp(told["mean_nll"]), delta=1e-9 * told["perplexity"])

        said, told = self.evaluate(self.model(1000))
        self.assertGreater(told["mean_nll"], 710)
        self.assertRegex(said, r"^perplexity above 1\.8e308   mean nll \d+\.\d{5}   tokens 98 \(2 sequences of 50\)\n$")
        self.assertIsNone(told["perplexity"])
        self.assertIs(told["perplexity_overflows"], True)

    def test_large_but_finite(self):
        said, told = self.evaluate(self.model(120))
        self.assertGreater(told["perplexity"], 1e30)
        self.assertRegex(said, r"^perplexity \d\.\d+e\+\d+   mean nll \d+\.\d{5}   tokens 98 \(2 sequences of 50\)\n$")

    def test_held_out(self):
        for scale in (1, 1000):
            out = self.tmp / f"out-{scale}"
            done = self.succeed("adapt", "--model", self.model(scale), "--train", self.train, "--out", out, "--sparsity", "0.5",
                                "--method", "prune", "--context", "50", "--hold-out", "0.1", *QUICK)
            held = strict((out / "report.json").read_text())["hold_out"]
            if scale == 1:
                self.assertRegex(done.stdout, r"held out     perplexity \d+\.\d{3} on \d+ tokens\n")
                self.assertNotIn("perplexity_overflows", held)
            else:
                self.assertRegex(done.stdout, r"held out     perplexity above 1\.8e308 \(mean nll \d+\.\d{5}\) on \d+ tokens\n")
                self.assertIsNone(held["perplexity"])
                self.assertIs(held["perplexity_overflows"], True)
                self.assertGreater(held["mean_nll"], 710)

    def test_help_says_so(self):
        for command in ("eval", "adapt"):
            self.assertIn("perplexity_overflows", self.succeed(command, "--help").stdout)

    def test_rates_are_numbers(self):
        done = self.succeed("bench", "--model", self.model(1), "--prefill", "1", "--decode", "1", "--repeats", "1", "--json",
                            "-")
        self.assertNotIn("null", done.stdout)
        strict(done.stdout)


if __name__ == "__main__":
    support.main()
