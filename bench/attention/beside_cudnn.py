#!/usr/bin/env python3
"""FireQ's attention kernels and cuDNN's BF16 attention (through PyTorch) in one run, as CSV.

usage: beside_cudnn.py BENCH_PROGRAM OUTPUT_FOLDER [prefill|decode|write]...

Writes attention_prefill_CARD.csv, attention_decode_CARD.csv and rope_kv_write_CARD.csv (or those that
are named alone), CARD being the card's name as PyTorch gives it (h100, h200). BENCH_PROGRAM is bench_attention; each prefill
shape is timed right beside cuDNN on the same shape. Both count 4 * context^2 * head_dim / 2
operations a head (causal).
"""

import pathlib
import statistics
import subprocess
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

PREFILL = [(16, 1024), (16, 2048), (16, 4096), (4, 8192), (1, 32768)]
DECODE = [(b, c) for b in (1, 16, 64, 256) for c in (1024, 4096, 16384)]
# batch, context, tokens of each sequence that are written
WRITE = [(16, 1024, 1024), (4, 8192, 2048), (1, 8192, 8192), (16, 4096, 1), (256, 4096, 1), (64, 4096, 4)]


def ours(program, kind, *shapes):
    """A row of numbers for each shape (batch, context, heads, kv_heads, dim, queries)."""
    names = ["x".join(str(n) for n in shape) for shape in shapes]
    done = subprocess.run([program, kind, *names], check=True, capture_output=True, text=True, timeout=90)
    return [[float(field) for field in line.split(",")] for line in done.stdout.splitlines()[1:]]


def cudnn_us(batch, context, heads, kv_heads, dim):
    q = torch.randn(batch, heads, context, dim, device="cuda", dtype=torch.bfloat16)
    k, v = (
        torch.randn(batch, kv_heads, context, dim, device="cuda", dtype=torch.bfloat16)
        for _ in range(2)
    )
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        def run():
            return torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=True, enable_gqa=heads != kv_heads
            )

        for _ in range(3):
            run()
        times = []
        for _ in range(11):
            start, stop = torch.cuda.Event(True), torch.cuda.Event(True)
            start.record()
            run()
            run()
            stop.record()
            stop.synchronize()
            times.append(start.elapsed_time(stop) * 500.0)
    return statistics.median(times)


def prefill(program, out):
    print("batch,context,heads,kv_heads,head_dim,median_us,tflops,cudnn_bf16_us,ratio_cudnn", file=out)
    for heads, kv_heads in ((32, 8), (32, 32)):
        for batch, context in PREFILL:
            peer = cudnn_us(batch, context, heads, kv_heads, 128)
            torch.cuda.empty_cache()
            row = ours(program, "prefill", (batch, context, heads, kv_heads, 128, 1))[0]
            print(f"{batch},{context},{heads},{kv_heads},128,{row[5]:.1f},{row[6]:.1f},{peer:.1f},"
                  f"{peer / row[5]:.3f}", file=out, flush=True)


def decode(program, out):
    print("batch,context,heads,kv_heads,head_dim,median_us,floor_us,ratio_floor", file=out)
    rows = ours(program, "decode", *((batch, context, 32, 8, 128, 1) for batch, context in DECODE))
    for (batch, context), row in zip(DECODE, rows, strict=True):
        print(f"{batch},{context},32,8,128,{row[5]:.2f},{row[6]:.2f},{row[7]:.3f}", file=out, flush=True)


def write(program, out):
    print("batch,queries,context,heads,kv_heads,head_dim,median_us,mbytes,gbytes_per_s,"
          "copy_gbytes_per_s,ratio_copy", file=out)
    rows = ours(program, "rope", *((batch, context, 32, 8, 128, queries) for batch, context, queries in WRITE))
    for (batch, context, queries), row in zip(WRITE, rows, strict=True):
        print(f"{batch},{queries},{context},32,8,128,{row[6]:.2f},{row[7]:.2f},{row[8]:.0f},{row[9]:.0f},"
              f"{row[10]:.3f}", file=out, flush=True)


def main():
    program, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    name = torch.cuda.get_device_name()
    card = next((word.lower() for word in name.split() if word[:1] in "HB" and word[1:].isdigit()), "gpu")
    for table, fill in (("attention_prefill", prefill), ("attention_decode", decode), ("rope_kv_write", write)):
        if len(sys.argv) > 3 and fill.__name__ not in sys.argv[3:]:
            continue
        with open(folder / f"{table}_{card}.csv", "w") as out:
            print(f"# {name}; bench/attention/beside_cudnn.py BENCH_PROGRAM bench/results", file=out)
            fill(program, out)


if __name__ == "__main__":
    main()
