"""Writes tests/data/smollm2_logits.json from PyTorch; needs cmake/setup.sh --with-smollm2 --with-torch.

    build/venv/bin/python examples/llama/tools/smollm2.py
    build/venv/bin/python tests/e2e/smollm2_fixture.py
"""

import json
import pathlib

import numpy as np

import torch_llama

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "build" / "smollm2"
TOKENS = 12
POSITIONS = (2, 6, 11)
TOP = 16
SPREAD = 32  # ids at equal distances, whatever their logits


def main():
    prompt = np.fromfile(MODEL / "test.u16", "<u2")[:TOKENS]
    logits = torch_llama.logits(MODEL / "model", prompt)
    vocabulary = logits.shape[1]
    fixed = np.arange(SPREAD) * (vocabulary // SPREAD)
    positions = []
    for position in POSITIONS:
        row = logits[position]
        ids = np.concatenate([np.argsort(-row, kind="stable")[:TOP], fixed])
        positions.append({"position": position, "ids": ids.tolist(), "logits": [round(float(row[i]), 5) for i in ids]})
    fixture = {"made by": "tests/e2e/smollm2_fixture.py", "prompt": prompt.tolist(), "top": TOP, "positions": positions}
    path = ROOT / "tests" / "data" / "smollm2_logits.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(fixture) + "\n")


if __name__ == "__main__":
    main()
