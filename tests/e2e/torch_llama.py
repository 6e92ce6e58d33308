"""The same forward pass in PyTorch with its own operators: f32, and safetensors' own reader of files."""

import json
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import load_file


def logits(directory, tokens):
    """(tokens, vocabulary) for one sequence, as a NumPy array."""
    directory = pathlib.Path(directory)
    config = json.loads((directory / "config.json").read_text())
    weights = {}
    for file in sorted(directory.glob("*.safetensors")):
        weights |= {name: tensor.float() for name, tensor in load_file(file).items()}
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads

    frequency = 1.0 / config["rope_theta"] ** (torch.arange(0, size, 2).double() / size)
    turn = torch.polar(torch.ones(1).double(), torch.outer(torch.arange(len(tokens)).double(), frequency))

    def rotated(x):  # (heads, tokens, size): halves as real and imaginary parts
        turned = torch.complex(*x.double().chunk(2, dim=-1)) * turn
        return torch.cat([turned.real, turned.imag], dim=-1).float()

    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], weights[name], config["rms_norm_eps"])

    x = F.embedding(torch.tensor([int(t) for t in tokens]), weights["model.embed_tokens.weight"])
    for block in range(config["num_hidden_layers"]):
        at = f"model.layers.{block}."
        y = norm(x, at + "input_layernorm.weight")
        q, k, v = (F.linear(y, weights[f"{at}self_attn.{name}_proj.weight"]).unflatten(-1, (-1, size)).transpose(0, 1)
                   for name in "qkv")
        k, v = (t.repeat_interleave(heads // kv_heads, dim=0) for t in (rotated(k), v))
        mixed = F.scaled_dot_product_attention(rotated(q)[None], k[None], v[None], is_causal=True)[0]
        x = x + F.linear(mixed.transpose(0, 1).flatten(1), weights[at + "self_attn.o_proj.weight"])
        y = norm(x, at + "post_attention_layernorm.weight")
        gate, up, down = (weights[f"{at}mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        x = x + F.linear(F.silu(F.linear(y, gate)) * F.linear(y, up), down)
    tied = config.get("tie_word_embeddings", False)
    head = weights["model.embed_tokens.weight" if tied else "lm_head.weight"]
    return F.linear(norm(x, "model.norm.weight"), head).numpy()
