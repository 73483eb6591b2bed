#!/usr/bin/env python3
"""Measures what docs/PERFORMANCE.md and the README show of a GPU: the CSVs of bench/results, anew.

usage: gpu_tables.py BUILD_FOLDER OUTPUT_FOLDER [TABLE]...

Runs the commands of the named tables (of all but engine_tensor_parallel, if none is named) one after another
on the first visible GPU, and writes OUTPUT_FOLDER/TABLE_CARD.csv, whose first lines say card, commit
and commands. A command that fails ends its table alone; the last line says which, and so does the exit
status. Two of these at once need two GPUs (CUDA_VISIBLE_DEVICES). Those named *_binds read the table
that they explain from OUTPUT_FOLDER and need ncu, attention, engine_prefill and engine_decode PyTorch, chain and idle a
build with CUPTI, engine_tensor_parallel four GPUs. All of one GPU take some six minutes on an H100.
"""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
LLAMA = ["--synthetic", "llama-3-8b"]
INT4_HEAD = [*LLAMA, "--lm-head", "int4"]


def shapes(*names):
    return [word for name in names for word in ("--shape", name)]


# Commands of `fireq bench`; their tables are one.
ENGINE = {
    "engine_prefill": [["prefill", *LLAMA, *shapes("16x1024x1", "16x2048x1", "16x4096x1"),
                        "--repeats", "3", "--max-tokens", "8192", "--compare"]],
    "engine_decode": [["decode", *LLAMA, *shapes("1x1024x128", "16x1024x64", "64x1024x64", "256x1280x64"),
                       "--compare"],
                      ["decode", *INT4_HEAD, *shapes("1x1024x256", "256x1280x64")]],
    "engine_serve": [["serve", *LLAMA, *shapes("256x1024x512", "256x1000x1000")],
                     ["serve", *INT4_HEAD, *shapes("256x1024x512", "256x1000x1000")],
                     ["serve", "--synthetic", "llama-2-7b", *shapes("256x1024x512")]],
    "engine_profile": [["profile", *LLAMA, *shapes("16x1024x1", "1x1024x1"), "--max-tokens", "8192"]],
    "engine_profile_4layers": [["profile", *LLAMA, "--layers", "4", *shapes("256x1280x1"),
                                "--max-tokens", "8192"]],
    "engine_tensor_parallel": [["decode", "--synthetic", "llama-2-70b", *shapes("64x1024x64"), *ranks]
                               for ranks in ([], ["--tensor-parallel", "2"], ["--tensor-parallel", "4"])],
}
# Of bench_gemm.
GEMM = {"gemm": [], "ffn": ["--ffn"], "producers": ["--producers", "--tokens", "1024,4096"]}
# Of beside_cudnn.py.
ATTENTION = {"attention_prefill": "prefill", "attention_decode": "decode", "rope_kv_write": "write"}
# Of what_binds.py: the kind, the program, and the table whose rows they are.
BINDS = {"prefill_binds": ("prefill", "bench_attention", "attention_prefill"),
         "decode_binds": ("decode", "bench_attention", "attention_decode"),
         "gemm_binds": ("gemm", "bench_gemm", "gemm"),
         "ffn_binds": ("ffn", "bench_gemm", "ffn"),
         "producers_binds": ("producers", "bench_gemm", "producers")}
# Of bench/timeline: steps, and kernels of a layer (0: launches are of several layers, and have no chain).
TIMELINES = {"1x1024x32": (20, 0), "256x1280x16": (18, 10)}

ONE_GPU = [*GEMM, *ATTENTION, *(name for name in ENGINE if name != "engine_tensor_parallel"), *BINDS,
           "chain", "idle"]


def output_of(command, **environment):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False,
                          env={**os.environ, **environment})
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()[-400:]}")
    return done.stdout


def card():
    """The GPU's name, and what files are called after (h100, h200)."""
    name = output_of(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]).splitlines()[0].strip()
    short = next((word.lower() for word in name.split() if word[:1] in "HB" and word[1:].isdigit()), "gpu")
    return name, short


def commit():
    done = subprocess.run(["git", "-C", str(HERE), "describe", "--always", "--dirty"],
                          capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


class Tables:
    def __init__(self, build, out):
        self.build, self.out = build, out
        self.name, self.card = card()
        self.commit = commit()
        self.steps = {}  # of a timeline's shape, what kernel_timeline.cpp wrote

    def path(self, table):
        return self.out / f"{table}_{self.card}.csv"

    def program(self, name):
        return self.build / "libexec/fireq" / name

    def write(self, table, commands, lines):
        head = [f"# {self.name}; commit {self.commit}", *(f"# {command}" for command in commands)]
        self.path(table).write_text("\n".join([*head, *lines]) + "\n")

    def engine(self, table):
        lines = []
        for command in ENGINE[table]:
            rows = output_of([self.build / "fireq", "bench", *command]).splitlines()
            lines += rows[1:] if lines else rows
        self.write(table, [" ".join(["fireq bench", *command]) for command in ENGINE[table]], lines)

    def gemm(self, table):
        rows = output_of([self.program("bench_gemm"), *GEMM[table]]).splitlines()
        rows = [row for row in rows if not row.startswith("#")]
        self.write(table, [" ".join(["bench_gemm", *GEMM[table]])], rows)

    def attention(self, table):
        output_of([sys.executable, HERE / "attention/beside_cudnn.py",
                   self.program("bench_attention"), self.out, ATTENTION[table]])
        rows = self.path(table).read_text().splitlines()[1:]
        self.write(table, [f"bench/attention/beside_cudnn.py BENCH_ATTENTION OUT {ATTENTION[table]}"], rows)

    def binds(self, table):
        kind, program, results = BINDS[table]
        rows = output_of([sys.executable, HERE / "what_binds.py", kind, self.program(program),
                          self.path(results)]).splitlines()
        self.write(table, [f"bench/what_binds.py {kind} {program} {results}_{self.card}.csv"], rows)

    def timeline(self, shape):
        if shape not in self.steps:
            spans = self.out / f"timeline_{shape}.csv"
            output_of([self.build / "fireq", "bench", "decode", *LLAMA, *shapes(shape)],
                      CUDA_INJECTION64_PATH=str(self.build / "bench/timeline/libkernel_timeline.so"),
                      FIREQ_TIMELINE=str(spans))
            self.steps[shape] = spans
        return self.steps[shape]

    def chain(self, _):
        lines = ["shape,gpus,place,kernel,chain_us"]
        for shape, (_, kernels) in TIMELINES.items():
            if not kernels:
                continue
            rows = output_of([sys.executable, HERE / "timeline/idle.py", "--chain",
                              self.timeline(shape), kernels]).splitlines()[1:]
            lines += [f"{shape.rsplit('x', 1)[0]},1,{row}" for row in rows]
        self.write("engine_chain", self.timeline_commands(), lines)

    def idle(self, _):
        lines = []
        for shape, (steps, _) in TIMELINES.items():
            rows = output_of([sys.executable, HERE / "timeline/idle.py", self.timeline(shape), steps,
                              shape]).splitlines()
            rows = [row for row in rows if not row.startswith("#")]
            lines += rows[1:] if lines else [rows[0].replace("label", "shape", 1), *rows[1:]]
        self.write("engine_idle", self.timeline_commands(), lines)

    @staticmethod
    def timeline_commands():
        return [" ".join(["bench/timeline of: fireq bench decode", *LLAMA, *shapes(*TIMELINES)])]

    def make(self, table):
        for group, how in ((GEMM, self.gemm), (ATTENTION, self.attention), (ENGINE, self.engine),
                           (BINDS, self.binds), (("chain",), self.chain), (("idle",), self.idle)):
            if table in group:
                how(table)


def main():
    if len(sys.argv) < 3 or {"-h", "--help"} & set(sys.argv):
        sys.exit(__doc__)
    wanted = sys.argv[3:] or ONE_GPU
    unknown = [table for table in wanted if table not in (*ONE_GPU, "engine_tensor_parallel")]
    if unknown:
        sys.exit(f"no table {', '.join(unknown)}: expected of {' '.join(ONE_GPU)} engine_tensor_parallel")
    tables = Tables(pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve())
    tables.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for table in wanted:
        try:
            tables.make(table)
            print(f"{table}: written", flush=True)
        except (RuntimeError, OSError) as error:
            failed.append(table)
            print(f"{table}: {error}", flush=True)
    if failed:
        sys.exit(f"not written: {' '.join(failed)}")


if __name__ == "__main__":
    main()
