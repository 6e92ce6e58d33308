"""Compressed models: read in both layouts, by this program and by the plain reader; never half loaded by others."""

import json
import shutil
import subprocess
import sys
import unittest

import numpy as np

import support
from support import QUICK, Stored

sys.path.insert(0, str(support.HERE.parents[1] / "examples" / "llama" / "tools"))
import read_compressed  # noqa: E402

SHORT = ["--train-tokens", "400", "--context", "40", *QUICK]


def version_0_8(tensors):
    """Every tensor compressed, norms and biases too, under names that keep `.weight`: what version 0.8.1 wrote."""
    out = {}
    for name, tensor in tensors.items():
        values = tensor.numbers()
        kept = values != 0
        raw = np.frombuffer(tensor.data, "<u2" if tensor.dtype == "BF16" else {"F32": "<f4", "F16": "<f2"}[tensor.dtype])
        counts = kept.sum(axis=-1)
        out[name + ".shape"] = Stored.of(list(values.shape), "I64")
        out[name + ".compressed"] = Stored(tensor.dtype, (int(kept.sum()),), raw[kept.ravel()].tobytes())
        out[name + ".bitmask"] = Stored.of(np.packbits(kept, axis=-1, bitorder="little"), "U8")
        out[name + ".row_offsets"] = Stored.of(np.reshape(np.cumsum(counts, 0) - counts, counts.shape), "I64")
    return out


class CompressedCase(support.TestCase):
    def setUp(self):
        super().setUp()
        self.train = support.write_tokens(self.tmp / "train.bin")

    def adapt(self, model, out, *arguments):
        out = self.tmp / out
        self.succeed("adapt", "--model", model, "--train", self.train, "--out", out, *SHORT, *arguments)
        return out

    def evaluate(self, model, *arguments):
        return json.loads(self.succeed("eval", "--model", model, "--tokens", self.train, "--context", "60", "--sequences",
                                       "4", "--json", "-", *arguments).stdout)


class Readers(CompressedCase):
    def test_the_plain_reader_gives_the_dense_model(self):
        for dtype in ("F32", "BF16", "F16"):
            for shards in (1, 3):
                with self.subTest(dtype=dtype, shards=shards):
                    model = support.write_model(self.tmp / f"{dtype}-{shards}", dtype=dtype, shards=shards)
                    out = self.adapt(model, f"out-{dtype}-{shards}", "--sparsity", "0.6", "--skip", "1.mlp.up_proj")
                    expected = support.read_checkpoint(out)
                    read = {name: values for name, _, values in read_compressed.tensors(out / "compressed")}
                    self.assertEqual(read.keys(), expected.keys())
                    for name, values in read.items():
                        self.assertEqual(values.tobytes(), expected[name].data, name)
                        self.assertEqual(values.shape, expected[name].shape, name)

    def test_its_command_writes_a_model(self):
        model = support.write_model(self.tmp / "model", dtype="BF16")
        out = self.adapt(model, "out", "--sparsity", "0.6")
        dense = self.tmp / "dense"
        script = read_compressed.__file__
        subprocess.run([sys.executable, "-B", script, out / "compressed", dense], check=True)
        self.assertEqual(self.evaluate(dense), self.evaluate(out))
        again = self.adapt(out / "compressed", "again", "--sparsity", "0.6", "--method", "prune")
        for result in (dense, again):
            config = json.loads((result / "config.json").read_text())
            self.assertFalse({"quantization_config", "transformers_weights"} & config.keys())
        for source, target in ((out / "compressed", dense), (self.tmp / "absent", self.tmp / "other")):
            done = subprocess.run([sys.executable, "-B", script, source, target], capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)
            self.assertIn(str(target if target == dense else source), done.stderr)
        self.assertFalse((self.tmp / "other").exists())
        self.assertNotEqual(subprocess.run([sys.executable, "-B", script], capture_output=True).returncode, 0)


class Config(CompressedCase):
    def test_a_loader_that_cannot_read_it_refuses(self):
        """Without quant_method transformers raises; with one it would go on with random weights."""
        out = self.adapt(support.write_model(self.tmp / "model"), "out", "--sparsity", "0.5", "--method", "prune")
        config = json.loads((out / "compressed" / "config.json").read_text())
        self.assertNotIn("quant_method", config["quantization_config"])
        self.assertEqual(config["quantization_config"]["sparsity_config"]["format"], "sparse-bitmask")

    def test_dense_results_have_no_entry(self):
        for entry in ({"quantization_config": {"sparsity_config": {"format": "dense"}, "quant_method": "compressed-tensors"}},
                      {"compression_config": {"sparsity_config": {"format": "dense"}}}, {"quantization_config": None},
                      {"quantization_config": {}}):
            with self.subTest(entry):
                name = str(abs(hash(str(entry))))
                model = support.write_model(self.tmp / name, config=support.small_config(**entry))
                out = self.adapt(model, "out" + name, "--sparsity", "0.5", "--method", "prune")
                self.assertNotIn("sparsity_config", (out / "config.json").read_text())
                self.assertNotIn("quantization_config", json.loads((out / "config.json").read_text()))
        again = self.adapt(out / "compressed", "again", "--sparsity", "0.6", "--method", "prune")
        self.assertNotIn("quantization_config", json.loads((again / "config.json").read_text()))


class Loaders(CompressedCase):
    """Programs that others load models with: the dense result is read, the compressed one read or refused."""

    def test_transformers(self):
        try:
            import transformers
        except ImportError:
            raise unittest.SkipTest("transformers is not there (LOSA_TEST_PYPI=1 cmake/setup.sh)") from None
        out = self.adapt(support.write_model(self.tmp / "model"), "out", "--sparsity", "0.5", "--method", "prune")
        for loader in (transformers.AutoModelForCausalLM, transformers.LlamaForCausalLM):
            model = loader.from_pretrained(out)
            self.assertEqual(model.lm_head.weight.detach().numpy().tobytes(),
                             support.read_checkpoint(out)["lm_head.weight"].data)
            with self.assertRaisesRegex(ValueError, "quant_method"):
                loader.from_pretrained(out / "compressed")
            # transformers 4 stumbles over the missing configuration itself.
            with self.assertRaisesRegex((ValueError, OSError, AttributeError),
                                        "quant_method|transformers-cannot-read|to_dict"):
                loader.from_pretrained(out / "compressed", quantization_config=None)


class OldLayout(CompressedCase):
    def old(self, dense, name="old"):
        """The same model as version 0.8.1 would store it."""
        model = self.tmp / name
        shutil.copytree(dense, model, ignore=shutil.ignore_patterns("compressed", "adapter", "report.json", "*.safetensors"))
        support.write_safetensors(model / "model.safetensors", version_0_8(support.read_checkpoint(dense)), {"format": "pt"})
        config = json.loads((dense / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "compressed-tensors", "version": "0.8.1", "sparsity_config": {
            "format": "sparse-bitmask", "global_sparsity": 0.4, "registry_requires_subclass": False,
            "sparsity_structure": "unstructured"}}
        (model / "config.json").write_text(json.dumps(config))
        return model

    def pruned(self, dtype="F32", **config):
        model = support.write_model(self.tmp / "model", config=support.small_config(**config), dtype=dtype)
        return self.adapt(model, "pruned", "--sparsity", "0.5", "--method", "prune")

    def test_evaluates_as_the_dense_model_does(self):
        for number, config in enumerate(({}, {"tie_word_embeddings": True}, {"attention_bias": True, "mlp_bias": True})):
            for dtype in ("F32", "BF16"):
                with self.subTest(config=config, dtype=dtype):
                    dense = self.pruned(dtype, **config)
                    old = self.old(dense)
                    self.assertEqual(self.evaluate(old, "--weights", "dense"), self.evaluate(dense))
                    self.assertEqual(self.evaluate(old), self.evaluate(dense, "--weights", "sparse"))
                    read = {name: values for name, _, values in read_compressed.tensors(old)}
                    for name, tensor in support.read_checkpoint(dense).items():
                        self.assertEqual(read[name].tobytes(), tensor.data, name)
                    for folder in ("model", "pruned", "old"):
                        shutil.rmtree(self.tmp / folder)

    def test_is_adapted_and_written_in_todays_layout(self):
        dense = self.pruned()
        old = self.old(dense)
        for memory in ("all", "block"):
            with self.subTest(memory=memory):
                out = self.adapt(old, memory, "--sparsity", "0.6", "--skip", "layers.0.mlp", "--memory", memory)
                kept = self.adapt(dense, memory + "-dense", "--sparsity", "0.6", "--skip", "layers.0.mlp", "--memory", memory,
                                  "--keep-mask")
                written = support.read_checkpoint(out)
                self.assertEqual({name: tensor.data for name, tensor in written.items()},
                                 {name: tensor.data for name, tensor in support.read_checkpoint(kept).items()})
                names = support.read_checkpoint(out / "compressed").keys()
                self.assertFalse([name for name in names if ".weight." in name])
                self.assertIn("model.norm.weight", names)
                self.assertIn("model.layers.0.mlp.up_proj.bitmask", names)
                self.assertEqual(self.evaluate(out), self.evaluate(out / "compressed", "--weights", "dense"))

    def test_damaged_parts_are_refused(self):
        old = self.old(self.pruned())
        good = support.read_checkpoint(old)
        for name in ("model.norm.weight", "model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"):
            for part in (".compressed", ".bitmask", ".row_offsets", ".shape"):
                with self.subTest(missing=name + part):
                    tensors = {key: value for key, value in good.items() if key != name + part}
                    support.write_safetensors(old / "model.safetensors", tensors)
                    self.refuse(1, "eval", "--model", old, "--tokens", self.train, "--context", "64", says=name)
            wrong = good | {name + ".row_offsets": Stored.of(good[name + ".row_offsets"].numbers() + 1, "I64")}
            support.write_safetensors(old / "model.safetensors", wrong)
            self.refuse(1, "eval", "--model", old, "--tokens", self.train, "--context", "64", says=name)


class Tied(CompressedCase):
    """A tied model is one matrix, whatever name the file gives it."""

    def test_only_the_head_is_there(self):
        config = support.small_config(tie_word_embeddings=True)
        tensors = support.random_tensors(config)
        usual = support.write_model(self.tmp / "usual", config=config, tensors=tensors)
        renamed = {("lm_head.weight" if name == "model.embed_tokens.weight" else name): tensor
                   for name, tensor in tensors.items()}
        head = support.write_model(self.tmp / "head", config=config, tensors=renamed)
        self.assertEqual(self.evaluate(head), self.evaluate(usual))
        for memory in ("all", "block"):
            out = self.adapt(head, "out" + memory, "--sparsity", "0.5", "--memory", memory)
            self.assertIn("lm_head.weight", support.read_checkpoint(out))
            expected = self.adapt(usual, "expected" + memory, "--sparsity", "0.5", "--memory", memory)
            self.assertEqual(self.evaluate(out), self.evaluate(expected))

    def test_an_untied_model_needs_both(self):
        tensors = support.random_tensors(support.small_config())
        for name, says in (("lm_head.weight", "tie_word_embeddings"), ("model.embed_tokens.weight", "embed_tokens")):
            model = support.write_model(self.tmp / name, tensors={k: v for k, v in tensors.items() if k != name})
            self.refuse(1, "eval", "--model", model, "--tokens", self.train, "--context", "64", says=says)


class Unneeded(CompressedCase):
    """What the model does not need does not stand in its way; what is missing is told beside what is there."""

    def test_extra_tensors(self):
        tensors = support.random_tensors(support.small_config())
        plain = support.write_model(self.tmp / "plain", tensors=tensors)
        extra = {
            "model.layers.7.mlp.up_proj.weight": Stored.of(np.ones((3, 3))),
            "model.layers.x.note": Stored.of(np.ones(1)),
            "model.layers.0.self_attn.rotary_emb.inv_freq": Stored.of(np.ones(3)),
            "model.layers.0.self_attn.q_proj.bias": Stored.of(np.zeros(36)),
            "value_head.weight": Stored.of(np.ones((1, 24))),
        }
        model = support.write_model(self.tmp / "extra", tensors=tensors | extra)
        self.assertEqual(self.evaluate(model), self.evaluate(plain))
        for name, tensor in {"model.layers.0.self_attn.q_proj.bias": Stored.of(np.ones(36)),
                             "model.layers.1.mlp.experts.0.w1.weight": Stored.of(np.ones((2, 2)))}.items():
            model = support.write_model(self.tmp / name, tensors=tensors | {name: tensor})
            self.refuse(1, "eval", "--model", model, "--tokens", self.train, "--context", "64", says=name)

    def test_double_precision(self):
        tensors = support.random_tensors(support.small_config())
        plain = support.write_model(self.tmp / "plain", tensors=tensors)
        wide = {name: Stored("F64", tensor.shape, tensor.numbers().astype("<f8").tobytes()) for name, tensor in tensors.items()}
        model = support.write_model(self.tmp / "wide", tensors=wide)
        self.assertEqual(self.evaluate(model), self.evaluate(plain))
        out = self.adapt(model, "out", "--sparsity", "0.5", "--method", "prune")
        expected = self.adapt(plain, "expected", "--sparsity", "0.5", "--method", "prune")
        self.assertEqual(self.evaluate(out), self.evaluate(expected))
        self.assertEqual(self.evaluate(out / "compressed"), self.evaluate(expected / "compressed"))

    def test_saved_without_its_head(self):
        """A tied model that was saved as its trunk alone has names without `model.`."""
        config = support.small_config(tie_word_embeddings=True)
        tensors = support.random_tensors(config)
        usual = support.write_model(self.tmp / "usual", config=config, tensors=tensors)
        expected = self.adapt(usual, "expected", "--sparsity", "0.5", "--skip", "layers.0")
        for prefix in ("", "model.model."):
            with self.subTest(prefix=prefix):
                other = {prefix + name.removeprefix("model."): tensor for name, tensor in tensors.items()}
                model = support.write_model(self.tmp / f"trunk{prefix}", config=config, tensors=other)
                self.assertEqual(self.evaluate(model), self.evaluate(usual))
                for memory in ("all", "block"):
                    out = self.adapt(model, f"out{prefix}{memory}", "--sparsity", "0.5", "--skip", "layers.0", "--memory", memory)
                    self.assert_same_files(out, expected)

    def test_saved_by_a_module_that_holds_it(self):
        """With `model.` before every name, the head's too, or before the head's alone."""
        tensors = support.random_tensors(support.small_config())
        usual = support.write_model(self.tmp / "usual", tensors=tensors)
        expected = self.adapt(usual, "expected", "--sparsity", "0.5", "--method", "prune")
        for name, rename in {"all": lambda name: "model." + name,
                             "head": lambda name: "model." + name if name.startswith("lm_head") else name}.items():
            with self.subTest(name):
                model = support.write_model(self.tmp / name, tensors={rename(name): t for name, t in tensors.items()})
                self.assertEqual(self.evaluate(model), self.evaluate(usual))
                self.assert_same_files(self.adapt(model, f"out-{name}", "--sparsity", "0.5", "--method", "prune"), expected)
        with self.subTest("compressed"):
            parts = support.read_checkpoint(expected / "compressed")
            config = json.loads((expected / "compressed" / "config.json").read_text())
            model = support.write_model(self.tmp / "parts", config=config, tensors={"model." + name: t for name, t in parts.items()})
            self.assertEqual(self.evaluate(model), self.evaluate(expected / "compressed"))
        del tensors["lm_head.weight"]
        model = support.write_model(self.tmp / "headless", tensors={"model." + name: t for name, t in tensors.items()})
        self.refuse(1, "eval", "--model", model, "--tokens", self.train, "--context", "64", says='there is "model.model.embed_tokens.weight", but')

    def test_missing_ones_beside_those_there(self):
        tensors = support.random_tensors(support.small_config())
        for prefix in ("_orig_mod.", "module."):
            model = support.write_model(self.tmp / prefix, tensors={prefix + name: t for name, t in tensors.items()})
            self.refuse(1, "eval", "--model", model, "--tokens", self.train, "--context", "64", says=f'there is "{prefix}model.embed_tokens')
        quantised = {name.replace("up_proj.weight", "up_proj.qweight"): t for name, t in tensors.items()}
        model = support.write_model(self.tmp / "quantised", tensors=quantised)
        self.refuse(1, "eval", "--model", model, "--tokens", self.train, "--context", "64", says="up_proj.qweight")


if __name__ == "__main__":
    support.main()
