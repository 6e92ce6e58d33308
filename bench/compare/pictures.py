"""Pictures of a full run: speed-up against sparsity, roofline, break-even sparsity."""
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import results  # noqa: E402

TYPES = ("f32", "bf16", "f16", "int8", "int4")


def product_rows(run):
    return [r for r in run["rows"] if r["op"] == "spmm"]


def shapes(run):
    return list(dict.fromkeys((r["out"], r["in"]) for r in product_rows(run)))


def tokens(run):
    return sorted({r["tokens"] for r in product_rows(run)})


def losa_types(run):
    present = {r["type"] for r in product_rows(run) if results.is_losa(r)}
    return [t for t in TYPES if t in present]


def save(figure, path):
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def speed_up(run, path):
    types, counts = losa_types(run), tokens(run)
    figure, axes = plt.subplots(len(types), len(counts), figsize=(3.1 * len(counts), 2.6 * len(types)), sharex=True,
                                squeeze=False)
    for i, type_ in enumerate(types):
        for j, count in enumerate(counts):
            axis = axes[i][j]
            limits = {}
            for shape in shapes(run):
                best = results.best_by_sparsity(run, type_, shape, count)
                axis.plot(list(best), [r["ratio"] for r in best.values()], marker="o", markersize=2.5, linewidth=1,
                          label=f"{shape[0]} × {shape[1]}")
                limits = limits or {s: r["limit_by_bytes"] for s, r in best.items()}
            axis.plot(list(limits), list(limits.values()), "k--", linewidth=0.8, label="limit by bytes")
            axis.axhline(1, color="0.6", linewidth=0.8)
            axis.set_title(f"{type_}, {count} token{'s' if count > 1 else ''}", fontsize=9)
            axis.set_ylim(0, None)
            if i == len(types) - 1:
                axis.set_xlabel("sparsity")
            if j == 0:
                axis.set_ylabel("times the fastest dense peer", fontsize=8)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=4, bbox_to_anchor=(0.5, -0.04), fontsize=8)
    figure.tight_layout()
    save(figure, path)


def roofline(run, path, sparsity=0.7):
    machine = run["machine"]
    read, peak = machine["read_gb_per_s"], machine["fma_gflop_per_s"]
    figure, axis = plt.subplots(figsize=(8, 5))
    shape = shapes(run)[0]
    rows = [r for r in product_rows(run) if (r["out"], r["in"]) == shape]
    rows = [r for r in rows if not r["sparse"] or results.pruned_by(r, sparsity)]
    intensity = [2 * r["kept"] * r["tokens"] / r["bytes"] for r in rows]
    span = [min(intensity) / 2, max(intensity) * 2]
    axis.plot([span[0], peak / read, span[1]], [span[0] * read, peak, peak], "k-", linewidth=1,
              label=f"roofs: {read:.0f} GB/s, {peak:.0f} GFLOP/s (f32)")
    colors = plt.get_cmap("tab20").colors
    for number, name in enumerate(dict.fromkeys(r["contender"] for r in rows)):
        mine = [(x, r["gflop_per_s"]) for x, r in zip(intensity, rows) if r["contender"] == name]
        ours = name.startswith("losa")
        axis.plot(*zip(*mine), marker="o" if ours else "x", markersize=7 if ours else 5, linestyle="none", label=name,
                  color=colors[number % 20])
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("FLOP on kept weights per byte of weights")
    axis.set_ylabel("GFLOP/s on kept weights")
    axis.set_title(f"{shape[0]} × {shape[1]}, losa at {sparsity:.0%} pruned, tokens {', '.join(map(str, tokens(run)))}",
                   fontsize=10)
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    save(figure, path)


def break_even_figures(run):
    """(type, shape, tokens) → break-even sparsity, a number or text."""
    figures = {}
    for type_ in losa_types(run):
        for shape in shapes(run):
            for count in tokens(run):
                figures[type_, shape, count] = results.break_even_at(run, type_, shape, count)
    return figures


def break_even(run, path):
    """Where it lies outside of what was measured, the mark is an arrow at the edge."""
    figures = break_even_figures(run)
    types = losa_types(run)
    figure, axes = plt.subplots(1, len(types), figsize=(4 * len(types), 3.4), sharey=True, squeeze=False)
    for axis, type_ in zip(axes[0], types):
        for number, shape in enumerate(shapes(run)):
            color = f"C{number}"
            known = [(count, figures[type_, shape, count]) for count in tokens(run)]
            values = [(count, f if isinstance(f, float) else float(f.split()[1])) for count, f in known if f]
            axis.plot(*zip(*values), color=color, linewidth=1, label=f"{shape[0]} × {shape[1]}")
            for count, f in known:
                if f:
                    mark = "o" if isinstance(f, float) else "v" if f[0] == "≤" else "^"
                    axis.plot(count, f if mark == "o" else float(f.split()[1]), mark, color=color, markersize=5)
        axis.set_xscale("log", base=2)
        axis.set_xticks(tokens(run), tokens(run))
        axis.set_xlabel("tokens")
        axis.set_title(type_, fontsize=10)
        axis.set_ylim(0, 1)
    axes[0][0].set_ylabel("sparsity from which losa is faster")
    axes[0][-1].legend(fontsize=7)
    save(figure, path)
