"""Pictures of adaptation runs: sparsity and rank per block over the steps, the RMI heat map, the loss, and perplexity
against sparsity.

    python pictures.py tiny-70/report.json --out pictures
    python pictures.py tiny-70/report.json --results build/demo/results.json --out pictures
"""
import argparse
import json
import pathlib

import matplotlib
import matplotlib.ticker

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend must be chosen first)

plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 120,
                     "savefig.bbox": "tight"})
COLOURS = {"dense": "#555555", "pruned": "#c0504d", "LoSA": "#2a6fb0"}


def save(figure, path):
    figure.savefig(path)
    plt.close(figure)
    return path


def blocks_over_steps(report, path):
    """Sparsity and rank of every block, one line per schedule step."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3))
    for what, axis in zip(("sparsity", "rank"), axes):
        steps = report["steps"]
        for step in steps:
            shade = 0.25 + 0.75 * step["step"] / len(steps)
            axis.plot([block[what] for block in step["blocks"]], marker="o", markersize=3, color=(0.16, 0.43, 0.69, shade),
                      label=f"step {step['step']}")
        axis.set_xlabel("block")
        axis.set_ylabel(what)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].legend(frameon=False)
    axes[0].set_title(f"sparsity, {100 * report['sparsity']:.2f} % over all blocks", loc="left")
    axes[1].set_title(f"mean rank, {report['trainable_parameters']} trainable parameters", loc="left")
    return save(figure, path)


def rmi_heat_map(report, path):
    """Mutual information between the blocks' representations before the last step."""
    matrix = report["steps"][-1]["rmi"]
    figure, axis = plt.subplots(figsize=(4, 3.4))
    image = axis.imshow(matrix, cmap="viridis", vmax=1)
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            if len(matrix) <= 12:
                axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7,
                          color="white" if value < 0.7 else "black")
    axis.set_xlabel("block")
    axis.set_ylabel("block")
    axis.set_title("mutual information of representations", loc="left")
    figure.colorbar(image, shrink=0.8)
    return save(figure, path)


def loss_curve(reports, path):
    figure, axis = plt.subplots(figsize=(5, 3))
    for sparsity, report in sorted(reports.items()):
        loss = report["loss"]
        window = max(1, len(loss) // 40)
        smooth = [sum(loss[max(0, i - window + 1):i + 1]) / (i + 1 - max(0, i - window + 1)) for i in range(len(loss))]
        axis.plot(range(1, len(loss) + 1), smooth, label=f"{100 * float(sparsity):.0f} %")
    axis.set_xlabel("training step")
    axis.set_ylabel(f"loss (mean of {window} steps)")
    axis.set_title("training under the mask", loc="left")
    axis.legend(frameon=False)
    return save(figure, path)


def perplexity_against_sparsity(rows, path):
    figure, axis = plt.subplots(figsize=(5, 3))
    rows = [row for row in rows if row["perplexity"] is not None]
    dense = [row for row in rows if row["method"] == "dense"]
    for row in dense:
        axis.axhline(row["perplexity"], color=COLOURS["dense"], linewidth=1, linestyle="--")
        axis.text(0.995, row["perplexity"], "dense", transform=axis.get_yaxis_transform(), ha="right", va="bottom",
                  color=COLOURS["dense"])
    for method in dict.fromkeys(row["method"] for row in rows if row["method"] != "dense"):
        points = sorted((row["sparsity"], row["perplexity"]) for row in rows if row["method"] == method)
        axis.plot([100 * s for s, _ in points], [p for _, p in points], marker="o", label=method,
                  color=COLOURS.get(method))
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axis.yaxis.set_minor_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axis.set_xlabel("sparsity of the block weights, %")
    axis.set_ylabel("test perplexity")
    axis.legend(frameon=False)
    return save(figure, path)


def draw(out, rows, reports):
    """Draws what there is data for; returns the paths."""
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    drawn = []
    if rows:
        drawn.append(perplexity_against_sparsity(rows, out / "perplexity.png"))
    if reports:
        last = reports[max(reports)]
        drawn.append(blocks_over_steps(last, out / "blocks.png"))
        if last["steps"][-1]["rmi"]:
            drawn.append(rmi_heat_map(last, out / "rmi.png"))
        if last["loss"]:
            drawn.append(loss_curve(reports, out / "loss.png"))
    return drawn


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("reports", nargs="+", type=pathlib.Path, help="report.json of adaptation runs")
    p.add_argument("--results", type=pathlib.Path, help="results.json of the demo")
    p.add_argument("--out", type=pathlib.Path, default=pathlib.Path("."))
    o = p.parse_args()
    reports = {report["arguments"]["sparsity"]: report
               for report in (json.loads(path.read_text()) for path in o.reports)}
    for path in draw(o.out, json.loads(o.results.read_text()) if o.results else [], reports):
        print(path)


if __name__ == "__main__":
    main()
