"""The table of targets, from one run at 4096 × 4096 and 70 %: a line for each cell, quick.json, and 1 if one is short.

    python3 bench/compare/quick.py build/bench/quick_rows.json build/bench/quick.json
"""
import json
import pathlib
import sys

import results


def main():
    run = results.complete(results.read(sys.argv[1]))
    machine = run["machine"]
    cells = results.cells(run)
    if not cells:
        sys.exit(f"quick: there are no targets for {machine['isa']}")
    results.write(pathlib.Path(sys.argv[2]), json.dumps({"machine": machine, "cells": cells}, indent=1) + "\n")
    print(f"{machine['processor']}, {machine['isa']}, {machine['threads']} threads; reads "
          f"{machine['read_gb_per_s']:.1f} GB/s, {machine['fma_gflop_per_s']:.0f} GFLOP/s f32")
    for library in run["libraries"]:
        print(f"  {library['name']:10} {library['version'] or 'left out: ' + library['absent']}")
    for reason in run["left_out"]:
        print(f"  left out: {reason}")
    print("\nBest format")
    for cell in cells:
        print(results.sentence(cell))
    print(f"\nDefault format ({results.DEFAULT_FORMAT}) alone")
    for cell in cells:
        if cell["default_format_ratio"] is not None:
            print(f"{cell['op']:5} {cell['value_type']:4} against {cell['against']:15} {cell['tokens']:4} tokens  "
                  f"target {cell['target']:4.2f}  {cell['default_format_ratio']:12.2f}")
    short = [c for c in cells if not c["met"]]
    missing = [c for c in short if c["ratio"] is None]
    print(f"\n{len(cells) - len(short)} of {len(cells)} cells met; {len(missing)} of those short have no figure")
    sys.exit(1 if short else 0)


main()
