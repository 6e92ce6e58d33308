"""A Llama forward pass in NumPy, written from the architecture's definition and sharing no code with the engine.

    python3 numpy_llama.py DIR TOKENS [--context 128]    prints the mean negative log likelihood of the first sequence

Reads dense Hugging Face directories. Everything is computed in double precision, sequence by sequence.
"""

import argparse
import json
import pathlib

import numpy as np

import support


def frequencies(config, size):
    """Angle per position of each pair of a head, with the scaling of config.json."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    plain = (rope.get("rope_theta") or config["rope_theta"]) ** (-np.arange(0, size, 2) / size)
    kind = rope.get("rope_type") or rope.get("type")
    if kind == "linear":
        return plain / rope["factor"]
    if kind == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        turns = rope["original_max_position_embeddings"] * plain / (2 * np.pi)
        kept = np.clip((turns - low) / (high - low), 0, 1)
        return kept * plain + (1 - kept) * plain / rope["factor"]
    return plain


class Llama:
    def __init__(self, directory):
        directory = pathlib.Path(directory)
        self.config = json.loads((directory / "config.json").read_text())
        stored = support.read_checkpoint(directory)
        self.weights = {name: tensor.numbers().astype(np.float64) for name, tensor in stored.items()}

    def norm(self, x, name):
        root_mean_square = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.config["rms_norm_eps"])
        return x / root_mean_square * self.weights[name]

    def linear(self, x, name):
        return x @ self.weights[name + ".weight"].T + self.weights.get(name + ".bias", 0.0)

    @staticmethod
    def rotate(x, angles):
        """Rotary embedding: element i of the first half of a head turns with element i of the second half."""
        half = x.shape[-1] // 2
        first, second = x[..., :half], x[..., half:]
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def attention(self, x, prefix):
        config, tokens = self.config, len(x)
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        size = config.get("head_dim") or config["hidden_size"] // heads

        def project(name, count):  # (count, tokens, size)
            y = self.linear(x, f"{prefix}self_attn.{name}_proj")
            return y.reshape(tokens, count, size).transpose(1, 0, 2)

        angles = np.arange(tokens)[:, None] * frequencies(config, size)[None, :]
        q = self.rotate(project("q", heads), angles)
        k = self.rotate(project("k", kv_heads), angles)
        v = project("v", kv_heads)
        shared = np.arange(heads) // (heads // kv_heads)  # the key and value head that each query head reads
        scores = q @ k[shared].transpose(0, 2, 1) / np.sqrt(size)
        scores = np.where(np.tril(np.ones((tokens, tokens), bool)), scores, -np.inf)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = scores / scores.sum(axis=-1, keepdims=True) @ v[shared]
        joined = mixed.transpose(1, 0, 2).reshape(tokens, heads * size)
        return self.linear(joined, prefix + "self_attn.o_proj")

    def feed_forward(self, x, prefix):
        g = self.linear(x, prefix + "mlp.gate_proj")
        return self.linear(g / (1 + np.exp(-g)) * self.linear(x, prefix + "mlp.up_proj"), prefix + "mlp.down_proj")

    def logits(self, tokens):
        """(tokens, vocabulary) for one sequence."""
        x = self.weights["model.embed_tokens.weight"][tokens]
        for block in range(self.config["num_hidden_layers"]):
            prefix = f"model.layers.{block}."
            x = x + self.attention(self.norm(x, prefix + "input_layernorm.weight"), prefix)
            x = x + self.feed_forward(self.norm(x, prefix + "post_attention_layernorm.weight"), prefix)
        tied = self.config.get("tie_word_embeddings", False)
        head = "model.embed_tokens.weight" if tied else "lm_head.weight"
        return self.norm(x, "model.norm.weight") @ self.weights[head].T


def mean_nll(logits, tokens):
    """Of every token but the first."""
    logits, wanted = logits[:-1], tokens[1:]
    top = logits.max(axis=-1)
    log_sum = top + np.log(np.exp(logits - top[:, None]).sum(axis=-1))
    return float(np.mean(log_sum - logits[np.arange(len(wanted)), wanted]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("tokens")
    parser.add_argument("--context", type=int, default=128)
    arguments = parser.parse_args()
    ids = np.fromfile(arguments.tokens, np.uint8)[: arguments.context]
    print(mean_nll(Llama(arguments.model).logits(ids), ids))
