"""What the end-to-end tests of losa-llama share: calling it, safetensors by hand, small random models."""

import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
TINY = HERE.parents[1] / "examples" / "data" / "tiny"
TOOL = os.environ.get("LOSA_LLAMA", "losa-llama")

# Few calibration tokens: these tests are about exactness, not about quality.
QUICK = ["--calibration-sequences", "4", "--calibration-context", "32"]


def call(*arguments, **options):
    """Runs losa-llama; the result has returncode, stdout, stderr."""
    command = [TOOL, *map(str, arguments)]
    options = {"capture_output": True, "text": True, "timeout": 600} | options
    return subprocess.run(command, **options)


class TestCase(unittest.TestCase):
    """A test with a scratch directory of its own, `self.tmp`."""

    def setUp(self):
        self.tmp = pathlib.Path(tempfile.mkdtemp(prefix="losa-e2e-"))
        self.addCleanup(shutil.rmtree, self.tmp, ignore_errors=True)

    def succeed(self, *arguments, **options):
        done = call(*arguments, **options)
        self.assertEqual(done.returncode, 0, f"{' '.join(map(str, arguments))}: {done.stderr}")
        return done

    def refuse(self, code, *arguments, says="", **options):
        """One line on standard error that no terminal obeys, nothing on standard output, and this exit code."""
        done = call(*arguments, **options)
        told = f"{' '.join(map(str, arguments))}\nexit {done.returncode}, stderr {done.stderr!r}, stdout {done.stdout!r}"
        self.assertEqual(done.returncode, code, told)
        self.assertEqual(done.stderr.count("\n"), 1, told)
        self.assertFalse([c for c in done.stderr[:-1] if ord(c) < 32 or 127 <= ord(c) < 160], told)
        self.assertTrue(done.stderr.startswith("losa-llama: ") and done.stderr.endswith("\n"), told)
        self.assertFalse(done.stdout, told)
        self.assertIn(says.lower(), done.stderr.lower(), told)
        return done

    def assert_same_files(self, left, right, skip=("report.json",)):
        """Two directories hold the same files with the same bytes."""
        names = files_below(left)
        self.assertEqual(names, files_below(right))
        for name in names:
            if name not in skip:
                same = (left / name).read_bytes() == (right / name).read_bytes()
                self.assertTrue(same, f"{name} differs between {left} and {right}")

    def assert_same_result(self, left, right):
        """Two outputs of `adapt` are the same bit for bit, the object `run` of report.json aside."""
        self.assert_same_files(left, right)
        self.assertEqual(report_text(left), report_text(right))


def files_below(directory):
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


def report(directory):
    return json.loads((directory / "report.json").read_text())


def report_text(directory):
    """report.json without its object `run`, as it was written: text, so that no digit is lost."""
    text = (directory / "report.json").read_text()
    head, found, tail = text.partition('\n "run": {')
    assert found and tail.endswith("}\n}\n"), "report.json ends with the object run"
    return head


# ---- safetensors ------------------------------------------------------------------------------------------------


def to_bf16(values):
    """float32 → the bits of bfloat16, rounded to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


class Stored:
    """One tensor as a file holds it."""

    def __init__(self, dtype, shape, data):
        self.dtype, self.shape, self.data = dtype, tuple(shape), bytes(data)

    @staticmethod
    def of(values, dtype="F32"):
        values = np.asarray(values)
        if dtype == "BF16":
            return Stored(dtype, values.shape, to_bf16(values).tobytes())
        kind = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "U8": "u1"}[dtype]
        return Stored(dtype, values.shape, values.astype(kind).tobytes())

    def numbers(self):
        if self.dtype == "BF16":
            return from_bf16(np.frombuffer(self.data, "<u2")).reshape(self.shape)
        kind = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "U8": "u1"}[self.dtype]
        return np.frombuffer(self.data, kind).reshape(self.shape)


def write_safetensors(path, tensors, metadata=None):
    header, at = {}, 0
    if metadata:
        header["__metadata__"] = metadata
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + len(tensor.data)],
        }
        at += len(tensor.data)
    write_raw_safetensors(path, json.dumps(header).encode(), b"".join(t.data for t in tensors.values()))


def write_raw_safetensors(path, header, data, length=None):
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)


def read_header(path):
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def read_safetensors(path):
    header, data = read_header(path)
    header.pop("__metadata__", None)
    return {
        name: Stored(entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }


def read_checkpoint(directory):
    """Every tensor of a directory with model.safetensors or an index of shards."""
    index = directory / "model.safetensors.index.json"
    if not index.exists():
        return read_safetensors(directory / "model.safetensors")
    tensors = {}
    for name in sorted(set(json.loads(index.read_text())["weight_map"].values())):
        tensors |= read_safetensors(directory / name)
    return tensors


# ---- models -----------------------------------------------------------------------------------------------------

LINEARS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
LINEARS += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


def small_config(**changes):
    """Odd shapes, grouped-query attention, a head of its own."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 24,
        "intermediate_size": 44,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "vocab_size": 256,
    }
    config.update(changes)
    return config


def linear_shapes(config):
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    query = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    shapes = [(query, hidden), (kv, hidden), (kv, hidden), (hidden, query)]
    return dict(zip(LINEARS, shapes + [(wide, hidden), (wide, hidden), (hidden, wide)]))


def random_tensors(config, seed=0, dtype="F32"):
    random = np.random.default_rng(seed)

    def normal(*shape):
        return Stored.of(random.standard_normal(shape) / np.sqrt(shape[-1]), dtype)

    def around_one(size):
        return Stored.of(1 + 0.1 * random.standard_normal(size), dtype)

    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    tensors = {"model.embed_tokens.weight": normal(vocabulary, hidden)}
    for block in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{block}."
        tensors[prefix + "input_layernorm.weight"] = around_one(hidden)
        for name, shape in linear_shapes(config).items():
            tensors[prefix + name + ".weight"] = normal(*shape)
            if config.get("attention_bias" if "attn" in name else "mlp_bias"):
                tensors[prefix + name + ".bias"] = normal(shape[0])
        tensors[prefix + "post_attention_layernorm.weight"] = around_one(hidden)
    tensors["model.norm.weight"] = around_one(hidden)
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = normal(vocabulary, hidden)
    return tensors


def write_model(directory, config=None, tensors=None, shards=1, dtype="F32", seed=0):
    """A Hugging Face directory; returns its path."""
    config = config or small_config()
    tensors = tensors or random_tensors(config, seed, dtype)
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    if shards == 1:
        write_safetensors(directory / "model.safetensors", tensors)
        return directory
    weight_map = {}
    names = list(tensors)
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        write_safetensors(directory / file, part, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(len(t.data) for t in tensors.values())}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def write_tokens(path, count=4000, vocabulary=256, seed=1):
    """A file of 8-bit tokens with some structure, so that training has something to learn; returns its path."""
    random = np.random.default_rng(seed)
    steps = random.choice([1, 2, 3, 17], size=count, p=[0.5, 0.25, 0.15, 0.1])
    path.write_bytes((np.cumsum(steps) % vocabulary).astype(np.uint8).tobytes())
    return path


def main():
    if shutil.which(TOOL) is None:
        sys.exit("set LOSA_LLAMA to the program to test")
    unittest.main(verbosity=2)
