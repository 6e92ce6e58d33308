"""Makes a Llama directory with random weights, of any shape, without ever holding more than a small pool in memory.

    python random_model.py --shape 7b --dtype bf16 --out build/random-7b
    python random_model.py --shape 1.1b --blocks 4 --out build/random-1.1b-4
    python random_model.py --shape 135m --hidden 256 --heads 8 --kv-heads 8 --out build/random-small

Writes config.json, the weights (several files and an index where they exceed --shard-bytes), and a file of random
tokens, tokens.u16 (.u8 or .u32 where the vocabulary needs it). Linear layers are Gaussian with standard deviation
1/sqrt(inputs), norms are 1. The numbers are one pool, repeated from another place for every tensor: fit for measuring
speed and memory, not for anything that learns. Needs NumPy.
"""
import argparse
import json
import math
import pathlib
import shutil
import struct
import sys

import numpy as np

SHAPES = {
    "135m": {"hidden": 576, "intermediate": 1536, "blocks": 30, "heads": 9, "kv_heads": 3, "vocab": 49152, "tied": 1},
    "1.1b": {"hidden": 2048, "intermediate": 5632, "blocks": 22, "heads": 32, "kv_heads": 4, "vocab": 32000, "tied": 0},
    "7b": {"hidden": 4096, "intermediate": 11008, "blocks": 32, "heads": 32, "kv_heads": 32, "vocab": 32000, "tied": 0},
}
DTYPES = {"f32": ("F32", "float32", 4), "bf16": ("BF16", "bfloat16", 2), "f16": ("F16", "float16", 2)}
POOL = 4_194_301  # a prime: no two rows of a matrix begin at the same place of the pool


class Weights:
    """Streams of Gaussian numbers in the bytes of a data type."""

    def __init__(self, dtype, seed):
        self.dtype = dtype
        self.random = np.random.default_rng(seed)
        self.pool = self.random.standard_normal(POOL, dtype=np.float32)
        self.scaled = {}  # inputs: the pool as bytes; a model has a handful of them

    def stored(self, values):
        if self.dtype == "bf16":  # rounded to nearest, ties to even
            bits = values.view(np.uint32)
            return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
        return values.astype("<f4" if self.dtype == "f32" else "<f2")

    def write(self, file, shape):
        count = math.prod(shape)
        if len(shape) == 1:  # a norm
            file.write(self.stored(np.ones(count, np.float32)).tobytes())
            return
        inputs = shape[1]
        if inputs not in self.scaled:
            self.scaled[inputs] = self.stored(self.pool / np.float32(math.sqrt(inputs)))
        pool, at = self.scaled[inputs], int(self.random.integers(POOL))
        while count:
            part = pool[at:at + count]
            file.write(memoryview(part).cast("B"))
            count -= len(part)
            at = 0


def tensors(s):
    """(name, shape) of every tensor, in the order of the forward pass."""
    hidden, wide = s["hidden"], s["intermediate"]
    query, kv = s["head_dim"] * s["heads"], s["head_dim"] * s["kv_heads"]
    yield "model.embed_tokens.weight", (s["vocab"], hidden)
    for block in range(s["blocks"]):
        at = f"model.layers.{block}."
        yield at + "input_layernorm.weight", (hidden,)
        for name, outputs, inputs in (("self_attn.q_proj", query, hidden), ("self_attn.k_proj", kv, hidden),
                                      ("self_attn.v_proj", kv, hidden), ("self_attn.o_proj", hidden, query),
                                      ("mlp.gate_proj", wide, hidden), ("mlp.up_proj", wide, hidden),
                                      ("mlp.down_proj", hidden, wide)):
            yield f"{at}{name}.weight", (outputs, inputs)
        yield at + "post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    if not s["tied"]:
        yield "lm_head.weight", (s["vocab"], hidden)


def shards(everything, size, limit):
    """Cuts the list where the next tensor would take a file beyond `limit` bytes."""
    files, held = [[]], 0
    for name, shape in everything:
        need = math.prod(shape) * size
        if files[-1] and held + need > limit:
            files.append([])
            held = 0
        files[-1].append((name, shape))
        held += need
    return files


def write_shard(path, part, weights):
    kind, _, size = DTYPES[weights.dtype]
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in part:
        end = at + math.prod(shape) * size
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb", buffering=0) as file:
        file = WholeWriter(file)
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape in part:
            weights.write(file, shape)


class WholeWriter:
    """Unbuffered files may write less than they are given."""

    def __init__(self, file):
        self.file = file

    def write(self, data):
        data = memoryview(data)
        while data:
            data = data[self.file.write(data):]


def configuration(s, dtype):
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": s["hidden"],
        "intermediate_size": s["intermediate"],
        "num_hidden_layers": s["blocks"],
        "num_attention_heads": s["heads"],
        "num_key_value_heads": s["kv_heads"],
        "head_dim": s["head_dim"],
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": bool(s["tied"]),
        "vocab_size": s["vocab"],
        "torch_dtype": DTYPES[dtype][1],
    }


def write_model(out, s, dtype, shard_bytes, seed, token_count):
    size = DTYPES[dtype][2]
    files = shards(tensors(s), size, shard_bytes)
    weights = Weights(dtype, seed)
    where, total = {}, 0
    for number, part in enumerate(files, 1):
        name = "model.safetensors" if len(files) == 1 else f"model-{number:05}-of-{len(files):05}.safetensors"
        write_shard(out / name, part, weights)
        where |= {tensor: name for tensor, _ in part}
        total += sum(math.prod(shape) for _, shape in part) * size
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    bits = 8 if s["vocab"] <= 1 << 8 else 16 if s["vocab"] <= 1 << 16 else 32
    ids = weights.random.integers(s["vocab"], size=token_count).astype(f"<u{bits // 8}")
    (out / f"tokens.u{bits}").write_bytes(ids.tobytes())
    (out / "config.json").write_text(json.dumps(configuration(s, dtype), indent=2) + "\n")


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text}")
    return value


def shape_of(p, o):
    s = dict(SHAPES[o.shape])
    s |= {key: getattr(o, key) for key in s if getattr(o, key) is not None}
    s["head_dim"] = o.head_dim or s["hidden"] // s["heads"]
    if s["head_dim"] % 2 or not o.head_dim and s["hidden"] % s["heads"]:
        p.error(f"--hidden {s['hidden']} is not an even number for each of {s['heads']} heads, and --head-dim is not one")
    if s["heads"] % s["kv_heads"]:
        p.error(f"--heads {s['heads']} is not a multiple of --kv-heads {s['kv_heads']}")
    return s


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--out", type=pathlib.Path, required=True, help="directory to make; must not exist")
    p.add_argument("--shape", choices=SHAPES, default="1.1b", help="what the next options change (default: 1.1b)")
    for name in ("blocks", "hidden", "intermediate", "heads", "kv-heads", "head-dim", "vocab"):
        p.add_argument(f"--{name}", type=positive)
    p.add_argument("--tied", type=int, choices=(0, 1), help="1: the head is the embedding")
    p.add_argument("--dtype", choices=DTYPES, default="f32")
    p.add_argument("--shard-bytes", type=positive, default=2_000_000_000, help="largest weight file (default: 2 GB)")
    p.add_argument("--tokens", type=positive, default=65536, help="length of the token file")
    p.add_argument("--seed", type=int, default=0)
    o = p.parse_args()
    s = shape_of(p, o)
    if o.out.exists():
        sys.exit(f"random_model: {o.out} exists already")
    aside = o.out.with_name(o.out.name + ".partial")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        need = sum(math.prod(shape) for _, shape in tensors(s)) * DTYPES[o.dtype][2]
        free = shutil.disk_usage(aside).free
        if need > free:
            raise OSError(f"{o.out} needs {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
        write_model(aside, s, o.dtype, o.shard_bytes, o.seed, o.tokens)
        aside.rename(o.out)
    except OSError as why:
        sys.exit(f"random_model: {why}")
    finally:
        shutil.rmtree(aside, ignore_errors=True)


if __name__ == "__main__":
    main()
