"""Reads a compressed model (sparse-bitmask, as losa and compressed-tensors 0.8 to 0.14 write it) with NumPy alone.

    python read_compressed.py tiny-70/compressed dense     # a dense model that transformers loads

    weights = dict(read_compressed.tensors("tiny-70/compressed"))      # name → array; BF16 as its 16 bits (uint16)
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
    """name → (type, array) of every tensor as the files hold them; values are read when they are used."""
    found = {}
    for path in sorted(pathlib.Path(directory).glob("*.safetensors")):
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            kind = np.dtype(TYPES[entry["dtype"]])
            count = (end - begin) // kind.itemsize
            values = np.memmap(path, kind, "r", 8 + length + begin, count) if count else np.zeros(0, kind)
            found[name] = entry["dtype"], values.reshape(entry["shape"])
    return found


def typed_tensors(directory):
    """(name, type, dense array) of every weight: row r, column c is kept if bit c % 8 of byte c // 8 of row r is 1."""
    found = stored(directory)
    for name, (kind, values) in found.items():
        if name.endswith(".compressed"):
            prefix = name.removesuffix(".compressed")
            shape = found[prefix + ".shape"][1]
            kept = np.unpackbits(found[prefix + ".bitmask"][1], axis=-1, count=int(shape[-1]), bitorder="little")
            dense = np.zeros(shape, values.dtype)
            dense[kept.astype(bool)] = values
            name = prefix if prefix.endswith((".weight", ".bias")) else prefix + ".weight"
            yield name, kind, dense
        elif not name.endswith(PARTS):
            yield name, kind, values


def tensors(directory):
    return ((name, values) for name, _, values in typed_tensors(directory))


def main(source, target):
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and not path.name.endswith(".index.json"):
            shutil.copy(path, target)
    config = json.loads((source / "config.json").read_text())
    config.pop("quantization_config", None)
    config.pop("compression_config", None)
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    header, at, dense = {"__metadata__": {"format": "pt"}}, 0, list(typed_tensors(source))
    for name, kind, values in dense:
        header[name] = {"dtype": kind, "shape": values.shape, "data_offsets": [at, at + values.nbytes]}
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
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
