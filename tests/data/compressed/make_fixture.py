"""Writes the fixtures beside this script with the compressor of compressed-tensors.

    pip install compressed-tensors==0.14.0.1 torch safetensors      # then again with compressed-tensors==0.8.1
    python make_fixture.py

compressed.safetensors holds what the BitmaskCompressor of 0.14.0.1 makes of five weights and leaves of one bias,
compressed_0.8.1.safetensors what that of 0.8.1 makes of all six, dense.safetensors the weights themselves. The values
are multiples of 1/4, exact in every dtype.
"""

import importlib.metadata
import pathlib

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.config import BitmaskConfig
from safetensors.torch import save_file


def weight(rows, cols, seed, dtype):
    """Mostly zeros, with an empty row, a full row and a kept last column."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-32, 33, (rows, cols), generator=generator).to(torch.float64) / 4
    keep = torch.rand((rows, cols), generator=generator) < 0.4
    keep[0] = False
    keep[-1] = True
    keep[rows // 2, -1] = True
    values[values == 0] = 0.25
    return torch.where(keep, values, torch.zeros_like(values)).to(dtype)


def main():
    here = pathlib.Path(__file__).parent
    dense = {
        "f32.weight": weight(5, 70, 1, torch.float32),
        "bf16.weight": weight(7, 64, 2, torch.bfloat16),
        "f16.weight": weight(4, 13, 3, torch.float16),
        "wide.weight": weight(3, 130, 4, torch.bfloat16),
        "norm.weight": weight(3, 11, 5, torch.bfloat16)[1],
        "f32.bias": torch.arange(5, dtype=torch.float32),
    }
    compressor = BaseCompressor.load_from_registry("sparse-bitmask", config=BitmaskConfig())
    compressed = {name: value.contiguous() for name, value in compressor.compress(dict(dense)).items()}
    save_file(dense, here / "dense.safetensors", {"format": "pt"})
    old = importlib.metadata.version("compressed-tensors") == "0.8.1"
    save_file(compressed, here / ("compressed_0.8.1.safetensors" if old else "compressed.safetensors"), {"format": "pt"})


if __name__ == "__main__":
    main()
