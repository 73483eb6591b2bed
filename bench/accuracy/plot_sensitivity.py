#!/usr/bin/env python3
"""Draws bench/results/accuracy_sensitivity.csv: what each layer and kind of tensor costs alone.

    bench/accuracy/plot_sensitivity.py            # writes accuracy_sensitivity.svg beside the CSV

Bars are KL(float, quantised) in nats a token, whiskers one standard error. Standard library only.
"""

import csv
import html
import pathlib
import sys

RESULTS = pathlib.Path(__file__).resolve().parent.parent / "results"
BAR, GAP, LEFT, WIDTH, TOP = 14, 5, 150, 520, 40


def read():
    lines = (RESULTS / "accuracy_sensitivity.csv").read_text().splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def text(x, y, what, anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(what)}</text>'


def bar(y, row, largest):
    kl, error = float(row["kl"]), float(row["kl_stderr"])
    length, whisker = WIDTH * kl / largest, WIDTH * error / largest
    middle = y + BAR / 2
    colour = "#d95f02" if row["row"].startswith("layer") else "#1b6ca8"
    return (text(LEFT - 8, y + BAR - 3, row["row"].removesuffix(" alone"), "end") +
            f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>'
            f'<line x1="{LEFT + length - whisker:.1f}" x2="{LEFT + length + whisker:.1f}" '
            f'y1="{middle}" y2="{middle}" stroke="black"/>' +
            text(LEFT + length + whisker + 6, y + BAR - 3, f"{kl:.4f}"))


def draw(rows):
    kinds = [row for row in rows if not row["row"].startswith("layer")]
    layers = [row for row in rows if row["row"].startswith("layer")]
    # Layers have a scale of their own: each is about a thirtieth of the whole.
    out, y = [], TOP
    for part in (kinds, layers):
        if not part:
            continue
        largest = max(float(row["kl"]) + float(row["kl_stderr"]) for row in part)
        for row in part:
            out.append(bar(y, row, largest))
            y += BAR + GAP
        y += 3 * GAP
    sample = rows[0]
    title = (f"KL(float, quantised) when only that is quantised: {sample['tokens']} tokens of "
             f"{sample['text']}, {sample['products']} products")
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 90}" height="{y}" '
            f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" '
            f'fill="white"/>{text(10, 22, title)}' + "\n".join(out) + "</svg>\n")


def main():
    if sys.argv[1:]:
        sys.exit(__doc__)
    (RESULTS / "accuracy_sensitivity.svg").write_text(draw(read()))


if __name__ == "__main__":
    main()
