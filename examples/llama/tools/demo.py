"""The main job as a script: dense -> pruned -> LoSA on one model, a table, a line of text from each, pictures.

    python demo.py --tool losa-llama --model examples/data/tiny --train train.txt --test test.txt --out build/demo
    python demo.py --tool losa-llama --model build/smollm2/model --train valid.u16 --test test.u16 --sequences 32 \
        --context 512 --train-tokens 12800 --prompt "The river" --out build/demo-smollm2

A model with a tokenizer.json is prompted through text.py, one without is taken to be byte-level. Writes
OUT/results.json (rows: model, method, sparsity, perplexity, bytes, tokens_per_second) and OUT/*.png.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pictures
import text


def call(tool, *arguments):
    """Runs a sub-command and returns what it writes with --json."""
    command = [str(tool), *map(str, arguments), "--json", "-"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"demo: this command failed with exit code {done.returncode}:\n  {' '.join(command)}")
    return json.loads(done.stdout)


def sample(o, directory):
    """How the model continues the prompt."""
    how = ("--temperature", 0.5, "--seed", 1)
    if (o.model / "tokenizer.json").exists():
        return text.generate(o.tool, directory, text.load_tokenizer(o.model), o.prompt, "--tokens", 24, *how)
    return call(o.tool, "generate", "--model", directory, "--prompt", o.prompt, "--tokens", 72, *how)["text"]


def measure(o, directory, method, sparsity):
    """One row of the table. Sparse models are evaluated and timed from their compressed form."""
    sparse = method != "dense"
    form = directory / "compressed" if sparse else directory
    quality = call(o.tool, "eval", "--model", form, "--tokens", o.test, "--context", o.context, "--sequences", o.sequences)
    speed = call(o.tool, "bench", "--model", directory)
    kind = "sparse" if sparse else "dense"
    return {
        "model": o.name,
        "method": method,
        "sparsity": sparsity,
        "perplexity": quality["perplexity"],
        "bytes": speed[f"{kind}_bytes"],
        "tokens_per_second": speed["decode"][f"{kind}_tokens_per_second"],
        "text": o.prompt + sample(o, form).split("\n")[0],
    }


def adapted(o, method, sparsity):
    directory = o.out / f"{o.name}-{method}-{round(100 * sparsity)}"
    shutil.rmtree(directory, ignore_errors=True)
    report = call(o.tool, "adapt", "--model", o.model, "--train", o.train, "--out", directory, "--sparsity", sparsity,
                  "--method", method, "--train-tokens", o.train_tokens, "--context", 256)
    row = measure(o, directory, method, sparsity)
    row["sparsity"] = report["sparsity"]
    return row, report


def table(rows):
    lines = [f"{'model':<14}{'method':<8}{'sparsity':>9}{'perplexity':>12}{'weights':>13}{'decode':>15}"]
    for r in rows:
        lines.append(f"{r['model']:<14}{r['method']:<8}{100 * r['sparsity']:>8.2f}%{r['perplexity']:>12.3f}"
                     f"{r['bytes'] / 1e6:>10.2f} MB{r['tokens_per_second']:>9.0f} tok/s")
    return "\n".join(lines)


def how_to_run(o, directory):
    if not (o.model / "tokenizer.json").exists():
        return f"{o.tool} generate --model {directory}/compressed --prompt 'My dear '"
    return (f"{sys.executable} {text.__file__} generate --tool {o.tool} --tokenizer {o.model} \\\n"
            f"    --model {directory}/compressed --prompt 'My dear'")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--tool", type=pathlib.Path, required=True, help="the losa-llama program")
    p.add_argument("--model", type=pathlib.Path, required=True)
    p.add_argument("--name", help="what tables and directories call the model (default: the name of its directory)")
    p.add_argument("--train", type=pathlib.Path, required=True)
    p.add_argument("--test", type=pathlib.Path, required=True)
    p.add_argument("--out", type=pathlib.Path, required=True)
    p.add_argument("--context", type=int, default=256, help="of the test's sequences")
    p.add_argument("--sequences", default="64", help="of the test file, or all")
    p.add_argument("--train-tokens", type=int, default=102400, help="LOSA_DEMO_TRAIN_TOKENS overrides it")
    p.add_argument("--sparsities", type=float, nargs="+", default=[0.5, 0.6, 0.7])
    p.add_argument("--prompt", default="She had been ")
    o = p.parse_args()
    o.train_tokens = int(os.environ.get("LOSA_DEMO_TRAIN_TOKENS", o.train_tokens))
    o.name = o.name or o.model.name
    o.out.mkdir(parents=True, exist_ok=True)
    began = time.time()

    print(f"{o.model}: dense, pruned (one-shot mask alone) and LoSA ({o.train_tokens} training tokens)", flush=True)
    rows = [measure(o, o.model, "dense", 0.0)]
    reports = {}
    for sparsity in o.sparsities:
        for method in ("prune", "losa"):
            row, report = adapted(o, method, sparsity)
            rows.append(row)
            if method == "losa":
                reports[sparsity] = report
            print(f"  {method:<6} {100 * sparsity:.0f} %: perplexity {row['perplexity']:.3f}", flush=True)
    layer = call(o.tool, "bench", "--layer", "4096x4096", "--sparsity", 0.7)

    for row in rows:
        row["method"] = {"prune": "pruned", "losa": "LoSA"}.get(row["method"], row["method"])
    print("\n" + table(rows))
    print(f"\none cold 4096x4096 layer, one token, 70 %: dense {layer['dense_microseconds']:.0f} us "
          f"({layer['dense_bytes'] / 1e6:.1f} MB), sparse {layer['sparse_microseconds']:.0f} us "
          f"({layer['sparse_bytes'] / 1e6:.1f} MB), {layer['speedup']:.2f} times as fast")
    if rows[0]["bytes"] < 16e6:
        print("This model's weights fit into the processor's cache, so sparsity wins it memory more than time; the layer\n"
              "above is read from memory, as the weights of larger models are.")
    print()
    for row in rows:
        print(f"{row['method']:<7}{100 * row['sparsity']:3.0f} %  {row.pop('text')}")

    for name, seconds_key in (("dense", "dense"), ("sparse", "sparse")):
        rows.append({
            "model": "layer-4096x4096", "method": name, "sparsity": layer["sparsity"] if name == "sparse" else 0.0,
            "perplexity": None, "bytes": layer[f"{name}_bytes"],
            "tokens_per_second": 1e6 / layer[f"{seconds_key}_microseconds"]})
    (o.out / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    last = o.out / f"{o.name}-losa-{round(100 * max(o.sparsities))}"
    drawn = pictures.draw(o.out, rows, reports)
    print(f"\n{time.time() - began:.0f} s. Numbers: {o.out / 'results.json'}   pictures: "
          + " ".join(str(path) for path in drawn))
    print(f"The {100 * max(o.sparsities):.0f} % model: {last} (Hugging Face), compressed/ inside it runs as it is:\n"
          f"  {how_to_run(o, last)}")


if __name__ == "__main__":
    main()
