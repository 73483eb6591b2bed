#!/usr/bin/env python3
"""What binds the rows that miss their contract: ncu's counters of one launch of each, as CSV.

usage: what_binds.py gemm      BENCH_GEMM      RESULTS_CSV [RAW_FOLDER]
       what_binds.py ffn       BENCH_GEMM      RESULTS_CSV [RAW_FOLDER]
       what_binds.py producers BENCH_GEMM      RESULTS_CSV [RAW_FOLDER]
       what_binds.py prefill   BENCH_ATTENTION RESULTS_CSV [RAW_FOLDER]
       what_binds.py decode    BENCH_ATTENTION RESULTS_CSV [RAW_FOLDER]

RESULTS_CSV is a table of bench/results (gemm_CARD.csv, ffn_CARD.csv, producers_CARD.csv,
attention_prefill_CARD.csv, attention_decode_CARD.csv); its rows beyond the contract are run under
ncu, at the clock that the card chooses, from cold caches. GEMM rows have cuBLASLt FP8's kernel
beside them, FFNs their steps one by one and those of cuBLASLt FP16. RAW_FOLDER keeps what ncu
wrote. Needs ncu and a GPU.

Columns from `sm_active` on are percent: of the kernel's time, how much of it an SM had a CTA (what is
missing: SMs without work, the kernel's start and end); then, of that time, what each pipe could do; `l2`
and `dram` of the kernel's time again. `waits` are the most frequent reasons why a warp did not
issue, in cycles an issued instruction, all warps of the kernel together, producers' too. Kind
producers, of the kernels that make a GEMM's tokens, has three columns more: `warps`, percent of the
most that an SM holds, while it has a CTA; `waves`, CTAs over those that all SMs hold at once;
`registers` of a thread.
"""

import csv
import pathlib
import subprocess
import sys
import tempfile

# M up to which, over cuBLASLt FP8, over the plain read of the weights (docs/PERFORMANCE.md).
GEMM_CONTRACT = [(16, 0.65, 1.4), (64, 0.70, None), (128, 0.80, None), (256, 0.95, None),
                 (512, 1.0, None), (16384, 1.0, None)]
# M: cuBLASLt FP16's time over ours.
FFN_CONTRACT = {**dict.fromkeys((1, 2, 4, 8, 16), 2.7), 32: 2.4, 64: 2.4, 1024: 1.8, 4096: 1.8,
                16384: 1.8}
# The copy's time over ours, M >= 1024.
PRODUCERS_CONTRACT = 0.85
# batch, context: cuDNN's time over ours.
PREFILL_CONTRACT = {(16, 1024): 1.2, (16, 2048): 1.25, (16, 4096): 1.5, (4, 8192): 1.55,
                    (1, 32768): 1.55}
# batch, context: microseconds, on an H200.
DECODE_CONTRACT = {(1, 1024): 6, (1, 4096): 8, (1, 16384): 12, (16, 1024): 9, (16, 4096): 23,
                   (16, 16384): 85, (64, 1024): 24, (64, 4096): 85, (64, 16384): 330,
                   (256, 1024): 85, (256, 4096): 330, (256, 16384): 1310}

# Columns: a metric of ncu and what its base unit is divided by.
METRICS = {
    "us": ("gpu__time_duration.sum", 1e3),
    "ghz": ("sm__cycles_elapsed.avg.per_second", 1e9),
    "ctas": ("launch__grid_size", 1),
    "sm_active": ("sm__cycles_active.avg.pct_of_peak_sustained_elapsed", 1),
    "tensor": ("sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active", 1),
    "issue": ("smsp__issue_active.avg.pct_of_peak_sustained_active", 1),
    "alu": ("sm__inst_executed_pipe_alu.avg.pct_of_peak_sustained_active", 1),
    "fma": ("sm__pipe_fma_cycles_active.avg.pct_of_peak_sustained_active", 1),
    "xu": ("sm__inst_executed_pipe_xu.avg.pct_of_peak_sustained_active", 1),
    "lsu": ("sm__inst_executed_pipe_lsu.avg.pct_of_peak_sustained_active", 1),
    "l2": ("lts__throughput.avg.pct_of_peak_sustained_elapsed", 1),
    "dram": ("dram__throughput.avg.pct_of_peak_sustained_elapsed", 1),
}
TIME = METRICS["us"][0]
# Of cuBLASLt, where it cuts K: its time is the product's, whose other counters stand for both.
BEHIND_A_PRODUCT = "splitKreduce"
PRODUCERS_METRICS = {
    **METRICS,
    "warps": ("sm__warps_active.avg.pct_of_peak_sustained_active", 1),
    "waves": ("launch__waves_per_multiprocessor", 1),
    "registers": ("launch__registers_per_thread", 1),
}
WAIT = "smsp__average_warps_issue_stalled_"
WAITS = f"regex:{WAIT}.*_per_issue_active\\.ratio"


def rows_of(path):
    lines = pathlib.Path(path).read_text().splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def profile(command, kernel_options, raw, columns=METRICS):
    """The launches that ncu saw, in order, as dictionaries of metrics; and the program's output."""
    with tempfile.NamedTemporaryFile(suffix=".csv") as log:
        metrics = [name for name, _ in columns.values()]
        done = subprocess.run(
            ["ncu", "--clock-control", "none", "--csv", "--page", "raw", "--print-units", "base",
             "--log-file", log.name, "--metrics", ",".join([*metrics, WAITS]), *kernel_options, *command],
            capture_output=True, text=True, check=False, timeout=200)
        text = pathlib.Path(log.name).read_text()
    if raw:
        raw.write_text(text)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr or text}")
    table = [line for line in text.splitlines() if line.startswith('"')]
    launches = []
    for launch in list(csv.DictReader(table))[1:]:  # the first line below the names has units
        if BEHIND_A_PRODUCT in launch["Kernel Name"]:
            more = number(launch, TIME) + number(launches[-1], TIME)
            launches[-1] |= {TIME: str(more)}
        else:
            launches.append(launch)
    return launches, done.stdout


def pairs(names, launches):
    """What the program says that it launched, and what ncu saw."""
    if len(names) != len(launches):
        seen = "\n".join(launch["Kernel Name"] for launch in launches)
        sys.exit(f"{len(names)} launches expected, ncu saw {len(launches)}:\n{seen}")
    return zip(names, launches)


def number(launch, metric):
    try:
        return float(launch[metric].replace(",", ""))
    except (KeyError, ValueError):
        return None


def fields(launch, columns=METRICS):
    """One launch's columns."""
    some = []
    for metric, scale in columns.values():
        value = number(launch, metric)
        some.append("" if value is None else f"{value / scale:.4g}")
    waits = {}
    for metric in launch:
        if metric.startswith(WAIT) and "not_issued" not in metric:
            name = metric.removeprefix(WAIT).split("_per_issue")[0]
            waits[name] = number(launch, metric) or 0.0
    top = sorted(waits, key=waits.get, reverse=True)[:4]
    return [*some, " ".join(f"{name} {waits[name]:.1f}" for name in top)]


def gemm(program, results, raw):
    missed = {}
    for row in rows_of(results):
        tokens = int(row["M"])
        fp8, floor = next(limits[1:] for limits in GEMM_CONTRACT if tokens <= limits[0])
        if row["kernel"] == "fireq" and (
                float(row["ratio_fp8"]) > fp8 or (floor and float(row["ratio_floor"]) > floor)):
            missed.setdefault(tokens, []).append(f"{row['N']}x{row['K']}")
    yield ["model", "layer", "M", "N", "K", "kernel", *METRICS, "waits"]
    for tokens, shapes in missed.items():
        launches, output = profile(
            [program, "--profile", "--tokens", str(tokens), "--shapes", ",".join(shapes)],
            ["--profile-from-start", "off"], raw and raw / f"gemm_{tokens}.csv")
        names = [line.split(",") for line in output.splitlines() if "," in line][1:]
        for name, launch in pairs(names, launches):
            yield [*name, *fields(launch)]


def ffn(program, results, raw):
    missed = {}
    for row in rows_of(results):
        tokens = int(row["M"])
        if float(row["ratio_fp16"]) < FFN_CONTRACT.get(tokens, 0):
            missed.setdefault(tokens, []).append(row["model"])
    yield ["model", "M", "kernel", "step", *METRICS, "waits"]
    for tokens, models in missed.items():
        launches, output = profile([program, "--ffn", "--profile", "--tokens", str(tokens)],
                                   ["--profile-from-start", "off"],
                                   raw and raw / f"ffn_{tokens}.csv")
        steps = [line.split(",") for line in output.splitlines() if "," in line][1:]
        for step, launch in pairs(steps, launches):
            if step[0] in models:
                yield [*step, *fields(launch)]


def producers(program, results, raw):
    missed = {}
    for row in rows_of(results):
        tokens = int(row["M"])
        if tokens >= 1024 and float(row["ratio_copy"]) < PRODUCERS_CONTRACT:
            missed.setdefault(tokens, []).append([row["kernel"], row["M"], row["K"]])
    yield ["kernel", "M", "K", *PRODUCERS_METRICS, "waits"]
    for tokens, rows in missed.items():
        launches, output = profile([program, "--producers", "--profile", "--tokens", str(tokens)],
                                   ["--profile-from-start", "off"],
                                   raw and raw / f"producers_{tokens}.csv", PRODUCERS_METRICS)
        names = [line.split(",") for line in output.splitlines() if "," in line][1:]
        for name, launch in pairs(names, launches):
            if name in rows:
                yield [*name, *fields(launch, PRODUCERS_METRICS)]


def attention(program, results, raw, phase, kernel, meets):
    """Rows of `phase`, a command of the program, that `meets(row, (batch, context))` denies."""
    yield ["batch", "context", "heads", "kv_heads", "head_dim", *METRICS, "waits"]
    for row in rows_of(results):
        shape = [row[key] for key in ("batch", "context", "heads", "kv_heads", "head_dim")]
        if meets(row, (int(shape[0]), int(shape[1]))):
            continue
        launches, _ = profile([program, phase, "x".join(shape)],
                              ["--kernel-name", f"regex:{kernel}", "--launch-skip", "4",
                               "--launch-count", "1"], raw and raw / f"{phase}_{'x'.join(shape)}.csv")
        for launch in launches:
            yield [*shape, *fields(launch)]


def prefill(program, results, raw):
    return attention(program, results, raw, "prefill", "AttnPrefill",
                     lambda row, at: float(row["ratio_cudnn"]) >= PREFILL_CONTRACT[at])


def decode(program, results, raw):
    return attention(program, results, raw, "decode", "AttnDecode",
                     lambda row, at: float(row["median_us"]) <= DECODE_CONTRACT[at])


def main():
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        return
    kinds = {"gemm": gemm, "ffn": ffn, "producers": producers, "prefill": prefill, "decode": decode}
    if len(sys.argv) not in (4, 5) or sys.argv[1] not in kinds:
        sys.exit(__doc__.split("\n\n")[1])
    raw = pathlib.Path(sys.argv[4]) if len(sys.argv) == 5 else None
    if raw:
        raw.mkdir(parents=True, exist_ok=True)
    out = csv.writer(sys.stdout, lineterminator="\n")
    for line in kinds[sys.argv[1]](sys.argv[2], sys.argv[3], raw):
        out.writerow(line)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
