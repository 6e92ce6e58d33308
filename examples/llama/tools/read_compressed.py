"""Reads a compressed model (sparse-bitmask, as losa and compressed-tensors 0.8 to 0.14 write it) with NumPy alone.

    python read_compressed.py tiny-70/compressed dense       # makes a dense model, which transformers loads

    for name, dtype, values in read_compressed.tensors("tiny-70/compressed"): ...      # BF16 as its 16 bits
"""

import json
import pathlib
import shutil
import struct
import sys

import numpy as np

TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "U8": "u1"}
PARTS = (".compressed", ".bitmask", ".row_offsets", ".shape")


def stored(directory):
    """name → (dtype, array) of every tensor as the files hold it, mapped."""
    found = {}
    for path in sorted(pathlib.Path(directory).glob("*.safetensors")):
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        bytes_ = np.memmap(path, "u1", "r", 8 + length) if path.stat().st_size > 8 + length else np.zeros(0, "u1")
        for name, entry in header.items():
            values = bytes_[slice(*entry["data_offsets"])].view(TYPES[entry["dtype"]])
            found[name] = entry["dtype"], values.reshape(entry["shape"])
    return found


def tensors(directory):
    """(name, dtype, dense array) of every weight. Bit c % 8 of byte c // 8 of a row says whether column c is kept."""
    found = stored(directory)
    for name, (dtype, values) in found.items():
        if name.endswith(".compressed"):
            prefix = name.removesuffix(".compressed")
            shape = found[prefix + ".shape"][1]
            kept = np.unpackbits(found[prefix + ".bitmask"][1], axis=-1, count=int(shape[-1]), bitorder="little")
            dense = np.zeros(shape, values.dtype)
            dense[kept.astype(bool)] = values
            yield prefix if prefix.endswith((".weight", ".bias")) else prefix + ".weight", dtype, dense
        elif not name.endswith(PARTS):
            yield name, dtype, values


def main(source, target):
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors", "*.safetensors.index.json"))
    config = json.loads((source / "config.json").read_text())
    for entry in ("quantization_config", "transformers_weights"):
        config.pop(entry, None)
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    header, at, dense = {"__metadata__": {"format": "pt"}}, 0, list(tensors(source))
    for name, dtype, values in dense:
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(target / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, values in dense:
            file.write(values.tobytes())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
    except OSError as error:
        sys.exit(f"read_compressed: {error}")
