#!/usr/bin/env python3
"""Quantises a model by many recipes, measures each, and keeps a CSV and a markdown table of every set.

    bench/accuracy/run.py --set main     --data DATA   # the rows of the README, 65,536 tokens
    bench/accuracy/run.py --set full     --data DATA   # perplexity of the same over all 303,104 tokens
    bench/accuracy/run.py --set ablation --data DATA   # each ingredient, 16,384 tokens
    bench/accuracy/run.py --set seeds    --data DATA   # the default's ingredients, three texts and rotations
    bench/accuracy/run.py --set texts    --data DATA   # calibrated on c4 or wiki, scored on two texts
    bench/accuracy/run.py --set sensitivity --data DATA  # one kind of tensor or one layer alone
    bench/accuracy/run.py --set tasks    --data DATA   # zero-shot tasks, the first 500 items of each

and rivals, kv, auto, choose, tasks_full (rows.py). DATA holds
wikitext-2-raw/wiki.test.raw, calibration/*.utf8 and tasks/.
A row that the CSV already has (same recipe, settings, products, text, sizes and kind of device that
scores) is not run again, so a run can be interrupted. Sets named together (--set main,full) share their
checkpoints. --jobs N runs N programs at a time, quantisers with --threads and evaluations with --eval-threads; --pin gives each its
own share of the CPUs, so that they do not take turns on them. Standard library only.
"""

import argparse
import csv
import itertools
import json
import os
import pathlib
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time

from rows import SETS

FIELDS = ["row", "recipe", "settings", "products", "text", "tokens", "calibration", "calib_tokens",
          "perplexity", "perplexity_stderr", "kl", "kl_stderr", "top1", "quantize_seconds", "when",
          "device"]
TASK_FIELDS = FIELDS[:8] + ["accuracy", "stderr", "items", "quantize_seconds", "when", "device"]
KEY = ("recipe", "settings", "products", "text", "tokens", "calibration", "calib_tokens")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--set", required=True, type=lambda names: names.split(","),
                        help="of " + ", ".join(SETS))
    parser.add_argument("--fireq", default="build/cpu/fireq")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--products", help="instead of the set's")
    parser.add_argument("--tasks", help="of the set's, by comma")
    parser.add_argument("--tokens", type=int, help="of the text that is scored; items of a task")
    parser.add_argument("--calib-tokens", type=int)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--eval-threads", type=int, default=0, help="default: --threads")
    parser.add_argument("--jobs", type=int, default=1, help="programs at a time")
    parser.add_argument("--pin", action="store_true",
                        help="each job to its own CPUs, as many threads (Linux)")
    parser.add_argument("--device", default="cpu", help="that quantises (default: cpu)")
    parser.add_argument("--eval-device", default="cpu", help="that scores (default: cpu)")
    parser.add_argument("--reference-device",
                        help="that runs the float model for KL (default: --eval-device)")
    parser.add_argument("--only", help="rows called, or whose name contains, one of these, by comma")
    parser.add_argument("--match", type=re.compile, help="only rows in whose name this is found")
    parser.add_argument("--out", type=pathlib.Path,
                        default=pathlib.Path(__file__).parent.parent / "results")
    arguments = parser.parse_args()
    for name in arguments.set:
        if name not in SETS:
            parser.error(f"no set {name}; there are {', '.join(SETS)}")
    if arguments.pin:
        arguments.threads = max(1, len(os.sched_getaffinity(0)) // arguments.jobs)
    arguments.eval_threads = arguments.eval_threads or arguments.threads
    return arguments


PLACE = threading.local()  # .cpus: those of this worker's programs


def run(command, threads):
    command = command + ["--json"] + (["--threads", str(threads)] if threads else [])
    cpus = getattr(PLACE, "cpus", None)
    if cpus:
        command = ["taskset", "--cpu-list", ",".join(map(str, cpus))] + command
    result = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {result.returncode}")
    return json.loads(result.stdout)


def markdown(rows):
    if rows and "accuracy" in rows[0]:
        lines = ["| | task | items | accuracy |", "|---|---|---|---|"]
        lines += [f"| {row['row']} | {row['text']} | {row['items']} | "
                  f"{100 * float(row['accuracy']):.1f} +- {100 * float(row['stderr']):.1f} % |"
                  for row in rows]
        return "\n".join(lines) + "\n"
    lines = ["| | products | perplexity | KL | top-1 |", "|---|---|---|---|---|"]
    for row in rows:
        kl, top1 = "", ""
        if row["kl"] != "":
            kl = f"{float(row['kl']):.4f} +- {float(row['kl_stderr']):.4f}"
            top1 = f"{100 * float(row['top1']):.1f} %"
        lines.append(f"| {row['row']} | {row['products']} | {float(row['perplexity']):.3f} | "
                     f"{kl} | {top1} |")
    return "\n".join(lines) + "\n"


class Table:
    """The CSV of one set."""

    def __init__(self, name, out):
        self.fields = TASK_FIELDS if SETS[name].tasks else FIELDS
        self.path = out / f"accuracy_{name}.csv"
        self.order = [row[0] for row in SETS[name].rows]
        self.lock = threading.Lock()
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.comments = [line for line in lines if line.startswith("#")]  # provenance
        self.rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
        self.done = {self.key(row) for row in self.rows}

    @staticmethod
    def key(row):
        """Rows without a device are older: a CPU scored them."""
        scored = "cuda" if (row.get("device") or "").split(" ")[0].endswith("cuda") else "cpu"
        return (*(str(row[field]) for field in KEY), scored)

    def save(self, row):
        with self.lock:
            self.rows.append({field: str(row.get(field, "")) for field in self.fields})
            print(markdown(self.rows[-1:]).splitlines()[-1], flush=True)
            self.rows.sort(key=lambda r: self.order.index(r["row"]) if r["row"] in self.order
                           else len(self.order))
            with self.path.open("w", newline="") as file:
                file.writelines(line + "\n" for line in self.comments)
                writer = csv.DictWriter(file, self.fields, lineterminator="\n")
                writer.writeheader()
                writer.writerows(self.rows)
            self.path.with_suffix(".md").write_text(markdown(self.rows))


class Checkpoint:
    """One quantised model and the rows that are to be measured of it."""

    def __init__(self, recipe, settings, calibration, calib_tokens):
        self.recipe, self.settings = recipe, settings
        self.calibration, self.calib_tokens = calibration, calib_tokens
        self.wanted = []  # (table, row, set)
        self.left = 0
        self.folder = None
        self.seconds = ""
        self.lock = threading.Lock()


class Measurement:
    def __init__(self, arguments):
        self.arguments = arguments
        self.checkpoints = {}
        self.failures = []
        self.jobs = queue.PriorityQueue()
        self.number = itertools.count()
        for name in arguments.set:
            self.add_set(SETS[name], Table(name, arguments.out))
        for place, checkpoint in enumerate(self.checkpoints.values()):
            if checkpoint.wanted:
                self.put(place + 1, self.quantise, place, checkpoint)

    def add_set(self, chosen, table):
        arguments = self.arguments
        for spec in chosen.rows:
            defaults = ("", "", "", "calibration/c4.utf8", chosen.text)
            name, recipe, settings, calibration, text = (*spec, *defaults[len(spec):])
            if arguments.only and not self.is_wanted(name, chosen):
                continue
            if arguments.match and not arguments.match.search(name):
                continue
            calib_tokens = arguments.calib_tokens or chosen.calib_tokens
            if not recipe:
                calibration, calib_tokens = "", 0
            key = (recipe, settings, calibration, calib_tokens)
            checkpoint = self.checkpoints.setdefault(key, Checkpoint(*key))
            products = (arguments.products or chosen.products).split(",") if recipe else ["float"]
            tasks = tuple(arguments.tasks.split(",")) if arguments.tasks else chosen.tasks
            for part, task in itertools.product(products, tasks or (text,)):
                row = dict(row=name, recipe=recipe or "float", settings=settings, products=part,
                           text=task, tokens=arguments.tokens or chosen.tokens,
                           calibration=calibration, calib_tokens=calib_tokens,
                           device=arguments.eval_device)
                if Table.key(row) not in table.done:
                    checkpoint.wanted.append((table, row, chosen))

    def is_wanted(self, name, chosen):
        names = [row[0] for row in chosen.rows]
        return any(part == name if part in names else part in name
                   for part in self.arguments.only.split(","))

    def put(self, priority, function, *parameters):
        self.jobs.put((priority, next(self.number), function, parameters))

    def work(self, worker):
        if self.arguments.pin:
            threads = self.arguments.threads
            PLACE.cpus = sorted(os.sched_getaffinity(0))[worker * threads:(worker + 1) * threads]
        while True:
            try:
                _, _, function, parameters = self.jobs.get(timeout=1)
            except queue.Empty:
                if self.jobs.unfinished_tasks == 0:
                    return
                continue
            try:
                function(*parameters)
            except RuntimeError as error:
                self.failures.append(str(error))
                print(f"run.py: {error}", file=sys.stderr, flush=True)
            finally:
                self.jobs.task_done()

    def text_of(self, name, folder):
        """A text of DATA; NAME#2/3 is the second third of it, as a file in `folder`."""
        path, _, part = name.partition("#")
        if not part:
            return self.arguments.data / path
        index, count = map(int, part.split("/"))
        text = (self.arguments.data / path).read_bytes()
        size = len(text) // count
        target = pathlib.Path(folder) / "text"
        target.write_bytes(text[(index - 1) * size:index * size].decode(errors="ignore").encode())
        return target

    def quantise(self, place, checkpoint):
        arguments = self.arguments
        checkpoint.left = len(checkpoint.wanted)
        checkpoint.folder = tempfile.TemporaryDirectory()
        target = arguments.model
        if checkpoint.recipe:
            folder = checkpoint.folder.name
            target = f"{folder}/model"
            command = [arguments.fireq, "quantize", arguments.model, "-o", target, "--recipe",
                       checkpoint.recipe, "--calib",
                       str(self.text_of(checkpoint.calibration, folder)), "--calib-tokens",
                       str(checkpoint.calib_tokens), "--held-out-tokens", "0", "--device",
                       arguments.device]
            for setting in checkpoint.settings.split():
                command += ["--set", setting]
            report = run(command, arguments.threads)
            checkpoint.seconds = round(report["seconds"], 1)
            if "choice" in report:
                self.save_choice(checkpoint, report["choice"])
        for table, row, chosen in checkpoint.wanted:  # before other checkpoints are begun
            self.put(place - len(self.checkpoints), self.evaluate, checkpoint, target, table, row,
                     chosen)

    def save_choice(self, checkpoint, choice):
        """What recipe auto measured of each candidate, and which it took."""
        fields = ["candidate", "kl_table", "kl_exact", "kl_stderr", "chosen", "calibration",
                  "trial_tokens", "held_out_tokens", "device"]
        with (self.arguments.out / "accuracy_auto_choice.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fields, lineterminator="\n", restval="")
            writer.writeheader()
            for candidate in choice["candidates"]:
                row = {key: round(value, 5) for key, value in candidate.items() if key.startswith("kl")}
                row.update(candidate=candidate["name"],
                           chosen="yes" if candidate["name"] == choice["chosen"] else "",
                           calibration=checkpoint.calibration,
                           trial_tokens=choice["calibration_tokens"],
                           held_out_tokens=choice["held_out_tokens"], device=self.arguments.device)
                writer.writerow(row)

    def evaluate(self, checkpoint, target, table, row, chosen):
        try:
            row = {**row, "quantize_seconds": checkpoint.seconds,
                   "when": time.strftime("%Y-%m-%d"), "device": self.devices(row)}
            row.update(self.task(target, row) if chosen.tasks else
                       self.perplexity(target, row, chosen.reference))
            table.save(row)
        finally:
            with checkpoint.lock:
                checkpoint.left -= 1
                if checkpoint.left == 0:
                    checkpoint.folder.cleanup()

    def devices(self, row):
        """What quantised and what scored, e.g. cuda/cpu; then what ran the float model for KL."""
        scored, reference = self.arguments.eval_device, self.arguments.reference_device
        if row["recipe"] == "float":
            return scored
        note = f" (float: {reference})" if reference and reference != scored else ""
        return f"{self.arguments.device}/{scored}{note}"

    def perplexity(self, target, row, reference):
        arguments = self.arguments
        products = "exact" if row["products"] == "float" else row["products"]
        command = [arguments.fireq, "eval", "perplexity", target, "--text",
                   str(arguments.data / row["text"]), "--max-tokens", str(row["tokens"]),
                   "--products", products, "--device", arguments.eval_device]
        if reference and row["recipe"] != "float":
            command += ["--reference", arguments.model]
            if arguments.reference_device:
                command += ["--reference-device", arguments.reference_device]
        result = run(command, arguments.eval_threads)
        out = dict(perplexity=round(result["perplexity"], 4),
                   perplexity_stderr=round(result["perplexity_stderr"], 4))
        if "kl_mean" in result:
            out.update(kl=round(result["kl_mean"], 5), kl_stderr=round(result["kl_stderr"], 5),
                       top1=round(result["top1_agreement"], 4))
        return out

    def task(self, target, row):
        arguments = self.arguments
        products = "exact" if row["products"] == "float" else row["products"]
        command = [arguments.fireq, "eval", "tasks", target, "--data",
                   str(arguments.data / "tasks"), "--tasks", row["text"], "--limit",
                   str(row["tokens"]), "--products", products, "--device", arguments.eval_device]
        result = run(command, arguments.eval_threads)["tasks"][row["text"]]
        return dict(accuracy=round(result["acc"], 4), stderr=round(result["stderr"], 4),
                    items=result["n"])


def main():
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    measurement = Measurement(arguments)
    workers = [threading.Thread(target=measurement.work, args=(worker,))
               for worker in range(arguments.jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if measurement.failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
