#!/usr/bin/env python3
"""Rewrites the tables of docs/PERFORMANCE.md from bench/results/engine_profile_*.csv.

    tools/performance_tables.py            rewrite
    tools/performance_tables.py --check    exit 1 if the document does not say what the CSV files say

The CSV files are the output of `fireq bench profile --synthetic llama-3-8b`; lines that begin with #
are their provenance. Bytes and operations of an op are counted here, each input read once and each
output written once; the floor is the larger of bytes over the card's memory rate and operations over
its FP8 (lm_head: BF16) rate, both from the data sheet.
"""

import csv
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench/results"
# Llama-3-8B: layers, heads, KV heads, head dim.
LAYERS, HEADS, KV_HEADS, HEAD_DIM = 32, 32, 8, 128
HIDDEN, QKV = HEADS * HEAD_DIM, (HEADS + 2 * KV_HEADS) * HEAD_DIM
WEIGHT_BYTES = 0.5 + 2 / 128  # a code, and a scale and a zero point a group
KV_BYTES = 2 * KV_HEADS * (HEAD_DIM / 2 + 3)  # K and V of a token
# bytes/s, FP8 and BF16 operations/s
CARDS = {"H100": (3.35e12, 1979e12, 989e12), "H200": (4.8e12, 1979e12, 989e12)}


def work(op, phase, tokens, batch, context, calls_a_layer, logits):
    """Bytes, operations and whether they are FP8, of one call over `tokens` tokens.

    Without `logits` lm_head writes an id a row instead."""
    name, *shape = re.findall(r"[a-z_]+|\d+", op.replace(" x ", " "))
    if name == "linear":
        n, k = map(int, shape)
        out = n // 2 if n > 3 * k and k == HIDDEN else n  # gate|up leaves silu * up
        residual = out if n == HIDDEN else 0
        return n * k * WEIGHT_BYTES + tokens * (k + 2 * out + 2 * residual), 2 * tokens * n * k, True
    if name == "lm_head":
        n, k = map(int, shape)
        return n * k * 2 + tokens * (2 * k + 4 * (n if logits else 1)), 2 * tokens * n * k, False
    if name == "attention":
        if phase == "decode":
            return batch * (context * KV_BYTES + 3 * HIDDEN), 4 * batch * context * HIDDEN, True
        pairs = batch * context * (context + 1) / 2 / calls_a_layer
        return tokens * (KV_BYTES + 3 * HIDDEN), 4 * pairs * HIDDEN, True
    if name == "quantize":
        return tokens * 3 * int(shape[0]), 0, True
    if name == "rms_norm":
        return tokens * 3 * HIDDEN, 0, True
    if name == "rope_kv_write":
        return tokens * (2 * QKV + HIDDEN + KV_BYTES), 0, True
    return None


def budget(path, batch, context, phase):
    lines = path.read_text().splitlines()
    rows = [r for r in csv.DictReader(line for line in lines if not line.startswith("#"))
            if (r["batch"], r["input"], r["phase"]) == (str(batch), str(context), phase)]
    if not rows:
        return f"*Not measured: {path.name} has no {phase} of {batch} x {context}.*"
    card = next(name for name in CARDS if name in rows[0]["backend"])
    memory, fp8, bf16 = CARDS[card]
    logits = any(r["op"] == "sample" for r in rows)  # nobody else reads them
    layers = next(int(r["calls"]) for r in rows if r["op"] == "attention")
    calls_a_layer = max(1, round(layers / LAYERS))
    tokens = batch if phase == "decode" else batch * context // calls_a_layer
    out = ["| op | calls | MB | GFLOP | floor us | measured us | measured / floor | share |",
           "|---|---|---|---|---|---|---|---|"]
    for r in sorted(rows, key=lambda r: -float(r["share"])):
        last = r["op"].startswith("lm_head")
        counted = work(r["op"], phase, batch // calls_a_layer if last and phase == "prefill" else tokens,
                       batch, context, calls_a_layer, logits)
        us = float(r["us"])
        if counted is None:
            cells = ["", "", "", f"{us:.1f}", ""]
        else:
            size, operations, is_fp8 = counted
            floor = 1e6 * max(size / memory, operations / (fp8 if is_fp8 else bf16))
            cells = [f"{size / 1e6:.1f}", f"{operations / 1e9:.1f}" if operations else "",
                     f"{floor:.1f}", f"{us:.1f}", f"{us / floor:.2f}" if floor >= 1 else ""]
        out.append("| " + " | ".join([r["op"], r["calls"], *cells, f"{100 * float(r['share']):.1f} %"])
                   + " |")
    total = sum(int(r["calls"]) * float(r["us"]) for r in rows)
    gemm = sum(int(r["calls"]) * float(r["us"]) for r in rows
               if r["op"].split()[0] in ("linear", "lm_head", "attention"))
    out.append(f"\n{batch} x {context}, {phase}, {rows[0]['backend']}: {total / 1000:.2f} ms of ops, "
               f"{100 * (1 - gemm / total):.1f} % of it neither GEMM nor attention.")
    return "\n".join(out)


def main():
    path = ROOT / "docs/PERFORMANCE.md"
    text = path.read_text()

    def fill(match):
        source, batch, context, phase = re.match(r"(\S+) (\d+)x(\d+) (\w+)", match[2]).groups()
        return match[1] + budget(RESULTS / source, int(batch), int(context), phase) + "\n" + match[3]

    new = re.sub(r"(<!-- budget:(.*?) -->\n).*?(<!-- /budget -->)", fill, text, flags=re.DOTALL)
    if "--check" in sys.argv[1:]:
        if new != text:
            sys.exit("docs/PERFORMANCE.md does not say what bench/results says: run "
                     "tools/performance_tables.py")
        return
    path.write_text(new)


if __name__ == "__main__":
    main()
