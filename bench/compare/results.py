"""Rows that losa_compare wrote, with what follows from them."""
import json
import os

from targets import BREAK_EVEN, DEFAULT_FORMAT, SAME_TYPE, SQUARE, TARGETS, TOKENS


def read(path):
    with open(path) as file:
        return json.load(file)


def write(path, text):
    """Aside and renamed, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_text(text)
    os.replace(aside, path)


def is_losa(row):
    return row["contender"].startswith("losa")


def pruned_by(row, sparsity, pattern=""):
    return abs(row["sparsity"] - sparsity) < 1e-9 and row["pattern"] == pattern


def same_cell(a, b):
    return all(a[key] == b[key] for key in ("op", "out", "in", "tokens"))


def fastest_peer(row, rows):
    """The dense contender of the same value type with the lowest time for the same product."""
    peers = [r for r in rows if not r["sparse"] and same_cell(r, row) and r["type"] in SAME_TYPE[row["type"]]]
    return min(peers, key=lambda r: r["ms"], default=None)


def complete(run):
    """Adds to every row: ratio and its peer, and what it is of the machine's roofs."""
    machine, rows = run["machine"], run["rows"]
    for row in rows:
        seconds = row["ms"] / 1e3
        row["gb_per_s"] = row["bytes"] / seconds / 1e9
        row["share_of_read"] = row["gb_per_s"] / machine["read_gb_per_s"]
        row["gb_per_s_per_core"] = row["gb_per_s"] / machine["threads"]
        row["gflop_per_s"] = 2 * row["kept"] * row["tokens"] / seconds / 1e9
        row["share_of_fma"] = row["gflop_per_s"] / machine["fma_gflop_per_s"]
        peer = fastest_peer(row, rows)
        row["ratio"] = peer["ms"] / row["ms"] if peer else None
        row["peer"] = peer["contender"] if peer else None
        row["limit_by_bytes"] = peer["bytes"] / row["bytes"] if peer else None
    return run


def cells(run):
    """The table of targets: one dictionary for each target and number of tokens."""
    isa = run["machine"]["isa"]
    found = []
    for target in TARGETS:
        for tokens, wanted in zip(TOKENS, target.ratios.get(isa, (None,) * len(TOKENS))):
            if wanted is not None:
                found.append(cell(run["rows"], target, tokens, wanted))
    return found


def cell(rows, target, tokens, wanted):
    here = [r for r in rows if r["op"] == target.op and r["tokens"] == tokens and (r["out"], r["in"]) == SQUARE]
    ours = [r for r in here if is_losa(r) and r["type"] == target.type and pruned_by(r, 0.7)]
    peers = [r for r in here if not is_losa(r) and any(part in r["contender"] for part in target.peers)]
    default = [r for r in ours if r["format"] == DEFAULT_FORMAT]
    peer = min(peers, key=lambda r: r["ms"], default=None)
    best = min(ours, key=lambda r: r["ms"], default=None)
    usual = min(default, key=lambda r: r["ms"], default=None)
    ratio = peer["ms"] / best["ms"] if best and peer else None
    return {
        "op": target.op, "value_type": target.type, "against": target.against, "tokens": tokens, "target": wanted,
        "ratio": ratio, "met": ratio is not None and ratio >= wanted,
        "peer": peer and peer["contender"], "peer_ms": peer and peer["ms"], "ms": best and best["ms"],
        "format": best and best["format"], "backend": best and best["kernel"],
        "default_format_ratio": peer["ms"] / usual["ms"] if usual and peer else None,
        "absent": None if best and peer else f"losa has no {target.type} yet" if peer else "no such peer here",
    }


def best_by_sparsity(run, type_, shape, tokens):
    """Sparsity → losa's fastest row among those pruned anywhere, whatever its format."""
    best = {}
    for r in run["rows"]:
        here = (r["op"], r["type"], r["out"], r["in"], r["tokens"]) == ("spmm", type_, *shape, tokens)
        if here and is_losa(r) and r["ratio"] and not r["pattern"]:
            if r["sparsity"] not in best or r["ms"] < best[r["sparsity"]]["ms"]:
                best[r["sparsity"]] = r
    return dict(sorted(best.items()))


def break_even_at(run, type_, shape, tokens):
    return break_even([(s, r["ratio"]) for s, r in best_by_sparsity(run, type_, shape, tokens).items()])


def further(quick, run):
    """What else the products are held to, from a full run (stacks from that of the targets): dictionaries of what, target (in words), figure, met."""
    found = []

    def add(what, target, figure, met):
        found.append({"what": what, "target": target, "figure": figure, "met": met})

    for type_ in ("f32", "bf16"):
        for tokens, most in zip(TOKENS, BREAK_EVEN):
            at = break_even_at(run, type_, SQUARE, tokens)
            known = at if isinstance(at, float) else float(at.split()[1]) if at and at[0] == "≤" else None
            add(f"sparsity from which {type_} is faster than dense, {tokens} token{'s' if tokens > 1 else ''}",
                f"≤ {most:.2f}", at, known is not None and known <= most)
    one = [r for r in run["rows"] if (r["op"], r["type"], r["out"], r["in"], r["tokens"]) == ("spmm", "f32", *SQUARE, 1)]
    fastest = {pattern: min((r for r in one if is_losa(r) and pruned_by(r, 0.5, pattern)), key=lambda r: r["ms"],
                            default=None) for pattern in ("", "2:4")}
    for pattern, name, least in (("", "50 %", 1.6), ("2:4", "2:4", 1.55)):
        row = fastest[pattern]
        add(f"{name}, f32, 1 token, against dense", f"≥ {least}", row and row["ratio"], bool(row and row["ratio"] >= least))
    both = fastest[""] and fastest["2:4"] and fastest[""]["ms"] / fastest["2:4"]["ms"]
    add("2:4, f32, 1 token, against 50 % anywhere", "≥ 1.1", both, bool(both and both >= 1.1))
    for r in quick["rows"]:
        if r["op"].startswith("stack") and is_losa(r):
            add(f"{r['op']} of LLaMA-2-7B, 1 token, f32 at {r['sparsity']:.0%}, against dense ({r['peer']})", "≥ 2.4",
                r["ratio"], r["ratio"] >= 2.4)
    return found


def sentence(c):
    """A cell in one line."""
    what = f"{c['op']:5} {c['value_type']:4} against {c['against']:15} {c['tokens']:4} tokens"
    if c["ratio"] is None:
        return f"{what}  target {c['target']:4.2f}  missing        {c['absent']}"
    verdict = "met  " if c["met"] else "SHORT"
    return (f"{what}  target {c['target']:4.2f}  {verdict} {c['ratio']:6.2f}  {c['ms']:8.3f} ms, {c['peer']} "
            f"{c['peer_ms']:.3f} ms  ({c['format']}, {c['backend']})")


def break_even(points):
    """The least sparsity from which on a product is as fast as its peer, from (sparsity, ratio) pairs: a number, or
    text where it lies outside of what was measured."""
    points = sorted(points)
    if not points:
        return None
    if points[-1][1] < 1:
        return f"> {points[-1][0]:.2g}"
    after = len(points) - 1
    while after > 0 and points[after - 1][1] >= 1:
        after -= 1
    if after == 0:
        return f"≤ {points[0][0]:.2g}"
    (s0, r0), (s1, r1) = points[after - 1], points[after]
    return s0 + (1 - r0) / (r1 - r0) * (s1 - s0)
