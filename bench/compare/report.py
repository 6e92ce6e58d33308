"""The report of a full run: results.json, README.md and pictures in docs/benchmarks/<instruction set>/.

    build/bench/venv/bin/python bench/compare/report.py build/bench/quick_rows.json build/bench/rows.json \
        docs/benchmarks

The first file is a run at 4096 × 4096 and 70 %, for the table of targets; the second one has all shapes and sparsities.
Without matplotlib there are no pictures, and a line says so.
"""
import json
import pathlib
import sys

import results

try:
    import pictures
except ImportError:
    pictures = None

OPS = {"spmm": "y = x·Wᵀ", "dx": "dX = G·W", "sddmm": "GᵀX at the mask"}


def number(value, digits=2):
    return "–" if value is None else value if isinstance(value, str) else f"{value:.{digits}f}"


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def machine_lines(run, libraries, left_out):
    m = run["machine"]
    lines = [f"{m['processor']}, {m['isa']}, {m['threads']} threads, last-level cache "
             f"{m['last_level_cache_bytes'] / 2**20:.0f} MiB. Measured in the same run: {m['read_gb_per_s']:.1f} GB/s "
             f"read, {m['fma_gflop_per_s']:.0f} GFLOP/s of f32 multiply-adds.", ""]
    for library in libraries:
        lines.append(f"- {library['name']}: {library['version'] or 'left out, ' + library['absent']}")
    lines += [f"- left out: {reason}" for reason in left_out]
    return "\n".join(lines)


def target_table(cells):
    return table(
        ("product", "losa's weights", "against", "tokens", "target", "best format", "default format", "fastest peer",
         "format, backend"),
        [(OPS[c["op"]], c["value_type"], c["against"], c["tokens"], number(c["target"]),
          f"**{number(c['ratio'])}**" if c["met"] else number(c["ratio"]), number(c["default_format_ratio"]),
          c["peer"] or "–", f"{c['format']}, {c['backend']}" if c["ratio"] else c["absent"]) for c in cells])


def further_table(further):
    return table(("what", "target", "figure"),
                 [(f["what"], f["target"], f"**{number(f['figure'])}**" if f["met"] else number(f["figure"]))
                  for f in further])


def break_even_table(run):
    figures = pictures.break_even_figures(run)
    counts = pictures.tokens(run)
    keys = dict.fromkeys((type_, shape) for type_, shape, _ in figures)
    return table(("weights", "shape", *(f"{c} tokens" for c in counts)),
                 [(type_, f"{shape[0]} × {shape[1]}", *(number(figures[type_, shape, c]) for c in counts))
                  for type_, shape in keys])


def ratio_table(run):
    """A line for each of losa's contenders, shape and number of tokens; a column for each sparsity."""
    ours = [r for r in run["rows"] if results.is_losa(r) and r["op"] in OPS]
    sparsities = sorted({(r["sparsity"], r["pattern"]) for r in ours})
    lines = {}
    for r in ours:
        key = (OPS[r["op"]], f"{r['out']} × {r['in']}", r["type"], r["format"], r["tokens"])
        lines.setdefault(key, {})[r["sparsity"], r["pattern"]] = r["ratio"]
    return table(("product", "shape", "weights", "format", "tokens", *(pattern or f"{s:.0%}" for s, pattern in sparsities)),
                 [(*key, *(number(ratios.get(s)) for s in sparsities)) for key, ratios in lines.items()])


def row_table(run, sparsity=0.7):
    rows = [r for r in run["rows"] if r["op"] in OPS and (not r["sparse"] or results.pruned_by(r, sparsity))]
    rows.sort(key=lambda r: (list(OPS).index(r["op"]), -r["out"] * r["in"], r["out"], r["tokens"], r["type"], r["ms"]))
    return table(
        ("product", "shape", "tokens", "contender", "format, kernel", "ms", "ratio", "peer", "GB/s (of roof)",
         "GB/s per core", "GFLOP/s kept (of peak)"),
        [(OPS[r["op"]], f"{r['out']} × {r['in']}", r["tokens"], r["contender"], f"{r['format']}, {r['kernel']}",
          number(r["ms"], 4), number(r["ratio"]), r["peer"] or "–", f"{r['gb_per_s']:.1f} ({r['share_of_read']:.2f})",
          number(r["gb_per_s_per_core"]), f"{r['gflop_per_s']:.1f} ({r['share_of_fma']:.2f})") for r in rows])


def readme(quick, run, cells, further):
    parts = [f"# Sparse products beside dense libraries: {run['machine']['isa']}",
             "Written by `bench/run.sh`. Every contender in turn in one process, weights cold, the same number of "
             "threads for all; times are medians, a ratio is the fastest dense peer's time of the same value type by "
             "that of the row. GB/s counts the bytes of weights once, GFLOP/s the kept weights.",
             machine_lines(run, quick["libraries"], sorted({*quick["left_out"], *run["left_out"]})),
             "DeepSparse, which needs a process of its own, takes part in the table of targets alone.",
             "## Targets\n\n4096 × 4096, 70 % pruned. Of this table's run: " +
             f"{quick['machine']['read_gb_per_s']:.1f} GB/s, {quick['machine']['fma_gflop_per_s']:.0f} GFLOP/s. "
             "A bold ratio meets its target; the best format is the fastest of losa's, the default one is "
             f"{results.DEFAULT_FORMAT}.",
             target_table(cells),
             "Others, at 4096 × 4096, from the run of the tables below (the stack from this one's):", further_table(further)]
    if pictures:
        parts += ["## Speed-up against sparsity\n\n![speed-up](speed_up.png)",
                  "The dashed line is the limit where only bytes count: the peer's bytes of weights by losa's.",
                  "## Roofline\n\n![roofline](roofline.png)",
                  "## Break-even\n\nThe least sparsity from which on losa is faster than the fastest dense peer of the "
                  "same value type.\n\n![break-even](break_even.png)", break_even_table(run)]
    parts += ["## Ratios\n\nOf losa's products to the fastest dense peer of the same value type, by sparsity.",
              ratio_table(run),
              "## Times\n\nlosa at 70 % beside the dense libraries; `results.json` has every row.", row_table(run)]
    return "\n\n".join(parts) + "\n"


def compact(everything):
    """JSON with a line for each row and numbers of six digits, so that the file stays small enough to be kept."""
    def short(value):
        if isinstance(value, float):
            return float(f"{value:.6g}")
        if isinstance(value, dict):
            return {key: short(v) for key, v in value.items()}
        return [short(v) for v in value] if isinstance(value, list) else value
    text = json.dumps(short(everything), ensure_ascii=False)
    return text.replace(', {"op"', ',\n{"op"') + "\n"


def main():
    quick = results.complete(results.read(sys.argv[1]))
    run = results.complete(results.read(sys.argv[2]))
    folder = pathlib.Path(sys.argv[3]) / run["machine"]["isa"]
    cells = results.cells(quick)
    further = results.further(quick, run)
    everything = {"targets": cells, "further_targets": further, "targets_run": quick, "run": run}
    results.write(folder / "results.json", compact(everything))
    results.write(folder / "README.md", readme(quick, run, cells, further))
    if pictures:
        for name in ("speed_up", "roofline", "break_even"):
            getattr(pictures, name)(run, folder / f"{name}.png")
    else:
        print("report: no pictures, for want of matplotlib")
    print(f"report: {folder}/README.md")


main()
