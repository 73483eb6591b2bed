#!/usr/bin/env python3
"""Sums up the CSV of `fireq bench gemm` and draws its roofline.

usage: report.py GEMM_CSV [ROOFLINE_SVG]

The table has a line for each M: the geometric mean and the worst over all shapes of our time over
cuBLASLt FP8's and over the plain read of the weights (floor). The plot shows what the `fireq` rows
reach, TFLOP/s over operations per byte of weights, below the two roofs of that very run: the rate
of the plain read, and the fastest cuBLASLt FP8 product. It needs matplotlib.
"""

import collections
import csv
import math
import pathlib
import sys
from statistics import geometric_mean


def read_rows(path):
    """The `fireq` rows, numbers as numbers, and the file's first comment."""
    lines = pathlib.Path(path).read_text().splitlines()
    comment = next((line[1:].strip() for line in lines if line.startswith("#")), "")
    rows = []
    for row in csv.DictReader(line for line in lines if not line.startswith("#")):
        if row["kernel"] == "fireq":
            rows.append({k: v if k in ("model", "layer", "kernel") else float(v) for k, v in row.items()})
    if not rows:
        sys.exit(f"{path}: no row of the kernel fireq")
    return rows, comment


def print_table(rows):
    by_tokens = collections.defaultdict(list)
    for row in rows:
        by_tokens[int(row["M"])].append(row)
    print(f"{'M':>6} {'shapes':>6}  {'x cuBLASLt FP8':>14} {'worst':>6}  {'x floor':>8} {'worst':>7}")
    for tokens, some in sorted(by_tokens.items()):
        fp8, floor = ([row[key] for row in some] for key in ("ratio_fp8", "ratio_floor"))
        print(f"{tokens:>6} {len(some):>6}  {geometric_mean(fp8):>14.3f} {max(fp8):>6.3f}"
              f"  {geometric_mean(floor):>8.2f} {max(floor):>7.2f}")


def operations(row):
    return 2.0 * row["M"] * row["N"] * row["K"]


def weight_bytes(row):
    groups = math.ceil(row["K"] / 128)
    return row["N"] * (row["K"] / 2 + 2 * groups)


def draw(rows, comment, path):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "fireq"  # the same bytes from the same rows
    import matplotlib.pyplot as plt

    read_rate = max(weight_bytes(row) / row["floor_us"] for row in rows)  # bytes per us
    roof = max(operations(row) / row["cublaslt_fp8_us"] for row in rows) * 1e-6
    figure, axes = plt.subplots(figsize=(9, 5.5))
    for model in dict.fromkeys(row["model"] for row in rows):
        some = [row for row in rows if row["model"] == model]
        axes.plot([operations(row) / weight_bytes(row) for row in some],
                  [operations(row) / row["median_us"] * 1e-6 for row in some],
                  "o", markersize=4, label=model)
    axes.plot([operations(row) / weight_bytes(row) for row in rows],
              [operations(row) / row["cublaslt_fp8_us"] * 1e-6 for row in rows],
              "x", color="grey", markersize=4, label="cuBLASLt FP8 (at our bytes)")
    low = min(operations(row) / weight_bytes(row) for row in rows)
    high = max(operations(row) / weight_bytes(row) for row in rows)
    ridge = roof / (read_rate * 1e-6)
    axes.plot([low, ridge, high], [low * read_rate * 1e-6, roof, roof], color="black", linewidth=1,
              label=f"read of the weights {read_rate * 1e-6:.2f} TB/s, FP8 {roof:.0f} TFLOP/s")
    axes.set(xscale="log", yscale="log", xlabel="operations per byte of weights (INT4, g128)",
             ylabel="TFLOP/s", title=comment.split(",")[0] or "INT4 x FP8 GEMM")
    axes.grid(True, which="both", linewidth=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main():
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        return
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__.split("\n\n")[1])
    rows, comment = read_rows(sys.argv[1])
    print_table(rows)
    if len(sys.argv) == 3:
        try:
            draw(rows, comment, sys.argv[2])
        except ImportError:
            sys.exit("report.py: the plot needs matplotlib (apt install python3-matplotlib)")


if __name__ == "__main__":
    main()
