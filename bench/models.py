"""Time and memory of losa-llama on models from 135M to 7B: one-shot Wanda and SparseGPT, and a training step.

    cmake --preset release && cmake --build --preset release --target losa-llama
    build/venv/bin/python bench/models.py                          7b needs 65 GB of disk
    build/venv/bin/python bench/models.py --shapes 135m 1.1b

The models have random weights (examples/llama/tools/random_model.py, bf16): time and memory do not depend on the
values. Calibration is 8 × 128 tokens, sparsity 50 %; one block of weights is in memory at a time (--memory block), and
nothing is saved to resume from, which for SparseGPT at 7b would be up to 26 GB, twice while it is replaced. The
peak counts pages of the memory-mapped model too, as far as they were resident. A training step is one batch of 1 × 128
tokens, on 50 % Wanda. Writes build/models/models.json and models.md; what is done is kept.
"""
import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CALIBRATION = ["--calibration-sequences", 8, "--calibration-context", 128]
JOBS = {
    "Wanda": ["--method", "prune", "--mask", "wanda"],
    "SparseGPT": ["--method", "prune", "--mask", "sparsegpt"],
    "training step": ["--method", "uniform", "--mask", "wanda", "--train-tokens", 128, "--batch", 1, "--context", 128],
}


def provide(shape, out):
    """The random model; made aside, so that one that was stopped is made again."""
    if not out.exists():
        aside = out.with_suffix(".partial")
        shutil.rmtree(aside, ignore_errors=True)
        subprocess.run([sys.executable, str(ROOT / "examples/llama/tools/random_model.py"), "--shape", shape, "--dtype",
                        "bf16", "--out", str(aside)], check=True)
        aside.rename(out)
    return out


def measure(o, shape, job):
    kept = o.out / f"{shape}-{job.replace(' ', '-')}-{o.threads}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    model = provide(shape, o.out / f"model-{shape}")
    directory = o.out / "result"
    shutil.rmtree(directory, ignore_errors=True)
    arguments = ["adapt", "--model", model, "--train", model / "tokens.u16", "--out", directory, "--sparsity", 0.5,
                 "--memory", "block", "--save-every", 0, "--threads", o.threads, *CALIBRATION, *JOBS[job]]
    began = time.monotonic()
    subprocess.run([str(o.tool), *map(str, arguments)], stdout=subprocess.DEVNULL, check=True)
    wall = time.monotonic() - began
    run = json.loads((directory / "report.json").read_text())["run"]
    written = sum(p.stat().st_size for p in directory.rglob("*") if p.is_file())
    shutil.rmtree(directory)
    result = {"shape": shape, "job": job, "threads": o.threads, "wall_seconds": wall, "seconds": run["seconds"],
              "peak_memory_bytes": run["peak_memory_bytes"], "bytes_written": written,
              "model_bytes": sum(p.stat().st_size for p in model.glob("*.safetensors"))}
    kept.write_text(json.dumps(result))
    return result


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tool", type=pathlib.Path, default=ROOT / "build/release/examples/llama/losa-llama")
    p.add_argument("--shapes", nargs="+", default=["135m", "1.1b", "7b"], choices=["135m", "1.1b", "7b"])
    p.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS), help="7b has no training step")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--out", type=pathlib.Path, default=ROOT / "build/models")
    p.add_argument("--remove-models", action="store_true", help="give the disk back after each shape")
    o = p.parse_args()
    o.out.mkdir(parents=True, exist_ok=True)
    rows = []
    lines = ["| model | weights | job | seconds | of them writing | peak resident memory |", "|---|---|---|---|---|---|"]
    for shape in o.shapes:
        for job in o.jobs:
            if shape == "7b" and job == "training step":
                continue
            r = measure(o, shape, job)
            rows.append(r)
            work = r["seconds"]["train"] if job == "training step" else sum(r["seconds"].values())
            writing = "–" if job == "training step" else f"{r['seconds'].get('write', 0):.0f}"
            lines.append(f"| {shape} | {r['model_bytes'] / 1e9:.2f} GB | {job} | {work:.1f} | {writing} "
                         f"| {r['peak_memory_bytes'] / 1e9:.2f} GB |")
            print(lines[-1], flush=True)
            (o.out / "models.json").write_text(json.dumps(rows, indent=1) + "\n")
            (o.out / "models.md").write_text("\n".join(lines) + "\n")
        if o.remove_models:
            shutil.rmtree(o.out / f"model-{shape}", ignore_errors=True)
    print(f"wrote {o.out / 'models.json'} and models.md")


if __name__ == "__main__":
    main()
