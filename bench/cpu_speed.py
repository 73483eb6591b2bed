#!/usr/bin/env python3
"""Speed of a model on the CPU backend: decode at a short and a long context, prefill, evaluation.

    bench/cpu_speed.py MODEL [--threads 2] [--kernels avx512_bf16|avx2] [--runs 5] [--output FILE]
                       [--fireq build/cpu/fireq]

Each figure is the median of RUNS runs of the program on an otherwise idle machine, with the lowest
and the highest; text is a fixed random choice of words, since speed does not depend on what is said.
Writes bench/results/cpu_speed_KERNELS.csv: say which kernels this processor takes. Standard library
only. tools/result_tables.py makes the table of the CSV.
"""

import argparse
import csv
import json
import os
import pathlib
import random
import statistics
import subprocess
import tempfile

WORDS = ("the of and to in a is that for it was on are as with his they at be this have from or one had "
         "by word but not what all were we when your can said there use an each which she do how").split()


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--kernels", default="avx2", choices=["avx512_bf16", "avx2"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=pathlib.Path, help="another CSV file, for a trial")
    parser.add_argument("--fireq", default="build/cpu/fireq")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    rng = random.Random(0)
    load_before = os.getloadavg()[0]

    def run(*command):
        return json.loads(subprocess.run(
            [arguments.fireq, *command, "--threads", arguments.threads, "--device", "cpu", "--json"],
            stdout=subprocess.PIPE, check=True).stdout)

    def generate(prompt_words, new_tokens):
        prompt = " ".join(rng.choice(WORDS) for _ in range(prompt_words))
        return run("generate", arguments.model, "--prompt", prompt, "-n", str(new_tokens), "--ignore-eos")

    def rates(key, *shape):
        return [generate(*shape)[key] for _ in range(arguments.runs)]

    with tempfile.NamedTemporaryFile("w", suffix=".txt") as text:
        text.write(" ".join(rng.choice(WORDS) for _ in range(6000)))
        text.flush()
        evaluation = [
            run("eval", "perplexity", arguments.model, "--text", text.name, "--max-tokens", "4096")
            ["tokens_per_second"] for _ in range(arguments.runs)]
    rows = [
        ("decode at a short context", rates("decode_tokens_per_second", 8, 65)),
        ("decode at a context of 1024", rates("decode_tokens_per_second", 1024, 65)),
        ("prefill of 512", rates("prefill_tokens_per_second", 512, 1)),
        ("prefill of 2048", rates("prefill_tokens_per_second", 2048, 1)),
        ("evaluation at context 2048", evaluation),
    ]
    path = arguments.output or pathlib.Path(__file__).parent / f"results/cpu_speed_{arguments.kernels}.csv"
    with path.open("w", newline="") as file:
        file.write(f"# bench/cpu_speed.py {pathlib.Path(arguments.model).name} --threads {arguments.threads} "
                   f"--kernels {arguments.kernels} --runs {arguments.runs}; load average {load_before:.1f} before\n")
        out = csv.writer(file)
        out.writerow(["what", "tokens_per_second", "lowest", "highest"])
        for what, measured in rows:
            figures = [f"{rate:.1f}" for rate in (statistics.median(measured), min(measured), max(measured))]
            out.writerow([what, *figures])
            print(f"{what:32}{figures[0]:>10} tokens/s  ({figures[1]} to {figures[2]})")


if __name__ == "__main__":
    main()
