"""Reads a compressed checkpoint with compressed-tensors, checks it, and compresses the same weights again.

    python compressed_roundtrip.py OURS THEIRS

OURS holds config.json and model.safetensors, compressed by losa, and dense.safetensors with the weights that must come
out. THEIRS receives model.safetensors, the same weights as the package's own compressor writes them. Where the package
is missing, it is installed into a virtual environment below the current directory, which takes a while once.
"""

import json
import os
import pathlib
import subprocess
import sys

PACKAGES = ["compressed-tensors==0.14.0.1", "transformers<5", "torch", "safetensors", "numpy", "psutil"]

try:
    import compressed_tensors
    import torch
    from compressed_tensors.compressors import ModelCompressor
    from safetensors.torch import load_file, save_file
except ImportError:
    venv = pathlib.Path("venv-compressed-tensors").absolute()
    python = venv / "bin" / "python"
    if pathlib.Path(sys.prefix) == venv:
        raise
    if not python.exists():
        subprocess.check_call([sys.executable, "-m", "venv", venv])
    subprocess.check_call([python, "-m", "pip", "install", "--quiet", *PACKAGES])
    os.execv(python, [python, *sys.argv])


def same_bits(a, b):
    """Equal shapes, types and bits, the sign of zeros aside: a decompressor fills in +0."""
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def main():
    ours, theirs = (pathlib.Path(argument) for argument in sys.argv[1:3])
    config = json.loads((ours / "config.json").read_text())
    compressor = ModelCompressor.from_compression_config(config["quantization_config"])
    if compressor.quantization_config is not None:
        sys.exit("config.json is taken for that of a quantised model")
    if compressor.sparsity_config.format != "sparse-bitmask":
        sys.exit(f"format is {compressor.sparsity_config.format}")

    dense = load_file(ours / "dense.safetensors")
    read = dict(compressor.sparsity_compressor.decompress(str(ours)))
    if read.keys() != dense.keys():
        sys.exit(f"read {sorted(read)}, expected {sorted(dense)}")
    for name, value in dense.items():
        if not same_bits(read[name], value):
            sys.exit(f"{name} differs")

    targets = set(config["quantization_config"]["sparsity_config"]["targets"])
    again = compressor.sparsity_compressor.compress(dense, compression_targets=targets)
    theirs.mkdir(exist_ok=True)
    save_file({
  name: value.contiguous() for name, value in again.items()}, theirs / "model.safetensors")
    print(f"compressed-tensors {compressed_tensors.__version__}: {len(dense)} tensors read")


if __name__ == "__main__":
    main()
