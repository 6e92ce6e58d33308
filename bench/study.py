"""The studies of docs/results.md: methods at equal training tokens and trainable parameters.

    cmake --preset release && cmake --build --preset release --target losa-llama
    build/venv/bin/python bench/study.py                     about an hour on two cores; what is done is kept
    build/venv/bin/python bench/study.py --seeds 2 --sparsities 0.7
    build/venv/bin/python bench/study.py --smollm2           three hours: 51,200 tokens, 50 and 70 %, one seed

For every method and sparsity the learning rate is the one of a grid that is best on a held-out tenth of the training
text (seed 0), or the one that --rates gives; then every seed is run at that rate. Test figures come from a text that no choice has seen. A seed sets
the adapters' initialisation and the order of the batches. Writes study.json, study.md and study.png to --out
(build/study, build/study-smollm2).
"""
import argparse
import concurrent.futures
import hashlib
import json
import math
import pathlib
import shutil
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = ROOT / "examples" / "data" / "tiny"
SMOLLM2 = ROOT / "build" / "smollm2"
METHODS = ("prune", "unmasked", "uniform", "losa-published", "losa")


class Study:
    def __init__(self, options):
        self.o = options
        self.out = options.out
        self.out.mkdir(parents=True, exist_ok=True)

    def json_of(self, *arguments):
        done = subprocess.run([str(self.o.tool), *map(str, arguments), "--threads", str(self.o.threads), "--json", "-"],
                              stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            sys.exit(f"study: failed: {arguments}")
        return json.loads(done.stdout)

    def evaluate(self, directory):
        return self.json_of("eval", "--model", directory, "--tokens", self.o.test, "--context", self.o.context,
                            "--sequences", self.o.sequences)["perplexity"]

    def run(self, *arguments):
        """One adaptation and its test perplexity; remembered under its arguments."""
        arguments = ["--model", self.o.model, "--train", self.o.train, "--hold-out", 0.1, "--train-tokens",
                     self.o.tokens, *arguments]
        key = hashlib.sha256(" ".join(map(str, arguments[4:])).encode()).hexdigest()[:16]
        kept = self.out / f"run-{key}.json"
        if kept.exists():
            return json.loads(kept.read_text())
        directory = self.out / f"model-{key}"
        shutil.rmtree(directory, ignore_errors=True)
        report = self.json_of("adapt", "--out", directory, *arguments)
        result = {
            "arguments": [str(a) for a in arguments[4:]],
            "held_out": report["hold_out"]["perplexity"],
            "test": self.evaluate(directory),
            "sparsity": report["sparsity"],
            "parameters": report["trainable_parameters"],
            "blocks": [block["sparsity"] for block in report["steps"][-1]["blocks"]],
            "seconds": sum(report["run"]["seconds"].values()),
        }
        kept.write_text(json.dumps(result))
        shutil.rmtree(directory)
        return result


def cells(o):
    """(name of the row, pattern, arguments); the dense control has a mask that keeps everything."""
    yield "dense + LoRA", "0", ["--sparsity", 0, "--method", "uniform"]
    for pattern in o.sparsities:
        amount = ["--pattern", pattern] if ":" in pattern else ["--sparsity", pattern]
        for method in METHODS:
            if not (method == "losa-published" and ":" in pattern):
                yield method, pattern, [*amount, "--method", method]


def study_cell(study, pool, name, pattern, arguments):
    if name == "prune":
        return {"method": name, "pattern": pattern, "rate": None, "runs": [study.run(*arguments)]}
    grid = [study.o.rates[pattern]] if pattern in study.o.rates else study.o.grid
    tried = list(pool.map(lambda rate: study.run(*arguments, "--lr", rate, "--seed", 0), grid))
    rate = min(zip(tried, grid), key=lambda pair: pair[0]["held_out"])[1]
    runs = list(pool.map(lambda seed: study.run(*arguments, "--lr", rate, "--seed", seed), range(study.o.seeds)))
    return {"method": name, "pattern": pattern, "rate": rate, "runs": runs,
            "grid": {str(r): t["held_out"] for r, t in zip(grid, tried)}}


def spread(values):
    return statistics.stdev(values) if len(values) > 1 else 0.0


def paired(a, b):
    """Mean and standard deviation over the seeds of test perplexity b - a: positive where a is better."""
    differences = [y["test"] - x["test"] for x, y in zip(a["runs"], b["runs"])]
    return statistics.mean(differences), spread(differences)


def markdown(dense, results):
    lines = ["| pattern | method | test perplexity (mean ± sd) | learning rate | trainable parameters | losa better by |",
             "|---|---|---|---|---|---|", f"| – | dense | {dense:.3f} | – | 0 | – |"]
    for cell in results:
        tests = [run["test"] for run in cell["runs"]]
        better = "–"
        if cell["method"] in ("unmasked", "uniform", "losa-published"):
            losa = next(c for c in results if c["method"] == "losa" and c["pattern"] == cell["pattern"])
            mean, sd = paired(losa, cell)
            better = f"{mean:.4f} ± {sd:.4f}"
        label = "–" if cell["pattern"] == "0" else cell["pattern"]
        rate = "–" if cell["rate"] is None else f"{cell['rate']:g}"
        lines.append(f"| {label} | {cell['method']} | {statistics.mean(tests):.4f} ± {spread(tests):.4f} | {rate} | "
                     f"{cell['runs'][0]['parameters']} | {better} |")
    return "\n".join(lines)


def picture(dense, results, path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    patterns = list(dict.fromkeys(c["pattern"] for c in results if c["pattern"] != "0"))
    figure, axes = plt.subplots(1, len(patterns), figsize=(2.6 * len(patterns) + 1, 3), sharey=False, squeeze=False)
    control = next((statistics.mean(run["test"] for run in c["runs"]) for c in results if c["pattern"] == "0"), None)
    for axis, pattern in zip(axes[0], patterns):
        shown = [c for c in results if c["pattern"] == pattern and c["method"] != "prune"]
        for x, cell in enumerate(shown):
            tests = [run["test"] for run in cell["runs"]]
            axis.scatter([x] * len(tests), tests, s=14, color="#2a6fb0" if cell["method"] == "losa" else "#888888")
        axis.axhline(dense, color="#555555", linewidth=1, linestyle="--", label="dense")
        if control is not None:
            axis.axhline(control, color="#555555", linewidth=1, linestyle=":", label="dense + LoRA")
        axis.set_xticks(range(len(shown)), [c["method"] for c in shown], rotation=35, ha="right", fontsize=8)
        pruned = next((c for c in results if c["pattern"] == pattern and c["method"] == "prune"), None)
        title = f"{pattern}" if ":" in pattern else f"{100 * float(pattern):.0f} %"
        axis.set_title(title + (f"\npruned alone: {pruned['runs'][0]['test']:.2f}" if pruned else ""), loc="left", fontsize=9)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[0][0].set_ylabel("test perplexity, one dot a seed")
    axes[0][0].legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--tool", type=pathlib.Path, default=ROOT / "build/release/examples/llama/losa-llama")
    p.add_argument("--smollm2", action="store_true", help="defaults for SmolLM2 on WikiText-2 instead of the embedded model")
    p.add_argument("--model", type=pathlib.Path)
    p.add_argument("--train", type=pathlib.Path)
    p.add_argument("--test", type=pathlib.Path)
    p.add_argument("--out", type=pathlib.Path)
    p.add_argument("--tokens", type=int, help="training tokens")
    p.add_argument("--grid", nargs="+", type=float, help="learning rates")
    p.add_argument("--rates", nargs="+", metavar="SPARSITY=RATE", type=lambda text: text.split("="),
                   help="learning rates that were chosen before, instead of the grid")
    p.add_argument("--seeds", type=int)
    p.add_argument("--context", type=int, help="tokens of a test sequence")
    p.add_argument("--sequences", help="of the test text")
    p.add_argument("--sparsities", nargs="+")
    p.add_argument("--jobs", type=int, help="runs at a time")
    p.add_argument("--threads", type=int, help="of a run")
    p.set_defaults(model=DATA, train=DATA / "train.txt", test=DATA / "test.txt", out=ROOT / "build/study", tokens=102400,
                   grid=[1.5e-3, 3e-3, 6e-3, 1e-2], rates=[], seeds=5, context=256, sequences="256",
                   sparsities=["0.5", "0.6", "0.7", "2:4"], jobs=2, threads=1)
    if p.parse_known_args()[0].smollm2:
        p.set_defaults(model=SMOLLM2 / "model", train=SMOLLM2 / "valid.u16", test=SMOLLM2 / "test.u16",
                       out=ROOT / "build/study-smollm2", tokens=51200, seeds=1, context=512, sequences="32",
                       rates=[("0", "3e-3"), ("0.5", "3e-3"), ("0.7", "5e-3")], sparsities=["0.5", "0.7"], jobs=1,
                       threads=2)
    o = p.parse_args()
    o.rates = {sparsity: float(rate) for sparsity, rate in o.rates}
    study = Study(o)
    dense = study.evaluate(o.model)
    ordering = {}
    results = []
    with concurrent.futures.ThreadPoolExecutor(o.jobs) as pool:
        for sparsity in (s for s in o.sparsities if ":" not in s):
            masks = ("magnitude", "wanda", "sparsegpt")
            runs = pool.map(lambda mask: study.run("--sparsity", sparsity, "--method", "prune", "--mask", mask), masks)
            ordering[sparsity] = {mask: run["test"] for mask, run in zip(masks, runs)}
            print(sparsity, "without training:", ordering[sparsity], flush=True)
        for name, pattern, arguments in cells(o):
            results.append(study_cell(study, pool, name, pattern, arguments))
            tests = [run["test"] for run in results[-1]["runs"]]
            print(f"{pattern:>4} {name:<16} rate {results[-1]['rate']}  {statistics.mean(tests):.4f} ± {spread(tests):.4f}",
                  flush=True)
    text = markdown(dense, results)
    print("\n" + text)
    (o.out / "study.json").write_text(json.dumps({"dense": dense, "dense_nll": math.log(dense), "masks": ordering,
                                                  "cells": results, "tokens": o.tokens}, indent=1) + "\n")
    (o.out / "study.md").write_text(text + "\n")
    picture(dense, results, o.out / "study.png")


if __name__ == "__main__":
    main()
