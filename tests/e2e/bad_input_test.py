"""Bad input gets one line on standard error and a non-zero exit code, and leaves nothing half-written."""

import json
import os
import pty
import re
import resource
import shutil
import signal
import struct
import subprocess
import unittest

import numpy as np

import support
from support import QUICK, TOOL, Stored, small_config

COMMANDS = ["adapt", "eval", "generate", "bench", "inspect"]
FULL = "/dev/full"


class BadInputCase(support.TestCase):
    def setUp(self):
        super().setUp()
        self.train = support.write_tokens(self.tmp / "train.bin")
        self.out = self.tmp / "out"

    def write(self, name="model", **options):
        return support.write_model(self.tmp / name, **options)

    def adapt(self, model, *arguments, train=None):
        usual = dict(zip(["--train-tokens", "--context", *QUICK[::2]], ["100", "50", *QUICK[1::2]]))
        quick = [word for option, value in usual.items() if option not in arguments for word in (option, value)]
        return ["adapt", "--model", model, "--train", train or self.train, "--out", self.out, *quick, *arguments]

    def evaluate(self, model, *arguments):
        return ["eval", "--model", model, "--tokens", self.train, "--context", "50", "--sequences", "2", *arguments]

    def refuse_adapt(self, code, model, *arguments, says="", **options):
        self.refuse(code, *self.adapt(model, *arguments, **options), says=says)
        self.assertFalse(self.out.exists(), "an error in the input leaves no output")

    def refuse_model(self, model, says=""):
        """Refused by everything that reads weights."""
        self.refuse(1, *self.evaluate(model), says=says)
        self.refuse_adapt(1, model, "--sparsity", "0.5", says=says)


class Weights(BadInputCase):
    """Files that are cut, that lie, or that hold what a Llama does not."""

    def broken(self, change):
        """A model directory whose model.safetensors is change(header, data), written raw."""
        model = self.tmp / "model"
        if not model.exists():
            self.write()
            self.intact = support.read_header(model / "model.safetensors")
        header, data = json.loads(json.dumps(self.intact[0])), self.intact[1]
        raw = change(header, data)
        (model / "model.safetensors").write_bytes(raw)
        return model

    @staticmethod
    def packed(header, data, length=None):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + data

    def test_truncated(self):
        whole = len(self.broken(self.packed).joinpath("model.safetensors").read_bytes())
        for size in (0, 1, 7, 8, 9, 200, 2000, whole // 2, whole - 1):
            with self.subTest(bytes=size):
                self.refuse_model(self.broken(lambda h, d: self.packed(h, d)[:size]), says="model.safetensors")

    def test_lying_length_of_the_header(self):
        for length in (0, 1, 2**31, 2**40, 2**63, 2**64 - 1, 2**64 - 8):
            with self.subTest(length=length):
                self.refuse_model(self.broken(lambda h, d: self.packed(h, d, length)), says="model.safetensors")

    def test_headers_that_are_no_header(self):
        texts = [b"", b"{", b"[]", b"null", b"7", b'"x"', b"\xff\xfe\x00", b"{}" + b"x" * 20, b"[" * 100000,
                 b'{"a":' * 50000, b'{"a":' * 20000 + b"1" + b"}" * 20000, b'{"__metadata__":' + b"[" * 70000,
                 b'{"__metadata__": {"a": 1}}', b'{"__metadata__": []}', b'{"x": 1}', b'{"x": {}}']
        for text in texts:
            with self.subTest(header=text[:20]):
                self.refuse_model(self.broken(lambda h, d: self.packed(text, d)), says="model.safetensors")

    def test_lying_entries(self):
        name = "model.layers.0.mlp.up_proj.weight"
        entries = {
            "overflowing product": {"shape": [2**32, 2**32]},
            "overflowing bytes": {"shape": [2**62, 4]},
            "overflowing by much": {"shape": [2**63, 2**63, 2**63]},
            "too large for 64 bits": {"shape": [2**65, 1]},
            "negative dimension": {"shape": [-44, -24]},
            "dimension that is no integer": {"shape": [44.0, 24]},
            "shape that is no list": {"shape": "44x24"},
            "more elements than bytes": {"shape": [44, 25]},
            "transposed": {"shape": [24, 44]},
            "flat": {"shape": [44 * 24]},
            "type of another size": {"dtype": "F64"},
            "type of numbers unknown": {"dtype": "F33"},
            "type that is no string": {"dtype": 32},
            "integers": {"dtype": "I32"},
            "end before begin": {"data_offsets": [4224, 0]},
            "past the end": {"data_offsets": [10**6, 10**6 + 4224]},
            "far past the end": {"data_offsets": [2**63, 2**63 + 4224]},
            "wrapping round": {"data_offsets": [2**64 - 4224, 2**64]},
            "negative offsets": {"data_offsets": [-4224, 0]},
            "one offset": {"data_offsets": [0]},
            "offsets that are no list": {"data_offsets": None},
            "overlap with the first tensor": {"data_offsets": [0, 44 * 24 * 4]},
        }
        for what, entry in entries.items():
            with self.subTest(what):
                self.refuse_model(self.broken(lambda h, d: self.packed(h | {name: h[name] | entry}, d)))
        for field in ("dtype", "shape", "data_offsets"):
            with self.subTest(missing=field):
                def without(header, data):
                    del header[name][field]
                    return self.packed(header, data)
                self.refuse_model(self.broken(without))

    def test_a_name_twice(self):
        def twice(header, data):
            name = "model.norm.weight"
            text = json.dumps(header).encode()[:-1] + f', "{name}": {json.dumps(header[name])}}}'.encode()
            return self.packed(text, data)
        self.refuse_model(self.broken(twice))

    def test_what_is_allowed(self):
        """Bytes after the last tensor, and holes: no error."""
        for change in (lambda h, d: self.packed(h, d + b"tail"),
                       lambda h, d: self.packed({k: v | {"data_offsets": [o + 8 for o in v["data_offsets"]]}
                                                 for k, v in h.items()}, b"\0" * 8 + d)):
            self.succeed(*self.evaluate(self.broken(change)))

    def test_every_tensor_missing(self):
        config = small_config(num_hidden_layers=1)
        tensors = support.random_tensors(config)
        for name in tensors:
            with self.subTest(missing=name):
                model = self.write(config=config, tensors={n: t for n, t in tensors.items() if n != name})
                self.refuse_model(model, says=name)
                shutil.rmtree(model)

    def test_every_tensor_of_another_shape(self):
        config = small_config(num_hidden_layers=1)
        for name, tensor in support.random_tensors(config).items():
            with self.subTest(name):
                other = Stored.of(np.zeros([n + 2 for n in tensor.shape]))
                model = self.write(config=config, tensors=support.random_tensors(config) | {name: other})
                self.refuse_model(model, says=name)
                shutil.rmtree(model)

    def test_values_that_are_not_finite(self):
        config = small_config(num_hidden_layers=1)
        for dtype in ("F32", "BF16", "F16"):
            for value in (np.nan, np.inf, -np.inf):
                for name in ("model.embed_tokens.weight", "model.layers.0.self_attn.v_proj.weight",
                             "model.layers.0.post_attention_layernorm.weight", "model.norm.weight", "lm_head.weight"):
                    if value is not np.nan and dtype != "F32":
                        continue
                    with self.subTest(dtype=dtype, value=value, tensor=name):
                        tensors = support.random_tensors(config, dtype=dtype)
                        values = np.array(tensors[name].numbers(), np.float32)
                        values.flat[-1] = value
                        model = self.write(config=config, tensors=tensors | {name: Stored.of(values, dtype)})
                        self.refuse_model(model, says=name)
                        shutil.rmtree(model)

    def test_tensors_of_another_architecture(self):
        for name in ("model.layers.0.self_attn.q_proj.bias", "model.layers.0.mlp.experts.0.w1.weight"):
            with self.subTest(name):
                tensors = support.random_tensors(small_config()) | {name: Stored.of(np.ones((4, 4)))}
                self.refuse_model(self.write(tensors=tensors), says=name[:16])
                shutil.rmtree(self.tmp / "model")

    def test_index_of_shards(self):
        model = self.write(shards=2)
        path = model / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        shard = next(iter(index["weight_map"].values()))
        changes = [b"", b"{", b"[]", b"{}", b'{"weight_map": 1}', b'{"weight_map": {"a": 1}}', b"[" * 100000]
        for target in ("../train.bin", "/etc/passwd", "missing.safetensors", "config.json", "", ".", "sub/x.safetensors"):
            changes.append(json.dumps({"weight_map": index["weight_map"] | {"model.norm.weight": target}}).encode())
        for content in changes:
            with self.subTest(index=content[-80:]):
                path.write_bytes(content)
                self.refuse_model(model)
        path.write_text(json.dumps(index))
        (model / shard).unlink()
        self.refuse_model(model, says=shard)

    def test_compressed_parts(self):
        model = self.write()
        self.succeed(*self.adapt(model, "--sparsity", "0.5", "--method", "prune"))
        compressed = self.out / "compressed"
        good = support.read_checkpoint(compressed)
        prefix = "model.layers.1.mlp.up_proj"
        kept = len(good[prefix + ".compressed"].numbers())
        offsets = good[prefix + ".row_offsets"].numbers()
        wrong = {
            "fewer values": {".compressed": Stored.of(np.ones(kept - 1))},
            "more values": {".compressed": Stored.of(np.ones(kept + 1))},
            "not finite": {".compressed": Stored.of(np.full(kept, np.inf))},
            "full mask": {".bitmask": Stored.of(np.full((44, 3), 255), "U8")},
            "empty mask": {".bitmask": Stored.of(np.zeros((44, 3)), "U8")},
            "narrow mask": {".bitmask": Stored.of(np.zeros((44, 2)), "U8")},
            "shifted offsets": {".row_offsets": Stored.of(offsets + 1, "I64")},
            "negative offsets": {".row_offsets": Stored.of(offsets - 1, "I64")},
            "huge offsets": {".row_offsets": Stored.of(np.full(offsets.shape, 2**62), "I64")},
            "another shape": {".shape": Stored.of([24, 44], "I64")},
            "negative shape": {".shape": Stored.of([-44, -24], "I64")},
            "huge shape": {".shape": Stored.of([2**62, 2**62], "I64")},
            "shape of three": {".shape": Stored.of([44, 24, 1], "I64")},
        }
        for what, parts in wrong.items():
            with self.subTest(what):
                tensors = good | {prefix + part: tensor for part, tensor in parts.items()}
                support.write_safetensors(compressed / "model.safetensors", tensors)
                self.refuse(1, *self.evaluate(compressed), says=prefix)
        for part in (".compressed", ".bitmask", ".row_offsets", ".shape"):
            with self.subTest(missing=part):
                tensors = {name: tensor for name, tensor in good.items() if name != prefix + part}
                support.write_safetensors(compressed / "model.safetensors", tensors)
                self.refuse(1, *self.evaluate(compressed), says=prefix)


class Config(BadInputCase):
    SIZES = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
             "head_dim", "vocab_size", "max_position_embeddings"]
    OPTIONAL = ["num_key_value_heads", "head_dim", "max_position_embeddings"]

    def setUp(self):
        super().setUp()
        self.model = self.write()

    def refuse_config(self, changes, drop=(), says=""):
        config = {k: v for k, v in (small_config() | changes).items() if k not in drop}
        with self.subTest(changes=changes, drop=drop):
            (self.model / "config.json").write_text(json.dumps(config))
            self.refuse_model(self.model, says=says)

    def test_every_size_wrong_in_turn(self):
        for field in self.SIZES:
            for value in (0, -1, -(2**63), 2**31, 2**63, 2**64, 1e300, 24.5, "24", True, [], {}, [24]):
                self.refuse_config({field: value}, says=field)
            if field not in self.OPTIONAL:
                self.refuse_config({}, drop=[field], says=field)
                self.refuse_config({field: None}, says=field)

    def test_sizes_that_do_not_fit_the_weights(self):
        for field in self.SIZES[:-1]:
            self.refuse_config({field: small_config()[field] * 2 + (field == "num_key_value_heads")})
        self.refuse_config({"vocab_size": 255})
        self.refuse_config({"num_key_value_heads": 4})  # does not divide 6
        self.refuse_config({"num_key_value_heads": 12})
        self.refuse_config({"head_dim": 5})  # rotary embedding needs pairs
        self.refuse_config({}, drop=["head_dim"])  # 24 / 6 is not the head size of these weights
        self.refuse_config({"num_attention_heads": 7}, drop=["head_dim", "num_key_value_heads"])

    def test_every_number_wrong_in_turn(self):
        for field in ("rms_norm_eps", "rope_theta"):
            for value in (-1, -1e-9, 1e300, "1e-5", True, [], {}):
                self.refuse_config({field: value}, says=field)
        self.refuse_config({"rope_theta": 0}, says="rope_theta")

    def test_every_word_and_switch_wrong_in_turn(self):
        for field in ("tie_word_embeddings", "attention_bias", "mlp_bias"):
            for value in (0, 1, "false", [], {}):
                self.refuse_config({field: value}, says=field)
        self.refuse_config({"attention_bias": True}, says="q_proj.bias")  # which these weights lack
        self.refuse_config({"mlp_bias": True}, says="gate_proj.bias")
        for value in ("gelu", "relu", "", 1, True, [], {}):
            self.refuse_config({"hidden_act": value}, says="hidden_act")
        for value in ({"rope_type": "llama3", "factor": 8.0}, {"type": "linear", "factor": 0}, {"type": "yarn"},
                      "linear", 1, [1]):
            self.refuse_config({"rope_scaling": value}, says="rope_scaling")
        for field in ("bos_token_id", "eos_token_id", "pad_token_id"):
            for value in ("1", 1.5, True, {}, [[1]]):
                self.refuse_config({field: value}, says=field)
        self.refuse_config({"quantization_config": {"quant_method": "gptq", "bits": 4}})
        self.refuse_config({"quantization_config": 4})

    def test_architecture(self):
        for value in ("mistral", "", 1, []):
            self.refuse_config({"model_type": value}, says="model_type")
        self.refuse_config({}, drop=["architectures", "model_type"], says="neither model_type nor architectures")
        for value in (["MistralForCausalLM"], [], [1], {}, 1):
            self.refuse_config({"architectures": value}, drop=["model_type"], says="architectures is")
        self.refuse_config({"architectures": ["Evil\nForCausalLM"]}, drop=["model_type"], says="architectures is")

    def test_no_json(self):
        for text in (b"", b"{", b"[]", b"null", b"\xff\xff", b"[" * 200000, b'{"a":' * 100000, b"{} {}",
                     b'{"hidden_size": 1e999}', b'{"hidden_size": NaN}'):
            with self.subTest(text=text[:20]):
                (self.model / "config.json").write_bytes(text)
                self.refuse_model(self.model, says="config.json")

    def test_no_file(self):
        (self.model / "config.json").unlink()
        self.refuse_model(self.model, says="config.json")
        (self.model / "config.json").mkdir()
        self.refuse_model(self.model, says="config.json")
        self.refuse_model(self.tmp / "nowhere", says="nowhere")
        self.refuse_model(self.train, says="train.bin")
        (self.tmp / "empty").mkdir()
        self.refuse_model(self.tmp / "empty")
        model = self.write("weightless")
        (model / "model.safetensors").unlink()
        self.refuse_model(model, says="safetensors")


class Directories(BadInputCase):
    """Directories whose files contradict each other, point elsewhere, or are no files."""

    def setUp(self):
        super().setUp()
        self.model = self.write(shards=3, config=small_config(attention_bias=True))
        self.index_path = self.model / "model.safetensors.index.json"
        self.index = json.loads(self.index_path.read_text())
        self.shards = sorted(set(self.index["weight_map"].values()))

    def refuse_directory(self, says=""):
        """Refused by every command, and nothing is written, not even into the directory."""
        before = sorted(self.tmp.rglob("*"))
        self.refuse_model(self.model, says=says)
        for command in (["inspect"], ["bench"], ["generate", "--prompt", "a"]):
            self.refuse(1, *command, "--model", self.model, says=says)
        self.assertEqual(sorted(self.tmp.rglob("*")), before)

    def write_index(self, changes):
        self.index_path.write_text(json.dumps({"weight_map": self.index["weight_map"] | changes}))

    def test_as_it_is(self):
        self.succeed(*self.evaluate(self.model))

    def test_shards_missing(self):
        for shard in self.shards:
            with self.subTest(shard):
                (self.model / shard).rename(self.tmp / "aside")
                self.refuse_directory(says=shard)
                (self.tmp / "aside").rename(self.model / shard)

    def test_shards_of_another_model(self):
        other = self.write("other", shards=3, config=small_config(intermediate_size=48, attention_bias=True))
        shutil.copy(other / self.shards[1], self.model / self.shards[1])
        self.refuse_directory(says="config.json asks for")

    def test_held_twice_with_different_values(self):
        first, second = (support.read_safetensors(self.model / shard) for shard in self.shards[:2])
        name = next(name for name, tensor in first.items() if tensor.shape == (24,))
        support.write_safetensors(self.model / self.shards[1], second | {name: Stored.of(np.zeros(24))})
        self.refuse_directory(says="with different values")

    def test_needed_and_held_by_no_shard(self):
        name = next(n for n, s in self.index["weight_map"].items() if s == self.shards[0])
        rest = {n: t for n, t in support.read_safetensors(self.model / self.shards[0]).items() if n != name}
        support.write_safetensors(self.model / self.shards[0], rest)
        self.refuse_directory(says=f'tensor "{name}" is listed in "{self.shards[0]}", but')

    def test_names_that_leave_the_directory(self):
        shutil.copy(self.model / self.shards[0], self.tmp / self.shards[0])
        (self.model / "sub").mkdir()
        shutil.copy(self.model / self.shards[0], self.model / "sub")
        moved = [n for n, s in self.index["weight_map"].items() if s == self.shards[0]]
        for target in (f"../{self.shards[0]}", str(self.tmp / self.shards[0]), f"sub//{self.shards[0]}",
                       f"../model/{self.shards[0]}", f"sub/../{self.shards[0]}", "..", ".", "", "/", f"..\\{self.shards[0]}",
                       f"{self.shards[0]}\0", f"{self.shards[0]}/"):
            with self.subTest(target):
                self.write_index(dict.fromkeys(moved, target))
                self.refuse_directory(says="is not the name of a file in the same directory or below it")

    def test_names_that_steer_a_terminal(self):
        self.write_index({next(iter(self.index["weight_map"])): "\x1b[2J\x07\u009b2J\x7fnone.safetensors"})
        self.refuse_directory(says="none.safetensors")

    def test_what_is_no_file(self):
        """Links that lead nowhere, pipes, devices: refused at once; a link to a good file is one, as caches have them."""
        shard = self.model / self.shards[1]
        shard.rename(self.tmp / "blob")

        def link(target):
            return lambda path: path.symlink_to(target)
        for what, make in {"dangling": link("nowhere"), "loop": link(shard.name), "directory": link(self.tmp),
                           "device": link("/dev/zero"), "pipe": os.mkfifo, "folder": os.mkdir,
                           "text": link(self.model / "config.json")}.items():
            for path in (shard, self.model / "config.json", self.index_path):
                if path == shard or what != "text":
                    with self.subTest(what, path=path.name):
                        kept = self.tmp / "kept"
                        if path != shard:
                            (self.tmp / "blob").rename(shard)
                            path.rename(kept)
                        make(path)
                        self.refuse_directory(says=path.name if path != self.index_path or what != "dangling" else "holds neither")
                        path.rmdir() if what == "folder" else path.unlink()
                        if path != shard:
                            kept.rename(path)
                            shard.rename(self.tmp / "blob")
        shard.symlink_to(self.tmp / "blob")
        self.succeed(*self.evaluate(self.model))

    def test_every_field_of_the_configuration(self):
        llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                  "original_max_position_embeddings": 32}
        usual = small_config(attention_bias=True, mlp_bias=False, rope_scaling=llama3, attention_dropout=0.0, dtype="float32",
                             initializer_range=0.02, pretraining_tp=1, use_cache=True, bos_token_id=1, eos_token_id=[2, 3],
                             pad_token_id=None, sliding_window=None, is_causal=True, rope_interleaved=False, partial_rotary_factor=1.0)
        unneeded = {"architectures", "attention_dropout", "dtype", "initializer_range", "pretraining_tp", "torch_dtype", "use_cache"}
        lies = {field: [value * 2, value + 1, 0, -value, "x"] for field, value in usual.items()
                if type(value) is int and field not in {"max_position_embeddings", "bos_token_id"} | unneeded}
        lies |= {field: [not value, "x", 1] for field, value in usual.items() if type(value) is bool and field not in unneeded}
        first = "original_max_position_embeddings"  # max_position_embeddings where it is missing; no scaling without a type
        lies |= {"max_position_embeddings": [0, -64, 32, "x"], "bos_token_id": ["x"], "eos_token_id": ["x"],
                 "pad_token_id": ["x"], "sliding_window": ["x", True], "model_type": ["x"], "hidden_act": ["gelu"],
                 "rms_norm_eps": [-1, 2, "x"], "rope_theta": [0, -1, "x"], "partial_rotary_factor": [0.5, "x"],
                 "rope_scaling": ["x", {"type": "x"},
                                  *({k: v for k, v in llama3.items() if k != dropped} for dropped in llama3 if dropped not in (first, "rope_type")),
                                  *(llama3 | {k: bad} for k in llama3 for bad in (0, -1, "x"))]}
        lies["tie_word_embeddings"] = ["x", 1]  # where it says true and the head is another matrix, the values decide
        self.assertEqual(set(lies) | unneeded, set(usual))
        config = self.model / "config.json"
        config.write_text(json.dumps(usual))
        self.succeed(*self.evaluate(self.model))
        for field, values in lies.items():
            for value in values:
                with self.subTest(field=field, value=value):
                    config.write_text(json.dumps(usual | {field: value}))
                    before = sorted(self.tmp.rglob("*"))
                    self.refuse(1, *self.evaluate(self.model))
                    self.assertEqual(sorted(self.tmp.rglob("*")), before)
        config.write_text(json.dumps(usual)[:-1] + ', "hidden_size": 25}')
        self.refuse_directory(says="appears twice, with different values")
        config.write_text(" " * (17 << 20) + json.dumps(usual))
        self.refuse_directory(says="above the limit")


class Arguments(BadInputCase):
    def setUp(self):
        super().setUp()
        self.model = self.write()

    def test_usage(self):
        wrong = [[], ["--sparsity", "1"], ["--sparsity", "-0.1"], ["--sparsity", "1.5"], ["--sparsity", "nan"],
                 ["--sparsity", "inf"], ["--sparsity", "half"], ["--sparsity", ""], ["--sparsity"],
                 ["--sparsity", "0.5", "--sparsity", "0.6"], ["--pattern", "2:4", "--sparsity", "0.6"],
                 ["--pattern", "4:2"], ["--pattern", "0:4"], ["--pattern", "4:4"], ["--pattern", "2"],
                 ["--pattern", "2:4:8"], ["--pattern", "-2:4"], ["--pattern", "2:4x"], ["--pattern", "99999999999:4"],
                 ["--pattern", "2:4", "--method", "losa-published"], ["--pattern", "2:4", "--sparsity-allocation", "rmi"]]
        usual = [["--method", "magic"], ["--mask", "none"], ["--dtype", "int8"], ["--schedule", "sudden"],
                 ["--schedule-steps", "0"], ["--schedule-steps", "-1"], ["--threads", "0"], ["--threads", "-1"],
                 ["--threads", "x"], ["--seed", "-1"], ["--seed", "1.5"], ["--batch", "0"], ["--batch", "-2"],
                 ["--context", "1"], ["--train-tokens", "-5"], ["--train-tokens", "many"], ["--train-tokens", "0"], ["--train-tokens", "99"], ["--lr", "0"], ["--lr", "-1"],
                 ["--lr", "nan"], ["--lr", "inf"], ["--mean-rank", "0"], ["--mean-rank", "nan"], ["--mean-rank", "-4"],
                 ["--alpha", "nan"], ["--alpha", "inf"], ["--delta", "-0.1"], ["--delta", "nan"], ["--delta", "1.5"],
                 ["--hold-out", "1"], ["--hold-out", "-0.1"], ["--hold-out", "nan"], ["--calibration-sequences", "0"],
                 ["--save-every", "nan"], ["--save-every", "-1"],
                 ["--calibration-context", "0"], ["--token-bits", "12"], ["--token-bits", "0"], ["--skip", "("],
                 ["--early-share", "-1"], ["--early-share", "2"], ["--early-share", "nan"], ["--unknown"], ["-x"],
                 ["stray"], ["--method", "losa-published", "--mean-rank", "4"]]
        for arguments in wrong + [["--sparsity", "0.5", *one] for one in usual]:
            with self.subTest(arguments=arguments):
                self.refuse(2, *self.adapt(self.model, *arguments))
                self.assertFalse(self.out.exists())

    def test_usage_of_the_others(self):
        for arguments in ([], ["--frobnicate"], ["frobnicate"], ["eval"], ["eval", "--model", self.model], ["generate"],
                          ["bench"], ["inspect"], ["inspect", "--model"],
                          ["bench", "--layer", "0x0"], ["bench", "--layer", "12"], ["bench", "--layer", "ax4"],
                          ["bench", "--layer", "4x4", "--sparsity", "2"], ["bench", "--layer", "4x4", "--repeats", "0"],
                          ["bench", "--model", self.model, "--layer", "4x4"],
                          ["generate", "--model", self.model],
                          ["generate", "--model", self.model, "--prompt", "x", "--prompt-tokens", self.train],
                          ["generate", "--model", self.model, "--prompt", "x", "--prompt-ids", "1"],
                          ["generate", "--model", self.model, "--prompt-ids", ""],
                          ["generate", "--model", self.model, "--prompt-ids", "1,"],
                          ["generate", "--model", self.model, "--prompt-ids", ",1"],
                          ["generate", "--model", self.model, "--prompt-ids", "1, 2"],
                          ["generate", "--model", self.model, "--prompt-ids", "-1"],
                          ["generate", "--model", self.model, "--prompt-ids", "1.5"],
                          ["generate", "--model", self.model, "--prompt-ids", "99999999999"],
                          ["generate", "--model", self.model, "--prompt", "x", "--tokens", "-1"],
                          ["eval", "--model", self.model, "--choices", self.train, "--tokens", self.train],
                          ["eval", "--model", self.model, "--choices", self.train, "--logits", self.out],
                          ["eval", "--model", self.model, "--choices", self.train, "--context", "8"],
                          ["eval", "--model", self.model, "--choices", self.train, "--sequences", "all"],
                          ["eval", "--model", self.model, "--choices", self.train, "--token-bits", "8"],
                          ["generate", "--model", self.model, "--prompt", "x", "--top-k", "-1"],
                          ["bench", "--model", self.model, "--prefill", "-1"],
                          ["eval", "--model", self.model, "--tokens", self.train, "--context", "-1"],
                          ["eval", "--model", self.model, "--tokens", self.train, "--context", "1"],
                          ["eval", "--model", self.model, "--tokens", self.train, "--context", "0"],
                          ["generate", "--model", self.model, "--prompt", "x", "--temperature", "-1"],
                          ["generate", "--model", self.model, "--prompt", "x", "--temperature", "nan"],
                          ["generate", "--model", self.model, "--prompt", "x", "--temperature", "inf"],
                          ["generate", "--model", self.model, "--prompt", "x", "--temperature", "-inf"],
                          ["bench", "--model", self.model, "--decode", "0"],
                          ["bench", "--model", self.model, "--repeats", "18446744073709551615"],
                          ["bench", "--layer", "-4x4"], ["bench", "--layer", "4x4x4"], ["bench", "--layer", "4x"],
                          ["bench", "--layer", "99999999999x4"], ["bench", "--layer", "4x18446744073709551617"],
                          self.evaluate(self.model)[:-1] + ["0"], self.evaluate(self.model)[:-1] + ["-1"],
                          self.evaluate(self.model)[:-1] + ["some"],
                          self.evaluate(self.model, "--weights", "imaginary")):
            with self.subTest(arguments=arguments):
                self.refuse(2, *arguments)

    def test_the_word_that_was_wrong_is_told(self):
        self.refuse(2, "foo", says="unknown command foo")
        self.refuse(2, "evaluate", "--model", self.model, says="unknown command evaluate")
        self.refuse(2, "--foo", says="unknown option --foo")
        self.refuse(1, "inspect", "--model", "", says="the name of the model's directory is empty")
        self.refuse(1, "eval", "--model", "", "--tokens", self.train, says="the name of the model's directory is empty")

    def test_more_than_there_is(self):
        self.refuse(1, "bench", "--layer", "1000000x1000000", says="--layer 1000000x1000000: 2 copies")
        for option in ("--prefill", "--decode"):
            for tokens in ("65", "1000000000000", "18446744073709551615"):
                self.refuse(1, "bench", "--model", self.model, option, tokens, says=f"{option}: must be at most")

    def sparse_text(self, size):
        path = self.tmp / "sparse"
        path.write_bytes(b"")
        os.truncate(path, size)
        return path

    def test_memory_that_is_not_there(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        if support.call("--version", preexec_fn=limit).returncode != 0:
            self.skipTest("this build reserves more memory than the test allows")
        model = self.write("long", config=small_config(max_position_embeddings=2**24))
        self.refuse(1, "generate", "--model", model, "--prompt", "a", "--tokens", "16777000", preexec_fn=limit,
                    says="a smaller --tokens needs less")
        self.refuse(1, "eval", "--model", model, "--tokens", self.sparse_text(2**24), "--context", "16777216", "--sequences", "1",
                    preexec_fn=limit, says="a smaller --context needs less")
        done = support.call("inspect", "--model", model, preexec_fn=limit)
        self.assertNotIn("--context", done.stderr)

    def test_what_the_model_does_not_allow(self):
        for arguments, says in ([["--pattern", "2:5"], "2:5"],  # divides neither 24 nor 44
                                [["--pattern", "4:8"], "4:8"],  # 44
                                [["--sparsity", "0.5", "--mean-rank", "13", "--method", "uniform"], "rank"],  # kv is 12
                                [["--sparsity", "0.5", "--mean-rank", "500"], "rank"],
                                [["--sparsity", "0.5", "--skip", "."], "skip"],
                                [["--sparsity", "0.5", "--calibration-context", "65"], "65"],
                                [["--sparsity", "0.5", "--context", "65", "--train-tokens", "130"], "65"],
                                [["--sparsity", "0.5", "--calibration-sequences", "1000000"], ""],
                                [["--sparsity", "0.5", "--hold-out", "0.001"], "hold-out"]):
            with self.subTest(arguments=arguments):
                self.refuse(1, *self.adapt(self.model, *arguments), says=says)
                self.assertFalse(self.out.exists())
        self.refuse(1, "eval", "--model", self.model, "--tokens", self.train, "--context", "65",
                    says=f"--context 65 exceeds max_position_embeddings 64 of {self.model}")
        says = f"{self.train}: its 4000 tokens hold 80 sequences of --context 50, --sequences asks for 81; give fewer, or all"
        self.refuse(1, *self.evaluate(self.model)[:-1], "81", says=says)
        few = support.write_tokens(self.tmp / "few", 49)
        for sequences in ("1", "all"):
            self.refuse(1, "eval", "--model", self.model, "--tokens", few, "--context", "50", "--sequences", sequences,
                        says=f"{few}: its 49 tokens hold 0 sequences of --context 50")

    def test_token_files(self):
        empty, short = self.tmp / "empty", self.tmp / "short"
        empty.write_bytes(b"")
        short.write_bytes(b"x" * 40)
        for train in (empty, short, self.tmp / "missing", self.tmp):
            with self.subTest(train=train.name):
                self.refuse_adapt(1, self.model, "--sparsity", "0.5", train=train)
                self.refuse(1, "eval", "--model", self.model, "--tokens", train, "--context", "50")
        odd = self.tmp / "odd"
        odd.write_bytes(b"x" * 4001)
        self.refuse_adapt(1, self.model, "--sparsity", "0.5", "--token-bits", "16", train=odd, says="16-bit")
        large = self.tmp / "large"
        large.write_bytes(np.full(2000, 256, "<u2").tobytes())
        self.refuse_adapt(1, self.model, "--sparsity", "0.5", "--token-bits", "16", train=large, says="vocabulary")
        large.write_bytes(np.full(2000, 2**32 - 1, "<u4").tobytes())
        self.refuse_adapt(1, self.model, "--sparsity", "0.5", "--token-bits", "32", train=large, says="vocabulary")

    def test_questions(self):
        path = self.tmp / "questions.jsonl"
        good = {"context": [1, 2], "choices": [[3], "ab"], "answer": 1}
        ask = ["eval", "--model", self.model, "--choices", path]
        for field, values in {"context": (None, 7, {}, [], "", [256], [-1], [1.5], ["a"], [1] * 64),
                              "choices": (None, "ab", [], [[1]], [[1], []], [[1], 2], [[1], [256]], [[1], [None]]),
                              "answer": (None, 2, -1, 1.0, "1", [1], True)}.items():
            for value in values:
                with self.subTest(field=field, value=value):
                    path.write_text(json.dumps(good) + "\n\n" + json.dumps(good | {field: value}))
                    done = self.refuse(1, *ask, says=field)
                    self.assertIn(f"{path}:3: ", done.stderr)
        for line in (b"{", b"[]", b"7", b"x", b"\xff", b'{"context": [1]} {}', b"[" * 100000, b'{"answer": 1, "answer": 1}'):
            with self.subTest(line=line[:20]):
                path.write_bytes(json.dumps(good).encode() + b"\n" + line)
                self.refuse(1, *ask, says=f"{path}:2: ")
        path.write_text("\n\n")
        self.refuse(1, *ask, says="no questions")
        path.write_text(json.dumps(good))
        self.succeed(*ask)
        model = self.write("wide", config=small_config(vocab_size=300))
        self.refuse(1, "eval", "--model", model, "--choices", path, says="choices[1] is text")
        for path in (self.tmp / "missing", self.tmp):
            self.refuse(1, "eval", "--model", self.model, "--choices", path, says=str(path))

    def test_tokens_outside_a_vocabulary_of_200(self):
        model = self.write("small", config=small_config(vocab_size=200))
        self.refuse_adapt(1, model, "--sparsity", "0.5", says="vocabulary of 200")
        self.refuse(1, *self.evaluate(model), says="vocabulary of 200")
        self.refuse(1, "generate", "--model", model, "--prompt", "П", "--tokens", "3", says="vocabulary of 200")
        ids = self.tmp / "ids"
        ids.write_bytes(np.array([1, 2, 200], np.uint8).tobytes())
        self.refuse(1, "generate", "--model", model, "--prompt-tokens", ids, "--tokens", "3", says="vocabulary of 200")
        self.refuse(1, "generate", "--model", model, "--prompt-ids", "1,2,200", says="token 2 is 200, outside")
        fine = support.write_tokens(self.tmp / "fine", vocabulary=200)
        self.succeed(*self.adapt(model, "--sparsity", "0.5", train=fine))

    def test_loss_that_is_not_finite(self):
        done = self.refuse(1, *self.adapt(self.model, "--sparsity", "0.5", "--method", "uniform", "--lr", "1e30",
                                          "--train-tokens", "2000"))
        self.assertFalse(self.out.exists())
        self.assertRegex(done.stderr, r"not finite at training step \d+ of")


class Output(BadInputCase):
    def setUp(self):
        super().setUp()
        self.model = self.write()

    def test_json_on_standard_output_is_alone(self):
        self.succeed(*self.adapt(self.model, "--sparsity", "0.5"))
        for arguments in (self.evaluate(self.out), ["inspect", "--model", self.out],
                          ["generate", "--model", self.out, "--prompt", "a", "--tokens", "3"],
                          ["bench", "--model", self.out, "--prefill", "8", "--decode", "2", "--repeats", "1"],
                          self.adapt(self.model, "--sparsity", "0.5", "--resume")):
            with self.subTest(arguments[0]):
                done = self.succeed(*arguments, "--json", "-")
                self.assertIsInstance(json.loads(done.stdout), dict)
                self.assertEqual(done.stderr, "")
        shutil.rmtree(self.out)
        done = self.succeed(*self.adapt(self.model, "--sparsity", "0.5", "--json", "-"))
        self.assertEqual(json.loads(done.stdout), support.report(self.out))
        self.assertEqual(done.stderr, "", "no progress where nobody watches")

    def test_progress_bar_on_a_terminal(self):
        ours, theirs = pty.openpty()
        arguments = self.adapt(self.model, "--sparsity", "0.5", "--train-tokens", "8000")
        with subprocess.Popen([TOOL, *map(str, arguments)], stderr=theirs, stdout=subprocess.DEVNULL) as process:
            os.close(theirs)
            seen = b""
            while True:
                try:
                    part = os.read(ours, 65536)
                except OSError:
                    break
                if not part:
                    break
                seen += part
        os.close(ours)
        self.assertEqual(process.returncode, 0)
        self.assertIn("█".encode(), seen)
        self.assertIn(b"tok/s", seen)
        self.assertIn(b"left", seen)

    def test_help_has_an_example(self):
        for command in [[], *([c] for c in COMMANDS)]:
            done = self.succeed(*command, "--help")
            self.assertRegex(done.stdout, r"Examples?:\n  losa-llama " + " ".join(command))
            if command:
                for option in ("--threads", "--seed", "--json"):
                    self.assertIn(option, done.stdout)
        self.assertRegex(self.succeed("--version").stdout, r"^losa-llama \d+\.\d+\.\d+\n$")

    @unittest.skipUnless(os.path.exists(FULL), "no /dev/full")
    def test_full_devices(self):
        self.succeed(*self.adapt(self.model, "--sparsity", "0.5"))
        for arguments in (self.evaluate(self.model), ["inspect", "--model", self.model]):
            done = support.call(*arguments, "--json", FULL)
            self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)
            self.assertIn(FULL, done.stderr)
            with open(FULL, "w") as full:
                for more in ([], ["--json", "-"]):
                    done = support.call(*arguments, *more, capture_output=False, stdout=full, stderr=subprocess.PIPE)
                    self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)

    @unittest.skipUnless(os.path.exists(FULL), "no /dev/full")
    def test_help_that_nobody_can_read(self):
        for arguments in (["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)):
            with self.subTest(arguments=arguments), open(FULL, "w") as full:
                done = support.call(*arguments, capture_output=False, stdout=full, stderr=subprocess.PIPE)
                self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)

    def every_command(self):
        yield self.adapt(self.model, "--sparsity", "0.5")
        yield self.evaluate(self.model)
        yield ["generate", "--model", self.model, "--prompt", "a", "--tokens", "3"]
        yield ["bench", "--model", self.model, "--repeats", "1"]
        yield ["inspect", "--model", self.model]

    def test_instruction_set_that_is_not_there(self):
        for arguments in self.every_command():
            with self.subTest(arguments[0]):
                self.refuse(1, *arguments, env=os.environ | {"LOSA_ISA": "foo"}, says="LOSA_ISA")
        self.assertFalse(self.out.exists())

    def test_json_is_tried_before_the_work(self):
        kept = self.tmp / "kept.json"
        kept.write_text("before")
        shutil.rmtree(self.model)
        before = sorted(self.tmp.rglob("*"))
        for arguments in self.every_command():
            for path in (self.tmp / "no" / "file.json", self.tmp, "/proc/file.json"):
                with self.subTest(arguments[0], json=path):
                    self.refuse(1, *arguments, "--json", path, says=f"{path}: cannot open for writing")
            self.refuse(1, *arguments, "--json", kept, says=str(self.model))
            self.refuse(1, *arguments, "--json", self.tmp / "new.json", says=str(self.model))
        self.assertEqual(kept.read_text(), "before")
        self.assertEqual(sorted(self.tmp.rglob("*")), before)

    def test_json_into_a_named_pipe(self):
        pipe = self.tmp / "pipe"
        os.mkfifo(pipe)
        with subprocess.Popen([TOOL, "inspect", "--model", self.model, "--json", pipe], stdout=subprocess.DEVNULL) as process:
            self.assertIn("layers", json.loads(pipe.read_text()))
        self.assertEqual(process.returncode, 0)

    def test_files_larger_than_the_limit(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
        logits = self.tmp / "logits"
        self.refuse(1, *self.evaluate(self.model, "--logits", logits), preexec_fn=limit, says="File too large")
        self.assertEqual([p.name for p in self.tmp.iterdir() if p.name.startswith((".losa-", "logits"))], [])

    def test_interrupted_text(self):
        model = self.write("long", config=small_config(max_position_embeddings=2**20))
        arguments = ["generate", "--model", model, "--prompt", "abc", "--tokens", "500000"]
        for which in (signal.SIGINT, signal.SIGTERM):
            with subprocess.Popen([TOOL, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                seen = process.stdout.read(20)
                process.send_signal(which)
                rest, told = process.communicate(timeout=60)
            self.assertEqual((process.returncode, told), (128 + which, b"losa-llama: stopped\n"))
            self.assertTrue(seen.startswith(b"abc") and rest.endswith(b"\n"))

    def test_full_disk(self):
        if os.geteuid() != 0:
            self.skipTest("only root can mount a small file system; resume_test.py fills disks another way")
        disk = self.tmp / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True)
        if mounted.returncode != 0:
            self.skipTest("mounting is not allowed here; resume_test.py fills disks another way")
        self.addCleanup(subprocess.run, ["umount", disk])
        self.out = disk / "out"
        self.refuse(1, *self.adapt(self.model, "--sparsity", "0.5"), says="space")
        self.assertFalse((self.out / "report.json").exists())
        self.assertFalse((self.out / "model.safetensors").exists())

    def test_outputs_that_cannot_be_written(self):
        for path in ("/proc/out", "/dev/null/out", str(self.train / "out")):
            self.out = self.tmp / path
            with self.subTest(path):
                done = support.call(*self.adapt(self.model, "--sparsity", "0.5"))
                self.assertIn(done.returncode, (1, 2))
                self.assertEqual((done.stdout, done.stderr.count("\n")), ("", 1), done.stderr)
        for path in (self.tmp, self.tmp / "no" / "file.json", "/proc/file.json"):
            with self.subTest(json=path):
                done = support.call(*self.evaluate(self.model, "--json", path))
                self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)
                done = support.call(*self.evaluate(self.model, "--logits", path))
                self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)

    def test_json_file_is_replaced_whole(self):
        path = self.tmp / "result.json"
        path.write_text("before")
        self.succeed(*self.evaluate(self.model, "--json", path))
        self.assertIn("perplexity", json.loads(path.read_text()))
        self.assertEqual([p.name for p in self.tmp.iterdir() if p.name.startswith(".losa-")], [])
        link = self.tmp / "link.json"
        link.symlink_to(path)
        self.succeed("inspect", "--model", self.model, "--json", link)
        self.assertTrue(link.is_symlink())
        self.assertIn("layers", json.loads(path.read_text()))


if __name__ == "__main__":
    support.main()
