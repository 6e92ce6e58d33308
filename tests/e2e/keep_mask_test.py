"""A model that is sparse already keeps its zeros: always where the file stores a mask, on request where it does not."""

import os
import subprocess
import sys
import unittest

import numpy as np

import support
from support import QUICK, Stored

SHORT = ["--train-tokens", "400", "--context", "40", "--batch", "2", *QUICK]
FAULTS = os.environ.get("LOSA_E2E_FAULTS")


def masks_of(directory):
    """module → bool array, as a compressed model stores them."""
    masks = {}
    for name, tensor in support.read_checkpoint(directory).items():
        if name.endswith(".bitmask"):
            prefix = name.removesuffix(".bitmask")
            columns = int(support.read_checkpoint(directory)[prefix + ".shape"].numbers()[1])
            masks[prefix] = np.unpackbits(tensor.numbers(), axis=1, count=columns, bitorder="little").astype(bool)
    return masks


class KeepMaskCase(support.TestCase):
    def setUp(self):
        super().setUp()
        self.train = support.write_tokens(self.tmp / "train.bin")
        self.dense = support.write_model(self.tmp / "dense")

    def command(self, model, out, *arguments):
        return ["adapt", "--model", model, "--train", self.train, "--out", self.tmp / out, *SHORT, *arguments]

    def adapt(self, model, out, *arguments):
        done = self.succeed(*self.command(model, out, *arguments))
        return self.tmp / out, done.stderr

    def pruned(self, *arguments):
        """A model pruned by SparseGPT at 50 %, its stored masks, some of whose kept weights are 0."""
        out, _ = self.adapt(self.dense, "pruned", "--sparsity", "0.5", "--method", "prune", *arguments)
        compressed = out / "compressed"
        tensors = support.read_checkpoint(compressed)
        for name in ("model.layers.0.mlp.up_proj", "model.layers.1.self_attn.o_proj"):
            values = tensors[name + ".compressed"].numbers().copy()
            values[:5] = 0
            tensors[name + ".compressed"] = Stored.of(values)
        support.write_safetensors(compressed / "model.safetensors", tensors, {"format": "pt"})
        return out, masks_of(compressed)

    def assert_same_masks(self, left, right):
        self.assertEqual(left.keys(), right.keys())
        for name in left:
            self.assertTrue(np.array_equal(left[name], right[name]), name)


class StoredMasks(KeepMaskCase):
    def test_stay_as_they_are_at_the_same_sparsity(self):
        """Kept weights that are 0 stay kept, whatever mask is asked for."""
        out, before = self.pruned()
        for mask in ("wanda", "magnitude", "sparsegpt"):
            for method in ("prune", "losa", "unmasked"):
                with self.subTest(mask=mask, method=method):
                    after, told = self.adapt(out / "compressed", f"{mask}-{method}", "--sparsity", "0.5", "--mask", mask,
                                             "--method", method)
                    self.assert_same_masks(masks_of(after / "compressed"), before)
                    self.assertEqual(told, "")
                    self.assertEqual(support.report(after)["input"]["masks_kept"], 14)

    def test_grow_zeros_to_a_higher_sparsity(self):
        out, before = self.pruned()
        for arguments in (["--mask", "wanda", "--method", "uniform", "--schedule-steps", "3", "--regrow"],
                          ["--method", "losa"], ["--method", "losa-published"], ["--memory", "block"]):
            with self.subTest(arguments):
                after, _ = self.adapt(out / "compressed", "-".join(arguments), "--sparsity", "0.7", *arguments)
                told = support.report(after)
                self.assertEqual(told["zeros"], round(0.7 * told["weights"]))
                for name, mask in masks_of(after / "compressed").items():
                    self.assertFalse((mask & ~before[name]).any(), name)

    def test_are_not_given_up_for_a_lower_sparsity(self):
        out, before = self.pruned()
        after, told = self.adapt(out / "compressed", "after", "--sparsity", "0.3", "--method", "prune")
        self.assert_same_masks(masks_of(after / "compressed"), before)
        self.assertEqual(told.count("\n"), 1)
        self.assertIn("0.5 of the weights already, more than 0.3", told)

    def test_n_of_m_within(self):
        out, before = self.pruned("--pattern", "2:4")
        after, _ = self.adapt(out / "compressed", "same", "--pattern", "2:4", "--mask", "wanda")
        self.assert_same_masks(masks_of(after / "compressed"), before)
        self.adapt(out / "compressed", "fewer", "--pattern", "1:4", "--mask", "wanda")
        for name, mask in masks_of(self.tmp / "fewer" / "compressed").items():
            self.assertFalse((mask & ~before[name]).any(), name)
        # Groups that have not enough left.
        done = self.refuse(1, *self.command(out / "compressed", "more", "--pattern", "3:4"), says="within")
        self.assertIn("--no-keep-mask", done.stderr)
        self.assertFalse((self.tmp / "more").exists())

    def test_move_where_that_is_asked_for(self):
        out, before = self.pruned()
        after, told = self.adapt(out / "compressed", "after", "--sparsity", "0.5", "--mask", "wanda", "--method", "prune",
                                 "--no-keep-mask")
        self.assertTrue(any((mask & ~before[name]).any() for name, mask in masks_of(after / "compressed").items()))
        self.assertEqual(told, "")

    def test_one_block_in_memory_gives_the_same(self):
        out, _ = self.pruned()
        for arguments in (["--regrow", "--schedule-steps", "2"], ["--method", "losa"]):
            name = arguments[0]
            every, _ = self.adapt(out / "compressed", name + "-all", "--sparsity", "0.6", "--memory", "all", *arguments)
            block, _ = self.adapt(out / "compressed", name + "-block", "--sparsity", "0.6", "--memory", "block", *arguments)
            self.assert_same_result(every, block)

    @unittest.skipIf(FAULTS is None or not sys.platform.startswith("linux"), "needs the library of faults")
    def test_killed_and_resumed(self):
        out, _ = self.pruned()
        arguments = ["--sparsity", "0.6", "--regrow", "--schedule-steps", "2", "--save-every", "0.00001"]
        expected, _ = self.adapt(out / "compressed", "expected", *arguments)
        environment = os.environ | {"LD_PRELOAD": FAULTS, "FAULT": "kill"}
        for at in (20, 60, 120):
            name = f"killed-{at}"
            command = [support.TOOL, *map(str, self.command(out / "compressed", name, *arguments))]
            subprocess.run(command, capture_output=True, env=environment | {"FAULT_AT": str(at)})
            after, _ = self.adapt(out / "compressed", name, *arguments, "--resume")
            self.assert_same_result(after, expected)

    def test_skipped_layers_keep_theirs(self):
        out, before = self.pruned()
        after, _ = self.adapt(out / "compressed", "after", "--sparsity", "0.6", "--skip", "layers.0")
        there = masks_of(after / "compressed")
        for name, mask in before.items():
            if "layers.0" in name:
                self.assertTrue(np.array_equal(there[name], mask), name)


class ZerosWithoutMask(KeepMaskCase):
    def test_stay_on_request(self):
        out, _ = self.pruned()
        zero = {name: tensor.numbers() == 0 for name, tensor in support.read_checkpoint(out).items() if "_proj" in name}
        for memory in ("all", "block"):
            for sparsity in ("0.5", "0.7"):
                with self.subTest(memory=memory, sparsity=sparsity):
                    after, told = self.adapt(out, f"{memory}-{sparsity}", "--sparsity", sparsity, "--mask", "wanda",
                                             "--keep-mask", "--memory", memory)
                    self.assertEqual(told, "")
                    tensors = support.read_checkpoint(after)
                    for name, was in zero.items():
                        self.assertFalse((was & (tensors[name].numbers() != 0)).any(), name)
                    self.assertEqual(support.report(after)["zeros"], round(float(sparsity) * support.report(after)["weights"]))

    def test_are_told_where_nobody_asked(self):
        out, _ = self.pruned()
        for arguments, lines in (([], 1), (["--keep-mask"], 0), (["--no-keep-mask"], 0)):
            with self.subTest(arguments):
                _, told = self.adapt(out, "told" + "".join(arguments), "--sparsity", "0.6", "--method", "prune", *arguments)
                self.assertEqual(told.count("\n"), lines)
                self.assertEqual("--keep-mask" in told, lines == 1)
        _, told = self.adapt(self.dense, "quiet", "--sparsity", "0.6", "--method", "prune")
        self.assertEqual(told, "")

    def test_one_matrix_is_enough_to_be_told(self):
        for share, lines in ((0.08, 0), (0.12, 1)):
            with self.subTest(share=share):
                tensors = support.read_checkpoint(self.dense)
                name = "model.layers.1.mlp.down_proj.weight"
                values = tensors[name].numbers().copy()
                values.flat[: int(share * values.size)] = -0.0
                model = support.write_model(self.tmp / f"some-{share}", tensors=tensors | {name: Stored.of(values)})
                _, told = self.adapt(model, f"told-{share}", "--sparsity", "0.6", "--method", "prune")
                self.assertEqual(told.count("\n"), lines, told)


class Inspect(KeepMaskCase):
    def test_says_what_is_stored(self):
        out, before = self.pruned()
        for model, stored in ((out / "compressed", True), (out, False), (self.dense, None)):
            with self.subTest(model=model):
                path = self.tmp / "inspect.json"
                done = self.succeed("inspect", "--model", model, "--json", path)
                told = support.json.loads(path.read_text())
                self.assertEqual("masks: stored in 14 layers" in done.stdout, stored is True)
                self.assertEqual("zeros without a mask" in done.stdout, stored is False)
                self.assertEqual(told["masks_stored"], 14 if stored else 0)
                self.assertEqual(told["sparse_without_mask"], 14 if stored is False else 0)
                if stored:
                    self.assertEqual(sum(layer["zeros"] for layer in told["layers"]),
                                     sum(int((~mask).sum()) for mask in before.values()))
                    self.assertEqual(sum(layer["kept_zeros"] for layer in told["layers"]), 10)


if __name__ == "__main__":
    support.main()
