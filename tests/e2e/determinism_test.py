"""No result depends on the number of threads: weights and report.json are the same bytes for 1, 2 and 3."""

import support
from support import QUICK, TINY

SHORT = ["--train-tokens", "1536", "--context", "128", *QUICK]


class Threads(support.TestCase):
    def compare(self, model, train, *arguments):
        outputs = []
        for threads in (1, 2, 3):
            out = self.tmp / f"out{threads}"
            self.succeed("adapt", "--model", model, "--train", train, "--out", out, "--threads", threads, *arguments)
            self.assertEqual(support.report(out)["run"]["threads"], threads)
            outputs.append(out)
        for other in outputs[1:]:
            self.assert_same_result(outputs[0], other)
        return outputs[0]

    def compare_tiny(self, *arguments):
        return self.compare(TINY, TINY / "train.txt", *SHORT, *arguments)

    def test_losa(self):
        self.compare_tiny("--sparsity", "0.6", "--schedule-steps", "2", "--hold-out", "0.01")

    def test_losa_published(self):
        self.compare_tiny("--method", "losa-published", "--sparsity", "0.6", "--schedule-steps", "2")

    def test_unmasked(self):
        self.compare_tiny("--method", "unmasked", "--sparsity", "0.6", "--mask", "wanda")

    def test_n_of_m(self):
        self.compare_tiny("--pattern", "2:4")

    def test_odd_shapes(self):
        model = support.write_model(self.tmp / "model", shards=2)
        train = support.write_tokens(self.tmp / "train.bin")
        arguments = ["--sparsity", "0.55", "--train-tokens", "800", "--batch", "3", "--context", "33", *QUICK]
        out = self.compare(model, train, *arguments, "--rank-allocation", "spectral", "--schedule-steps", "3")
        # The comparison means something: the seed, unlike the threads, changes the result.
        other = self.tmp / "seed"
        self.succeed("adapt", "--model", model, "--train", train, "--out", other, *arguments, "--seed", "1",
                     "--rank-allocation", "spectral", "--schedule-steps", "3")
        self.assertNotEqual(support.report(out)["loss"], support.report(other)["loss"])

    def test_one_block_in_memory(self):
        for name, arguments in (("losa", ["--hold-out", "0.01"]), ("prune", ["--method", "prune"]),
                                ("unmasked", ["--method", "unmasked"])):
            outputs = []
            for memory in ("all", "block"):
                out = self.tmp / f"{name}-{memory}"
                self.succeed("adapt", "--model", TINY, "--train", TINY / "train.txt", "--out", out, *SHORT,
                             "--sparsity", "0.6", "--memory", memory, *arguments)
                self.assertFalse((out / ".partial").exists())
                outputs.append(out)
            self.assert_same_result(*outputs)

    def test_eval_and_generate(self):
        told = set()
        for threads in (1, 2, 3):
            evaluated = self.succeed("eval", "--model", TINY, "--tokens", TINY / "test.txt", "--context", "128",
                                     "--sequences", "5", "--threads", threads, "--json", "-")
            generated = self.succeed("generate", "--model", TINY, "--prompt", "The ", "--tokens", "20", "--temperature",
                                     "0.8", "--seed", "3", "--threads", threads)
            told.add((evaluated.stdout, generated.stdout))
        self.assertEqual(len(told), 1, told)


if __name__ == "__main__":
    support.main()
