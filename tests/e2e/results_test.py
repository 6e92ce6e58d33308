"""What `adapt` writes is what it says: exact sparsity, N:M in every group, one model in three forms, all else untouched."""

import json
import re
import unittest

import numpy as np

import numpy_llama
import support
from support import QUICK, TINY

SHORT = ["--train-tokens", "1200", "--context", "60", *QUICK]
NAME = re.compile(r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight")


class ResultCase(support.TestCase):
    def setUp(self):
        super().setUp()
        self.train = support.write_tokens(self.tmp / "train.bin")

    def model(self, **options):
        return support.write_model(self.tmp / "model", **options)

    def adapt(self, model, *arguments, out="out"):
        out = self.tmp / out
        self.succeed("adapt", "--model", model, "--train", self.train, "--out", out, *SHORT, *arguments)
        return out

    def evaluate(self, model, *arguments, tokens=None, context=60, sequences=4):
        done = self.succeed("eval", "--model", model, "--tokens", tokens or self.train, "--context", context,
                            "--sequences", sequences, "--json", "-", *arguments)
        return done.stdout

    def logits(self, model, *arguments, context=60, vocabulary=256, tokens=None):
        path = self.tmp / "logits"
        self.evaluate(model, "--logits", path, *arguments, context=context, tokens=tokens)
        return np.fromfile(path, "<f4").reshape(context, vocabulary)

    def check_zeros(self, out, sparsity):
        """Counted in the weights, in the report, and in the request: the same, to the weight."""
        tensors, told = support.read_checkpoint(out), support.report(out)
        zeros = weights = 0
        for layer in told["layers"]:
            values = tensors[layer["name"] + ".weight"].numbers()
            self.assertEqual(values.shape, (layer["out"], layer["in"]))
            self.assertEqual(int((values == 0).sum()), layer["zeros"], layer["name"])
            self.assertEqual(layer["sparsity"], layer["zeros"] / values.size)
            zeros += layer["zeros"]
            weights += values.size
        self.assertEqual((told["zeros"], told["weights"]), (zeros, weights))
        self.assertEqual(told["sparsity"], zeros / weights)
        self.assertEqual(told["steps"][-1]["zeros"], [layer["zeros"] for layer in told["layers"]])
        self.assertEqual(zeros, round(sparsity * weights))
        return told


class Sparsity(ResultCase):
    def test_every_method(self):
        model = self.model()
        for method in ("losa", "losa-published", "uniform", "unmasked", "prune"):
            for sparsity in (0.7, 0.333):
                with self.subTest(method=method, sparsity=sparsity):
                    out = self.adapt(model, "--method", method, "--sparsity", sparsity, out=f"{method}{sparsity}")
                    if method == "losa-published":  # counts per row, rounded down
                        told = support.report(out)
                        self.assertLessEqual(abs(told["sparsity"] - sparsity), 0.1)
                    else:
                        self.check_zeros(out, sparsity)

    def test_every_mask(self):
        model = self.model()
        for mask in ("wanda", "magnitude", "sparsegpt"):
            for schedule in ("one-shot", "linear"):
                with self.subTest(mask=mask, schedule=schedule):
                    out = self.adapt(model, "--mask", mask, "--sparsity", "0.61", "--method", "losa", "--schedule",
                                     schedule, out=mask + schedule)
                    self.check_zeros(out, 0.61)

    def test_ends_of_the_range(self):
        model = self.model()
        self.check_zeros(self.adapt(model, "--sparsity", "0", out="none"), 0)
        self.check_zeros(self.adapt(model, "--sparsity", "0.999", "--method", "uniform", out="most"), 0.999)
        self.check_zeros(self.adapt(model, "--sparsity", "1e-9", out="rounded"), 0)

    def test_embedded_model(self):
        self.train = TINY / "train.txt"
        out = self.adapt(TINY, "--sparsity", "0.7")
        self.check_zeros(out, 0.7)
        dense = json.loads(self.evaluate(TINY, tokens=TINY / "test.txt"))
        sparse = json.loads(self.evaluate(out, tokens=TINY / "test.txt"))
        self.assertLess(dense["perplexity"], sparse["perplexity"])
        self.assertLess(sparse["perplexity"], 100)

    def test_n_of_m(self):
        model = self.model()
        for pattern, method in (("2:4", "losa"), ("1:4", "unmasked"), ("2:4", "prune")):
            with self.subTest(pattern=pattern, method=method):
                out = self.adapt(model, "--pattern", pattern, "--method", method, out=pattern.replace(":", "") + method)
                n, m = map(int, pattern.split(":"))
                self.check_zeros(out, 1 - n / m)
                for name, tensor in support.read_checkpoint(out).items():
                    if NAME.fullmatch(name):
                        groups = tensor.numbers().reshape(-1, m)
                        self.assertTrue(((groups != 0).sum(axis=1) == n).all(), name)
                structure = json.loads((out / "compressed" / "config.json").read_text())
                self.assertIn(pattern, json.dumps(structure))

    def test_skipped_layers_are_not_touched(self):
        model = self.model()
        out = self.adapt(model, "--sparsity", "0.6", "--skip", r"layers\.0\.|v_proj")
        told = self.check_zeros(out, 0.6)
        names = {layer["name"] for layer in told["layers"]}
        self.assertEqual(names, {f"model.layers.1.{name}" for name in support.LINEARS if "v_proj" not in name})
        before, after = support.read_checkpoint(model), support.read_checkpoint(out)
        for name, tensor in before.items():
            same = name.removesuffix(".weight") not in names
            self.assertEqual(after[name].data == tensor.data, same, name)


class Forms(ResultCase):
    """Merged, compressed, and adapter beside mask: one model."""

    def setUp(self):
        super().setUp()
        self.source = self.model(shards=2)
        self.out = self.adapt(self.source, "--sparsity", "0.6", "--schedule-steps", "2", "--lr", "0.02")

    def test_merged_and_compressed_evaluate_to_the_same_bits(self):
        paths = {}
        for weights in ("sparse", "dense"):
            merged = self.evaluate(self.out, "--weights", weights)
            compressed = self.evaluate(self.out / "compressed", "--weights", weights)
            self.assertEqual(merged, compressed)
            paths[weights] = json.loads(merged)["mean_nll"]
        self.assertAlmostEqual(paths["sparse"], paths["dense"], delta=1e-4)
        difference = self.logits(self.out, "--weights", "dense") - self.logits(self.out, "--weights", "sparse")
        self.assertLess(np.abs(difference).max(), 1e-4)

    def test_compressed_holds_the_merged_weights(self):
        merged, compressed = support.read_checkpoint(self.out), support.read_checkpoint(self.out / "compressed")
        for name, tensor in merged.items():
            if name in compressed:
                self.assertEqual(compressed[name].data, tensor.data)
                continue
            prefix = name.removesuffix(".weight")
            shape = tuple(compressed[prefix + ".shape"].numbers())
            self.assertEqual(shape, tensor.shape)
            bits = np.unpackbits(compressed[prefix + ".bitmask"].numbers(), axis=1, bitorder="little")
            kept = bits[:, : shape[1]].astype(bool)
            dense = np.zeros(shape, np.float32)
            dense[kept] = compressed[prefix + ".compressed"].numbers()
            self.assertEqual(dense.tobytes(), tensor.data, name)
            offsets = np.concatenate([[0], np.cumsum(kept.sum(axis=1))[:-1]])
            self.assertEqual(list(compressed[prefix + ".row_offsets"].numbers().ravel()), list(offsets))

    def test_merged_is_mask_times_weight_plus_adapter(self):
        # A mask that only chooses (no surviving weight rewritten) and one schedule step: W is the checkpoint's.
        out = self.adapt(self.source, "--sparsity", "0.6", "--mask", "wanda", "--method", "uniform", "--lr", "0.02",
                         out="wanda")
        path = out / "adapter" / "adapter.safetensors"
        adapter, metadata = support.read_safetensors(path), support.read_header(path)[0]["__metadata__"]
        before, after = support.read_checkpoint(self.source), support.read_checkpoint(out)
        moved = 0
        for layer in support.report(out)["layers"]:
            name = layer["name"]
            a, b = adapter[name + ".lora_A"].numbers(), adapter[name + ".lora_B"].numbers()
            self.assertEqual((a.shape, b.shape), ((layer["rank"], layer["in"]), (layer["out"], layer["rank"])))
            self.assertEqual(int(metadata[name + ".rank"]), layer["rank"])
            bits = np.unpackbits(adapter[name + ".mask"].numbers(), axis=1, bitorder="little")
            mask = bits[:, : layer["in"]].astype(bool)
            weight = before[name + ".weight"].numbers().astype(np.float64)
            delta = float(metadata[name + ".scale"]) * (b.astype(np.float64) @ a.astype(np.float64))
            merged = after[name + ".weight"].numbers()
            self.assertLess(np.abs(np.where(mask, weight + delta, 0) - merged).max(), 1e-6, name)
            self.assertEqual(merged[~mask].tobytes(), bytes(4 * int((~mask).sum())), "pruned weights are +0")
            moved = max(moved, np.abs(delta).max())
        self.assertGreater(moved, 1e-3, "the adapters were trained")

    def test_everything_else_is_copied(self):
        (self.source / "tokenizer.json").write_text("{}")
        (self.source / "notes").mkdir()
        (self.source / "notes" / "more.json").write_text('{"dim": 24}')
        (self.source / ".cache").mkdir()
        (self.source / ".cache" / "lock").write_text("")
        out = self.adapt(self.source, "--sparsity", "0.5", out="copied")
        for directory in (out, out / "compressed"):
            for name in ("tokenizer.json", "notes/more.json"):
                self.assertEqual((directory / name).read_bytes(), (self.source / name).read_bytes())
            self.assertFalse((directory / ".cache").exists())
            before, after = support.read_checkpoint(self.source), support.read_checkpoint(directory)
            for name, tensor in before.items():
                if not NAME.fullmatch(name):
                    self.assertEqual((after[name].dtype, after[name].shape), (tensor.dtype, tensor.shape))
                    self.assertEqual(after[name].data, tensor.data, name)
        self.assertEqual((out / "config.json").read_bytes(), (self.source / "config.json").read_bytes())
        # Two small files become one: a file ends at 2 GB, wherever the input's ended.
        self.assertFalse((out / "model.safetensors.index.json").exists())

    def test_adapts_what_was_adapted_or_compressed_before(self):
        again = self.adapt(self.out, "--sparsity", "0.7", "--method", "prune", "--keep-mask", out="again")
        compressed = self.adapt(self.out / "compressed", "--sparsity", "0.7", "--method", "prune", out="compressed")
        self.assertEqual(support.report(again)["zeros"], round(0.7 * support.report(again)["weights"]))
        self.assert_same_files(again / "compressed", compressed / "compressed", skip=("config.json",))
        self.assertEqual(self.evaluate(again), self.evaluate(compressed))


class Types(ResultCase):
    def kinds(self, out):
        return {tensor.dtype for name, tensor in support.read_checkpoint(out).items() if NAME.fullmatch(name)}

    def test_output_type(self):
        for stored in ("F32", "BF16", "F16"):
            model = support.write_model(self.tmp / stored, dtype=stored)
            arguments = ["--sparsity", "0.5", "--method", "uniform"]
            default = self.adapt(model, *arguments, out=stored + "-default")
            self.assertEqual(self.kinds(default), {stored})
            single = self.adapt(model, *arguments, "--dtype", "f32", out=stored + "-f32")
            half = self.adapt(model, *arguments, "--dtype", "bf16", out=stored + "-bf16")
            self.assertEqual((self.kinds(single), self.kinds(half)), ({"F32"}, {"BF16"}))
            for out in (default, single, half):
                self.check_zeros(out, 0.5)
                self.assertEqual(self.evaluate(out, "--weights", "sparse"),
                                 self.evaluate(out / "compressed", "--weights", "sparse"))
            exact, rounded = support.read_checkpoint(single), support.read_checkpoint(half)
            for name in exact:
                if NAME.fullmatch(name):
                    self.assertEqual(support.to_bf16(exact[name].numbers()).tobytes(), rounded[name].data, name)

    def test_loaders_are_not_told_to_round(self):
        model = support.write_model(self.tmp / "half", dtype="BF16")
        config = json.loads((model / "config.json").read_text()) | {"torch_dtype": "bfloat16"}
        (model / "config.json").write_text(json.dumps(config))
        for asked, told in (([], "bfloat16"), (["--dtype", "bf16"], "bfloat16"), (["--dtype", "f32"], "float32")):
            out = self.adapt(model, "--sparsity", "0.5", "--method", "uniform", *asked, out="told" + "".join(asked))
            for folder in (out, out / "compressed"):
                self.assertEqual(json.loads((folder / "config.json").read_text())["torch_dtype"], told)



class IndependentForward(ResultCase):
    """The merged directory means the same to programs that share no code with ours."""

    def outputs(self):
        yield self.adapt(self.model(shards=3), "--sparsity", "0.6", "--lr", "0.02"), self.train, 60
        self.train = TINY / "train.txt"
        yield self.adapt(TINY, "--sparsity", "0.6", out="tiny"), TINY / "test.txt", 128

    def unusual(self):
        """Biases, heads that are not hidden/heads wide, both kinds of rotary scaling in both spellings, f16."""
        llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                  "original_max_position_embeddings": 40}
        for name, changes, options in (
                ("linear", {"rope_scaling": {"type": "linear", "factor": 3.0}, "attention_bias": True}, {}),
                ("llama3", {"rope_scaling": llama3, "mlp_bias": True, "tie_word_embeddings": True, "head_dim": 14},
                 {"shards": 4}),
                ("new", {"rope_parameters": llama3 | {"rope_theta": 5e5}, "attention_bias": True, "mlp_bias": True,
                         "head_dim": 10}, {"dtype": "F16"})):
            config = support.small_config(**changes)
            if "rope_parameters" in config:
                del config["rope_theta"]
            model = support.write_model(self.tmp / ("model-" + name), config=config, **options)
            yield model, self.train, 60
            out = self.adapt(model, "--sparsity", "0.6", "--lr", "0.02", out=name)
            before, after = support.read_checkpoint(model), support.read_checkpoint(out)
            for tensor in before:
                if tensor.endswith(".bias"):
                    self.assertEqual(before[tensor].data, after[tensor].data, tensor)
            yield out, self.train, 60
            yield out / "compressed", self.train, 60

    def test_unusual_architectures(self):
        for model, text, context in self.unusual():
            with self.subTest(model=str(model.relative_to(self.tmp))):
                ids = np.fromfile(text, np.uint8)[:context]
                ours = self.logits(model, tokens=text, context=context)
                if model.name != "compressed":
                    dense = numpy_llama.Llama(model).logits(ids)
                self.assertLess(np.abs(dense - ours).max(), 1e-4)

    def test_numpy(self):
        for out, text, context in self.outputs():
            with self.subTest(model=out.name):
                llama = numpy_llama.Llama(out)
                ids = np.fromfile(text, np.uint8)[: 2 * context].reshape(2, context)
                ours = self.logits(out, tokens=text, context=context)
                self.assertLess(np.abs(llama.logits(ids[0]) - ours).max(), 1e-4)
                told = json.loads(self.evaluate(out, tokens=text, context=context, sequences=2))
                nll = np.mean([numpy_llama.mean_nll(llama.logits(row), row) for row in ids])
                self.assertAlmostEqual(told["mean_nll"], nll, delta=1e-4)
                self.assertAlmostEqual(told["perplexity"], np.exp(told["mean_nll"]), delta=1e-9 * told["perplexity"])
                self.assertEqual(told["tokens"], 2 * (context - 1))

    def test_torch(self):
        try:
            import torch_llama
        except ImportError:
            raise unittest.SkipTest("PyTorch is not there (cmake/setup.sh --with-torch)") from None
        for out, text, context in self.outputs():
            with self.subTest(model=out.name):
                ids = np.fromfile(text, np.uint8)[:context]
                ours = self.logits(out, tokens=text, context=context)
                self.assertLess(np.abs(torch_llama.logits(out, ids) - ours).max(), 1e-4)


class Choices(ResultCase):
    """`eval --choices` against the logits of every question's whole sequences."""

    def questions(self):
        text = (TINY / "test.txt").read_bytes()
        random = np.random.default_rng(4)
        for number in range(8):
            at = 1000 + 777 * number
            context, right = text[at : at + 20], text[at + 20 : at + 20 + 2 * number + 1]
            choices = [right] + [text[(p := random.integers(len(text) - 40)) : p + random.integers(1, 16)] for _ in "ab"]
            answer = number % 3
            choices[0], choices[answer] = choices[answer], choices[0]
            yield context, choices, answer

    def test_accuracy(self):
        path, sequence = self.tmp / "questions.jsonl", self.tmp / "sequence"
        lines, right, right_norm = [], 0, 0
        for context, choices, answer in self.questions():
            as_text = all(part.isascii() for part in (context, *choices)) and answer == 0
            form = (lambda part: part.decode()) if as_text else list
            lines.append({"context": form(context), "choices": [form(c) for c in choices], "answer": answer, "id": "x"})
            scores = []
            for choice in choices:
                ids = np.frombuffer(context + choice, np.uint8)
                sequence.write_bytes(ids.tobytes())
                self.evaluate(TINY, "--logits", self.tmp / "logits", tokens=sequence, context=len(ids), sequences=1)
                logits = np.fromfile(self.tmp / "logits", "<f4").reshape(len(ids), 256).astype(np.float64)
                steps = range(len(context) - 1, len(ids) - 1)
                scores.append(-sum(numpy_llama.mean_nll(logits[t : t + 2], ids[t : t + 2]) for t in steps))
            right += int(np.argmax(scores)) == answer
            right_norm += int(np.argmax([s / len(c) for s, c in zip(scores, choices)])) == answer
        self.assertTrue(any(isinstance(line["context"], str) for line in lines))
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        for threads in (1, 2):
            told = json.loads(self.succeed("eval", "--model", TINY, "--choices", path, "--json", "-", "--threads",
                                           threads).stdout)
            self.assertEqual(told, {"accuracy": right / 8, "accuracy_norm": right_norm / 8, "questions": 8})
        self.assertGreater(right, 4, "the embedded model knows its language")
        self.assertIn("questions 8", self.succeed("eval", "--model", TINY, "--choices", path).stdout)

    def test_prompt_of_ids(self):
        usual = ["generate", "--model", TINY, "--tokens", "12", "--json", "-"]
        told = [json.loads(self.succeed(*usual, *prompt).stdout) for prompt in (["--prompt", "My d"],
                                                                               ["--prompt-ids", "77,121,32,100"])]
        for one in told:
            del one["seconds"]
        self.assertEqual(told[0], told[1])
        self.assertEqual(told[0]["prompt_ids"], list(b"My d"))
        self.assertEqual(bytes(told[0]["ids"]).decode(), told[0]["text"])
        self.assertEqual(len(told[0]["ids"]), 12)


if __name__ == "__main__":
    support.main()
