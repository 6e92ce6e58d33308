#!/usr/bin/env python3
"""Trains the small language model that the examples carry in examples/data/tiny.

The model is a Llama of 1.14 million parameters that reads bytes: a vocabulary of 256, so no
tokenizer, and 2.3 MB of bf16 weights, small enough to be kept with the sources. It has the layout
of a Hugging Face checkpoint: whatever reads a large Llama reads it.

Requirements: Python 3.10 or later, a C++ compiler (for torch.compile), and the PyPI packages torch,
numpy, safetensors and rdata (the last only for --text). The defaults, seed 1 among them, are those
of the kept weights: 2100 steps of 8192 bytes, 0.3 s a step on two idle cores that have AMX, so some
12 minutes (--state keeps progress where the cores are not idle). Another processor sums in another
order, so its weights differ; expect 1.78 bits per byte (perplexity 3.4) on test.txt.

Text: the novels of Jane Austen, from the R package janeaustenr (Debian: r-cran-janeaustenr):

    apt-get download r-cran-janeaustenr
    dpkg-deb -x r-cran-janeaustenr_*.deb austen
    python3 train_tiny.py --text austen/usr/lib/R/site-library/janeaustenr

Without --text, the train.txt and test.txt that the output folder already has are used. The LICENSE
beside them is kept by hand.
"""

import argparse
import json
import math
import pathlib
import re
import time
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
    "vocab_size": 256, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "max_position_embeddings": 512, "rope_theta": 10000.0, "rope_scaling": None,
    "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": True,
    "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
    "initializer_range": 0.02, "use_cache": True,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}
TRAIN_BOOKS = ["sensesensibility", "prideprejudice", "emma", "northangerabbey"]
TEST_BOOK = "persuasion"


def read_books(package):
    """The novels as lists of lines. R keeps a package's data as a file of compressed objects
    (Rdata.rdb: for each, its length in 4 bytes, then a zlib stream) and an index (Rdata.rdx)."""
    import rdata
    index = rdata.read_rds(package / "data" / "Rdata.rdx")["variables"]
    blob = (package / "data" / "Rdata.rdb").read_bytes()
    books = {}
    for name, (start, size) in index.items():
        raw = zlib.decompress(blob[start + 4:start + size])
        parsed = rdata.parser.parse_data(raw, extension=".rds")
        books[str(name)] = [str(line) for line in rdata.conversion.convert(parsed)]
    return books


def clean(lines):
    """One paragraph a line, without the underscores that mark italics, and in ASCII (which but for
    one sign of the pound the text is already)."""
    text = "\n".join(lines).replace("_", "").replace("\u00a3", "L")
    paragraphs = [re.sub(r"\s+", " ", p).strip() for p in re.split(r"\n\s*\n", text)]
    return "\n".join(p for p in paragraphs if p) + "\n"


def write_text(package, out):
    books = {name: clean(lines) for name, lines in read_books(package).items()}
    (out / "train.txt").write_text("".join(books[name] for name in TRAIN_BOOKS), newline="\n")
    (out / "test.txt").write_text(books[TEST_BOOK], newline="\n")


def read_bytes(path):
    return torch.from_numpy(np.fromfile(path, dtype=np.uint8).astype(np.int64))


def initial_weights(c):
    """Every tensor under its Hugging Face name. Matrices that write into the residual stream start
    smaller, so that the stream's variance does not grow with depth."""
    d, ff, std = c["hidden_size"], c["intermediate_size"], c["initializer_range"]
    q, kv = (c[f"num_{n}_heads"] * c["head_dim"] for n in ("attention", "key_value"))
    shapes = {"self_attn.q_proj": (q, d), "self_attn.k_proj": (kv, d), "self_attn.v_proj": (kv, d),
              "self_attn.o_proj": (d, q), "mlp.gate_proj": (ff, d), "mlp.up_proj": (ff, d),
              "mlp.down_proj": (d, ff)}
    w = {"model.embed_tokens.weight": torch.randn(c["vocab_size"], d) * std}
    for layer in range(c["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for name, shape in shapes.items():
            writes = 2 * c["num_hidden_layers"] if name.endswith(("o_proj", "down_proj")) else 1
            w[f"{at}{name}.weight"] = torch.randn(shape) * (0.05 / math.sqrt(writes))
        w[at + "input_layernorm.weight"] = torch.ones(d)
        w[at + "post_attention_layernorm.weight"] = torch.ones(d)
    w["model.norm.weight"] = torch.ones(d)
    return w


def rotate(x, cos, sin):
    """RoPE in the rotate-half layout: dimension i is paired with dimension i + head_dim / 2."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def forward(w, ids, c=CONFIG):
    """Logits of shape (batch, length, vocabulary)."""
    batch, length = ids.shape
    heads, kv_heads, dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    inverse = c["rope_theta"] ** (-torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    angle = torch.arange(length, dtype=torch.float32)[:, None] * inverse
    cos, sin = angle.cos(), angle.sin()

    def norm(x, name):
        return F.rms_norm(x.float(), (x.shape[-1],), w[name], c["rms_norm_eps"])

    def split(x, count):
        return x.view(batch, length, count, dim).transpose(1, 2)

    x = F.embedding(ids, w["model.embed_tokens.weight"])
    for layer in range(c["num_hidden_layers"]):
        at = f"model.layers.{layer}."

        def project(x, name):
            return F.linear(x, w[f"{at}{name}.weight"])

        h = norm(x, at + "input_layernorm.weight")
        q = rotate(split(project(h, "self_attn.q_proj"), heads), cos, sin)
        k = rotate(split(project(h, "self_attn.k_proj"), kv_heads), cos, sin)
        v = split(project(h, "self_attn.v_proj"), kv_heads)
        k, v = (t.float().repeat_interleave(heads // kv_heads, dim=1) for t in (k, v))
        with torch.autocast("cpu", enabled=False):
            h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + project(h.transpose(1, 2).reshape(batch, length, -1), "self_attn.o_proj")
        h = norm(x, at + "post_attention_layernorm.weight")
        h = F.silu(project(h, "mlp.gate_proj")) * project(h, "mlp.up_proj")
        x = x + project(h, "mlp.down_proj")
    return F.linear(norm(x, "model.norm.weight"), w["model.embed_tokens.weight"])


@torch.no_grad()
def bits_per_byte(w, data, length=512, sequences=32):
    """Mean over non-overlapping sequences from the start of the data; a sequence's first byte is
    given, so each counts length - 1 predictions."""
    ids = data[:length * sequences].view(-1, length)
    total = sum(F.cross_entropy(forward(w, row[None, :-1])[0].float(), row[1:], reduction="sum")
                for row in ids)
    return float(total) / (ids.shape[0] * (length - 1)) / math.log(2)


@torch.no_grad()
def sample(w, prompt, count, temperature, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = list(prompt.encode())
    for _ in range(count):
        logits = forward(w, torch.tensor([ids[-CONFIG["max_position_embeddings"]:]]))[0, -1].float()
        p = F.softmax(logits / max(temperature, 1e-4), dim=-1)
        ids.append(int(torch.multinomial(p, 1, generator=generator)))
    return bytes(ids).decode(errors="replace")


def learning_rate(step, o):
    """100 steps of warm-up, a plateau, and a linear fall to zero over the last steps."""
    return o.lr * min((step + 1) / 100, 1.0, (o.steps - step) / o.decay)


def train(o, data, test):
    """Sequences are short on the plateau, where attention to 512 bytes would only cost time, and
    twice as long in the decay: the model is of no use at positions that it has never seen."""
    torch.manual_seed(o.seed)
    w = initial_weights(CONFIG)
    for t in w.values():
        t.requires_grad_(True)
    groups = [{"params": [t for t in w.values() if t.dim() == dim], "weight_decay": decay}
              for dim, decay in ((2, 0.1), (1, 0.0))]
    optimizer = torch.optim.AdamW(groups, lr=o.lr, betas=(0.9, 0.98), fused=True)

    def loss_of(ids):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = forward(w, ids[:, :-1])
        return F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())

    step_loss = torch.compile(loss_of, dynamic=False)
    pick = torch.Generator().manual_seed(o.seed)
    first, began = 0, time.time()
    if o.state and o.state.exists():
        first, weights, moments, chosen = torch.load(o.state)
        optimizer.load_state_dict(moments)
        pick.set_state(chosen)
        for name, t in w.items():
            t.data.copy_(weights[name])
    for step in range(first, o.steps):
        grow = 2 if step >= o.steps - o.decay else 1
        batch, context = o.batch // grow, o.context * grow
        starts = torch.randint(len(data) - context, (batch, 1), generator=pick)
        loss = step_loss(data[starts + torch.arange(context + 1)])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(w.values(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, o)
        optimizer.step()
        if (step + 1) % 100 == 0:
            held = bits_per_byte(w, test, context, 8192 // context)
            print(f"step {step + 1:5d}  train {loss.item() / math.log(2):.4f} bits  "
                  f"test {held:.4f} bits  {time.time() - began:.0f} s", flush=True)
            if o.state:
                torch.save((step + 1, w, optimizer.state_dict(), pick.get_state()), o.state)
    return {name: t.detach() for name, t in w.items()}


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    here = pathlib.Path(__file__).resolve().parent
    p.add_argument("--out", type=pathlib.Path, default=here / "tiny")
    p.add_argument("--text", type=pathlib.Path, help="the unpacked R package janeaustenr")
    p.add_argument("--state", type=pathlib.Path, help="file to save progress in and to resume from")
    p.add_argument("--steps", type=int, default=2100)
    p.add_argument("--decay", type=int, default=500, help="last steps, where the rate falls to 0")
    p.add_argument("--batch", type=int, default=32, help="sequences a step")
    p.add_argument("--context", type=int, default=256, help="bytes a sequence")
    p.add_argument("--lr", type=float, default=4e-3)
    p.add_argument("--seed", type=int, default=1)
    o = p.parse_args()

    o.out.mkdir(parents=True, exist_ok=True)
    if o.text:
        write_text(o.text, o.out)
    test = read_bytes(o.out / "test.txt")
    weights = train(o, read_bytes(o.out / "train.txt"), test)
    print(f"f32   {bits_per_byte(weights, test):.4f} bits per byte")
    rounded = {name: t.to(torch.bfloat16).contiguous() for name, t in weights.items()}
    save_file(rounded, o.out / "model.safetensors", metadata={"format": "pt"})
    (o.out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    weights = {n: t.float() for n, t in load_file(o.out / "model.safetensors").items()}
    bits = bits_per_byte(weights, test)
    print(f"bf16  {bits:.4f} bits per byte, perplexity {2 ** bits:.4f} on the first 32 sequences "
          f"of 512 bytes of test.txt; {sum(t.numel() for t in weights.values())} parameters")
    for temperature in (0.0, 0.8):
        for prompt in ("She had been ", "Mr. Elliot "):
            text = sample(weights, prompt, 400, temperature, seed=1)
            print(f"\n--- temperature {temperature}\n{text}")


if __name__ == "__main__":
    main()
