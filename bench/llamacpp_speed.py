#!/usr/bin/env python3
"""The CPU backend beside llama.cpp (xllamacpp from PyPI): the same model, ids and threads.

    bench/llamacpp_speed.py CHECKPOINT GGUF [--threads 2] [--rounds 5] [--fireq build/cpu/fireq]

CHECKPOINT is what `fireq quantize GGUF` wrote. Each round measures each row once with FireQ and once
with llama.cpp, one right after the other, each in a process of its own; a row's ratio is the median
of its rounds' ratios, so that what else the machine does falls on both. Rates are the programs' own
(llama.cpp's "timings"). Load to first token is wall time: FireQ's whole process, from exec to exit,
for one token after a prompt of one; llama.cpp's from before it loads (its Python has started and
imported it already; no warm-up run) to that token. Makes build/llamacpp-venv once; writes
bench/results/llamacpp_speed.csv.
"""

import argparse
import csv
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONTEXT = 2304
# What is measured: tokens of the prompt, tokens to generate, which figure, our ratio by contract.
ROWS = {
    "decode, short context": (8, 64, "decode", 1.0),
    "decode at 1024": (1024, 64, "decode", 1.3),
    "prefill 512": (512, 1, "prefill", 2.0),
    "prefill 2048": (2048, 1, "prefill", 2.0),
    "load to first token, s": (1, 1, "seconds", 1.0),
}


def llamacpp_worker(model: str, threads: int, new_tokens: int, ids: list[int]) -> None:
    """Runs inside the virtual environment; prints one JSON line."""
    import xllamacpp
    start = time.monotonic()
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = CONTEXT
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.warmup = False
    server = xllamacpp.Server(params)
    answer = server.handle_completions({"prompt": ids, "max_tokens": new_tokens, "temperature": 0,
                                        "ignore_eos": True, "cache_prompt": False})
    timings = answer["timings"]
    assert timings["prompt_n"] == len(ids) and timings["predicted_n"] == new_tokens, timings
    print(json.dumps({"prefill": timings["prompt_per_second"], "decode": timings["predicted_per_second"],
                      "seconds": time.monotonic() - start}), flush=True)
    os._exit(0)  # its threads do not end by themselves


def virtual_environment() -> str:
    python = ROOT / "build/llamacpp-venv/bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "xllamacpp"], check=True)
    return str(python)


def measure_llamacpp(python, arguments, ids, new_tokens):
    out = subprocess.run([python, __file__, "--worker", arguments.gguf, str(arguments.threads), str(new_tokens)],
                         input=json.dumps(ids), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                         check=True).stdout
    return json.loads(out.splitlines()[-1])


def measure_fireq(arguments, ids, new_tokens):
    start = time.monotonic()
    out = subprocess.run([arguments.fireq, "generate", arguments.checkpoint, "--prompt-ids", ",".join(map(str, ids)),
                          "-n", str(new_tokens), "--ignore-eos", "--threads", str(arguments.threads), "--device",
                          "cpu", "--json"], stdout=subprocess.PIPE, check=True).stdout
    seconds = time.monotonic() - start
    result = json.loads(out)
    assert result["prompt_ids"] == ids and len(result["ids"]) == new_tokens, result
    return {"prefill": result["prefill_tokens_per_second"], "decode": result["decode_tokens_per_second"],
            "seconds": seconds}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint")
    parser.add_argument("gguf")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fireq", default=str(ROOT / "build/cpu/fireq"))
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    python = virtual_environment()
    rng = random.Random(0)
    pairs = {what: [] for what in ROWS}
    load_before = os.getloadavg()[0]
    for _ in range(arguments.rounds):
        for what, (prompt, new_tokens, figure, _) in ROWS.items():
            ids = [rng.randrange(1000, 40000) for _ in range(prompt)]
            ours = measure_fireq(arguments, ids, new_tokens)[figure]
            theirs = measure_llamacpp(python, arguments, ids, new_tokens)[figure]
            pairs[what].append((ours, theirs))
    path = ROOT / "bench/results/llamacpp_speed.csv"
    with path.open("w", newline="") as file:
        file.write(f"# bench/llamacpp_speed.py, {arguments.threads} threads, {arguments.rounds} rounds of pairs, "
                   f"load average {load_before:.1f} before\n")
        out = csv.writer(file)
        out.writerow(["what", "fireq", "llamacpp", "ratio", "lowest_ratio", "highest_ratio", "contract"])
        for what, values in pairs.items():
            ours, theirs = (statistics.median(v[i] for v in values) for i in (0, 1))
            ratios = sorted(a / b for a, b in values)
            bound = ("<= " if ROWS[what][2] == "seconds" else ">= ") + str(ROWS[what][3])
            out.writerow([what, f"{ours:.4g}", f"{theirs:.4g}", f"{statistics.median(ratios):.3f}",
                          f"{ratios[0]:.3f}", f"{ratios[-1]:.3f}", bound])
            print(f"{what:26}{ours:10.3f}{theirs:10.3f}   x {statistics.median(ratios):.2f} "
                  f"({ratios[0]:.2f} to {ratios[-1]:.2f}), contract {bound}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        llamacpp_worker(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), json.load(sys.stdin))
    else:
        main()
