#!/usr/bin/env python3
"""Quantises a model by many recipes, measures each, and keeps a CSV and a markdown table.

    bench/accuracy/run.py --set main     --data DATA   # the rows of the README, 65,536 tokens
    bench/accuracy/run.py --set ablation --data DATA   # each ingredient, 16,384 tokens
    bench/accuracy/run.py --set full     --data DATA   # the rows of main over all 303,104 tokens
    bench/accuracy/run.py --set sensitivity --data DATA  # one kind of tensor or one layer alone
    bench/accuracy/run.py --set choose   --data DATA   # how `default` was chosen: calibration text

DATA holds wikitext-2-raw/wiki.test.raw and calibration/{c4,wiki}.utf8. A row that the CSV already has
(same recipe, settings, products, text and sizes) is not run again, so a run can be interrupted.
--jobs N measures N recipes at a time; give --threads too. Standard library only.
"""

import argparse
import concurrent.futures
import csv
import json
import pathlib
import subprocess
import tempfile
import threading
import time

FIELDS = ["row", "recipe", "settings", "products", "text", "tokens", "calibration", "calib_tokens",
          "perplexity", "perplexity_stderr", "kl", "kl_stderr", "top1", "quantize_seconds", "when"]

FLOAT_REST = "activations=float query=float probs=float borders=f32"
NO_COMPENSATION = "weights.solver=nearest weights.sweeps=0 follow=false"
FLOAT_LINEARS = "weights.grid=none rotate.residual=false " + NO_COMPENSATION
KV_ONLY = FLOAT_LINEARS + " query=float probs=float borders=f32"
WEIGHTS_ONLY = "kv=float rpn=false crs=false hadamard.qk=false " + FLOAT_REST

MAIN = [
    ("default", "default", ""),
    ("fireq", "fireq", ""),
    ("qoq", "qoq", ""),
    ("rtn", "rtn", ""),
    ("float", "", ""),
]

RIVALS = [
    ("qoq", "qoq", ""),
    ("qoq without clipping", "qoq", "weights.search=false"),
    ("qoq without SmoothAttention", "qoq", "smooth.qk=false"),
    ("qoq, outputs smoothed", "qoq", "cas=mean cas.lambdas=1,3"),
    ("qoq, residual rotated", "qoq", "rotate.residual=true"),
    ("fireq", "fireq", ""),
]

# Rows with a fourth entry are calibrated on that text instead, with a fifth scored on it.
SEEDS = [
    (f"{recipe}, rotation seed {seed}", recipe, f"seed={seed}")
    for recipe in ("default",) for seed in (1, 2, 3)
] + [
    (f"{recipe}, calibrated on {text}", recipe, "", f"calibration/{text}.utf8")
    for text in ("c4", "wiki", "technical") for recipe in ("default", "fireq", "qoq", "rtn")
] + [
    (f"{recipe}, scored on technical prose", recipe, "", "calibration/c4.utf8",
     "calibration/technical.utf8")
    for recipe in ("default", "fireq", "qoq", "rtn")
]

ABLATION = [
    ("rtn", "rtn", ""),
    ("fireq", "fireq", ""),
    ("fireq, CAS by absmax", "fireq-absmax", ""),
    ("fireq without t", "fireq", "weights.t=false"),
    ("fireq without CAS", "fireq", "cas=none"),
    ("fireq without RPN", "fireq", "rpn=false"),
    ("fireq without CRS", "fireq", "crs=false"),
    ("fireq without RPN and CRS", "fireq", "rpn=false crs=false"),
    ("fireq with asymmetric K and V", "fireq", "kv=asymmetric"),
    ("fireq with searched scales", "fireq", "weights.grid=signed weights.search=true"),
    ("default", "default", ""),
    ("default without error compensation", "default",
     NO_COMPENSATION),
    ("default without following", "default", "follow=false"),
    ("default without coordinate descent", "default", "weights.sweeps=0"),
    ("default without search", "default", "weights.search=false"),
    ("default without rotation of the residual", "default", "rotate.residual=false"),
    ("default without rotation of V", "default", "rotate.v=false"),
    ("default without Hadamard of Q and K", "default", "hadamard.qk=false"),
    ("default with symmetric K and V", "default", "kv=symmetric"),
    ("weights only, rtn", "rtn", WEIGHTS_ONLY),
    ("weights only, fireq", "fireq", WEIGHTS_ONLY),
    ("weights only, default", "default", WEIGHTS_ONLY),
    ("K and V only, rtn", "rtn", KV_ONLY),
    ("K and V only, fireq", "fireq", KV_ONLY + " cas=none"),
    ("K and V only, default", "default", KV_ONLY),
]

# Everything but what the name says stays as the float model has it. Fused linears go together.
ALONE = "kv=float activations=float query=float probs=float borders=f32 follow=false"
SENSITIVITY = [
    (f"{kind} alone", "default", f"{ALONE} exclude=^(?!.*({kind.replace(',', '|')})_proj)")
    for kind in ("q,k,v", "o", "gate,up", "down")
] + [
    ("K and V alone", "default", KV_ONLY),
    ("weights alone", "default", ALONE),
] + [
    (f"layer {layer} alone", "default", f"{ALONE} exclude=^(?!model\\.layers\\.{layer}\\.)")
    for layer in range(30)
]

CHOOSE = [
    ("default", "default", ""),
    ("RPN and CRS for Hadamard", "default", "rpn=true crs=true hadamard.qk=false"),
    ("asym grid, mean products", "default", "weights.grid=asym weights.products=mean"),
    ("signed grid, table products", "default", "weights.grid=signed weights.products=table"),
    ("damping 0.01", "default", "weights.damping=0.01"),
    ("no sweeps", "default", "weights.sweeps=0"),
]

WIKI_TEST = "wikitext-2-raw/wiki.test.raw"
SETS = {
    "main": (MAIN, WIKI_TEST, 65536, 131072),
    "full": (MAIN, WIKI_TEST, 303104, 131072),
    "rivals": (RIVALS, WIKI_TEST, 16384, 32768),
    "ablation": (ABLATION, WIKI_TEST, 16384, 32768),
    "seeds": (SEEDS, WIKI_TEST, 16384, 32768),
    "sensitivity": (SENSITIVITY, "calibration/wiki.utf8", 8192, 16384),
    "choose": (CHOOSE, "calibration/wiki.utf8", 16384, 32768),
}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--set", required=True, choices=SETS)
    parser.add_argument("--fireq", default="build/cpu/fireq")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--products", default="table,exact")
    parser.add_argument("--tokens", type=int, help="of the text that is scored")
    parser.add_argument("--calib-tokens", type=int)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time")
    parser.add_argument("--only", help="rows whose name contains this")
    parser.add_argument("--out", type=pathlib.Path,
                        default=pathlib.Path(__file__).parent.parent / "results")
    return parser.parse_args()


def run(command):
    result = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {result.returncode}")
    return json.loads(result.stdout)


def key_of(row):
    return tuple(str(row[f]) for f in ("recipe", "settings", "products", "text", "tokens",
                                       "calibration", "calib_tokens"))


def evaluate(arguments, target, row, reference):
    command = [arguments.fireq, "eval", "perplexity", target, "--text",
               str(arguments.data / row["text"]), "--max-tokens", str(row["tokens"]), "--products",
               row["products"], "--json", *arguments.thread_options]
    result = run(command + (["--reference", arguments.model] if reference else []))
    row.update(perplexity=round(result["perplexity"], 4),
               perplexity_stderr=round(result["perplexity_stderr"], 4),
               kl=round(result.get("kl_mean", 0.0), 5),
               kl_stderr=round(result.get("kl_stderr", 0.0), 5),
               top1=round(result.get("top1_agreement", 1.0), 4),
               when=time.strftime("%Y-%m-%d"))


def measure(arguments, spec, text, tokens, calib_tokens, done, save):
    defaults = ("", "", "", "calibration/c4.utf8", text)
    name, recipe, settings, calibration, text = (*spec, *defaults[len(spec):])
    wanted = []
    for products in arguments.products.split(",") if recipe else ["float"]:
        row = dict(row=name, recipe=recipe or "float", settings=settings, products=products,
                   text=text, tokens=tokens, calibration=calibration if recipe else "",
                   calib_tokens=calib_tokens if recipe else 0, quantize_seconds="")
        if key_of(row) not in done:
            wanted.append(row)
    if not wanted:
        return
    if not recipe:
        row = {**wanted[0], "products": "exact"}  # no products in a float model: either does
        evaluate(arguments, arguments.model, row, False)
        save({**row, "products": "float"})
        return
    with tempfile.TemporaryDirectory() as folder:
        target = f"{folder}/model"
        command = [arguments.fireq, "quantize", arguments.model, "-o", target, "--recipe", recipe,
                   "--calib", str(arguments.data / calibration), "--calib-tokens",
                   str(calib_tokens), "--json", *arguments.thread_options]
        for setting in settings.split():
            command += ["--set", setting]
        report = run(command)
        for row in wanted:
            row["quantize_seconds"] = round(report["seconds"], 1)
            evaluate(arguments, target, row, True)
            save(row)


def markdown(rows):
    lines = ["| | products | perplexity | KL | top-1 |", "|---|---|---|---|---|"]
    for row in rows:
        lines.append(f"| {row['row']} | {row['products']} | {float(row['perplexity']):.3f} | "
                     f"{float(row['kl']):.4f} +- {float(row['kl_stderr']):.4f} | "
                     f"{100 * float(row['top1']):.1f} % |")
    return "\n".join(lines) + "\n"


def main():
    arguments = parse_arguments()
    rows, text, tokens, calib_tokens = SETS[arguments.set]
    tokens = arguments.tokens or tokens
    calib_tokens = arguments.calib_tokens or calib_tokens
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"accuracy_{arguments.set}.csv"
    kept = []
    if path.exists():
        with path.open(newline="") as file:
            kept = list(csv.DictReader(file))
    done = {key_of(row) for row in kept}
    order = [name for name, _, _ in rows]
    lock = threading.Lock()

    def place(row):
        name = row["row"]
        return order.index(name) if name in order else len(order)

    def save(row):
        with lock:
            kept.append({field: str(row[field]) for field in FIELDS})
            print(markdown(kept[-1:]).splitlines()[-1], flush=True)
            kept.sort(key=place)
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, FIELDS)
                writer.writeheader()
                writer.writerows(kept)
            path.with_suffix(".md").write_text(markdown(kept))

    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        tasks = [pool.submit(measure, arguments, name, recipe, settings, text, tokens,
                             calib_tokens, done, save)
                 for name, recipe, settings in rows
                 if not arguments.only or arguments.only in name]
        for task in tasks:
            task.result()


if __name__ == "__main__":
    main()
