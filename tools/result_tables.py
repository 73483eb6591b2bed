#!/usr/bin/env python3
"""Rewrites the tables of README.md and docs/RESULTS.md from the CSV files under bench/results.

    tools/result_tables.py            rewrite
    tools/result_tables.py --check    exit 1 if a document does not say what the CSV files say

A table stands between <!-- table:NAME --> and <!-- /table -->. A table whose CSV does not exist says
so. Lines that begin with # in a CSV are its provenance and are skipped.
"""

import pathlib
import re
import statistics
import sys

import accuracy_tables
import headline_table
from accuracy_tables import missing, read, table

ROOT = pathlib.Path(__file__).resolve().parent.parent
CARDS = ("h100", "h200")  # in the order of their rows


def speed():
    kernels = {name: read(f"cpu_speed_{name}.csv") for name in ("avx512_bf16", "avx2")}
    kernels = {name: rows for name, rows in kernels.items() if rows is not None}
    if not kernels:
        return missing("cpu_speed_*.csv")
    whats = [r["what"] for r in next(iter(kernels.values()))]
    rates = {name: {r["what"]: float(r["tokens_per_second"]) for r in rows} for name, rows in kernels.items()}
    return table(["tokens/s", *(name.upper().replace("_", "-") for name in kernels)],
                 [[what, *(f"{rates[name][what]:.0f}" for name in kernels)] for what in whats])


def llamacpp():
    lines = []
    for cpu, name in (("AVX2", "llamacpp_speed.csv"), ("AVX-512", "llamacpp_speed_avx512.csv")):
        for r in read(name) or []:
            ratio, low, high = (float(r[key]) for key in ("ratio", "lowest_ratio", "highest_ratio"))
            lines.append([r["what"], cpu, r["fireq"], r["llamacpp"],
                          f"{ratio:.2f} ({low:.2f} to {high:.2f})", r["contract"]])
    return table(["tokens/s", "two cores with", "FireQ", "llama.cpp", "ratio (lowest to highest)", "contract"], lines)


def read_cards(name):
    """Rows of name_CARD.csv of every card that there is, each with its card."""
    return [dict(row, card=card.upper()) for card in CARDS
            for row in read(f"{name}_{card}.csv") or []]


def spread(values):
    """Geometric mean (lowest to highest)."""
    return f"{statistics.geometric_mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def grouped(rows, *keys):
    """(key values, rows) for each combination that occurs, sorted; M as a number."""
    def key(row):
        return tuple(int(row[k]) if k == "M" else row[k] for k in keys)
    return [(k, [r for r in rows if key(r) == k]) for k in sorted({key(r) for r in rows})]


def gemm():
    rows = [r for r in read_cards("gemm") if r["kernel"] == "fireq"]
    if not rows:
        return missing("gemm_CARD.csv")
    out = []
    for (card, m), at in grouped(rows, "card", "M"):
        floor = [float(r["ratio_floor"]) for r in at if r["ratio_floor"]]
        out.append([card, str(m), str(len(at)), spread([float(r["ratio_fp8"]) for r in at]),
                    spread(floor) if m <= 64 and floor else ""])
    return ("Time of the INT4 x FP8 GEMM over cuBLASLt FP8's in the same run, geometric mean over the "
            "shapes (best to worst); for memory-bound sizes also over a plain read of the weights.\n\n"
            + table(["card", "M", "shapes", "time / cuBLASLt FP8", "time / floor"], out))


def ffn():
    rows = [r for r in read_cards("ffn") if r["kernel"] == "fireq"]
    if not rows:
        return missing("ffn_CARD.csv")
    return table(["card", "M", "models", "speed-up over cuBLAS FP16"],
                 [[card, str(m), str(len(at)), spread([float(r["ratio_fp16"]) for r in at])]
                  for (card, m), at in grouped(rows, "card", "M")])


def producers():
    rows = read_cards("producers")
    if not rows:
        return missing("producers_CARD.csv")
    return table(["card", "kernel", "M", "values of K", "rate / copy"],
                 [[card, kernel, str(m), str(len(at)), spread([float(r["ratio_copy"]) for r in at])]
                  for (card, kernel, m), at in grouped(rows, "card", "kernel", "M")])


def attention_prefill():
    rows = read_cards("attention_prefill")
    if not rows:
        return missing("attention_prefill_CARD.csv")
    return table(["card", "batch x context", "heads", "head dim", "TFLOP/s", "cuDNN BF16 time / ours"],
                 [[r["card"], f"{r['batch']} x {r['context']}", f"{r['heads']}/{r['kv_heads']}",
                   r["head_dim"], f"{float(r['tflops']):.0f}",
                   f"{float(r['ratio_cudnn']):.2f}" if r["ratio_cudnn"] else ""] for r in rows])


def attention_decode():
    rows = read_cards("attention_decode")
    if not rows:
        return missing("attention_decode_CARD.csv")
    return table(["card", "batch x context", "heads", "time us", "time / floor"],
                 [[r["card"], f"{r['batch']} x {r['context']}", f"{r['heads']}/{r['kv_heads']}",
                   f"{float(r['median_us']):.1f}", f"{float(r['ratio_floor']):.2f}"] for r in rows])


def rope_kv_write():
    rows = read_cards("rope_kv_write")
    if not rows:
        return missing("rope_kv_write_CARD.csv")
    return table(["card", "sequences x tokens", "heads", "time us", "MB", "rate / copy"],
                 [[r["card"], f"{r['batch']} x {r['queries']}", f"{r['heads']}/{r['kv_heads']}",
                   f"{float(r['median_us']):.1f}", f"{float(r['mbytes']):.1f}",
                   f"{float(r['ratio_copy']):.2f}"] for r in rows])


def engine(phase, extra):
    """Rows of every card there is a CSV of; a CSV may be older than a column."""
    names = [f"engine_{phase}_{card}.csv" for card in CARDS]
    rows = [r for name in names for r in read(name) or []]
    if not rows:
        return missing(names[0])
    out = []
    for r in rows:
        card = re.search(r"H[12]00", r["backend"])
        out.append([r["model"].replace("synthetic ", ""), f"{r['batch']} x {r['input']}",
                    *[r.get(column) or "" for column in extra], f"{float(r['tokens_per_second']):,.0f}",
                    f"{float(r['ratio']):.2f}" if r["ratio"] else "", card[0] if card else r["backend"]])
    return table(["model (random weights)", "batch x input", *extra, "tokens/s", "x BF16", "card"], out)


def engine_prefill():
    return engine("prefill", [])


def engine_decode():
    return engine("decode", ["step_us"])


def engine_serve():
    return engine("serve", ["output", "requests", "max_tokens"])


def engine_tensor_parallel():
    rows = read_cards("engine_tensor_parallel")
    if not rows:
        return missing("engine_tensor_parallel_CARD.csv")
    out, alone = [], {}
    for r in rows:
        gpus = int((re.match(r"(\d+) x ", r["backend"]) or [0, 1])[1])
        rate, key = float(r["tokens_per_second"]), (r["card"], r["model"], r["batch"], r["input"])
        alone.setdefault(key, rate if gpus == 1 else None)
        speed_up = f"{rate / alone[key]:.2f}" if alone[key] and gpus > 1 else ""
        out.append([r["model"].replace("synthetic ", ""), f"{r['batch']} x {r['input']}", str(gpus),
                    f"{rate:,.0f}", speed_up, r["card"]])
    return table(["model (random weights)", "batch x input", "GPUs", "tokens/s", "speed-up", "card"], out)


TABLES = {f.__name__: f for f in
          (*headline_table.TABLES, *accuracy_tables.TABLES, speed, llamacpp, gemm, ffn, producers, attention_prefill, attention_decode,
           rope_kv_write, engine_prefill, engine_decode, engine_serve,
           engine_tensor_parallel)}


def main():
    for name in ("README.md", "docs/RESULTS.md"):
        path = ROOT / name
        text = path.read_text()
        new = re.sub(r"(<!-- table:(\w+) -->\n).*?(<!-- /table -->)",
                     lambda match: match[1] + TABLES[match[2]]() + "\n" + match[3], text, flags=re.DOTALL)
        if "--check" not in sys.argv[1:]:
            path.write_text(new)
        elif new != text:
            sys.exit(f"{name} does not say what bench/results says: run tools/result_tables.py")


if __name__ == "__main__":
    main()
