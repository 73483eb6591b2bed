#!/usr/bin/env python3
"""Fuzzes every target for the same CPU time, on several cores, and counts that time.

    tests/fuzz/campaign.py run PROGRAMS OUT [--workers N] [--cpu-seconds S] [--seconds S]
                               [--before RESULT.csv]... [TARGET...]
    tests/fuzz/campaign.py total RESULT.csv...          sums of several runs, a row a target

PROGRAMS holds the libFuzzer programs NAME_fuzz (tests/fuzz/run.sh builds them). A worker takes the
target that has had the least CPU time so far, that of --before and of the slices that run included, and
fuzzes it for a slice. The run ends once every target has had --cpu-seconds, after --seconds on the
clock, or on SIGTERM or SIGINT, whichever comes first.

OUT gets corpus/NAME (inputs that reached something new), findings/NAME (inputs that crashed, leaked,
ran out of time or of memory, each with its log) and result.csv: CPU seconds are those the kernel counted
for the processes (user and system), edges the coverage that libFuzzer last reported.
"""

import argparse
import collections
import csv
import datetime
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
COLUMNS = ["date", "target", "cpu_seconds", "executions", "edges", "findings"]
# libFuzzer takes the clock, not CPU time: a process that others keep from the cores is no finding.
INPUT_TIMEOUT_S = 60


class Slice:
    """One process of a target."""

    def __init__(self, run: "Run", target: str, number: int):
        self.target = target
        self.began = time.monotonic()
        self.log = run.out / f"log/{target}-{number}"
        self.findings = run.out / f"findings/{target}"
        corpus = run.out / f"corpus/{target}"
        for folder in (self.log.parent, self.findings, corpus):
            folder.mkdir(parents=True, exist_ok=True)
        dictionary = run.seeds.parent / f"dictionary/{target}.txt"
        command = [run.programs / f"{target}_fuzz", f"-max_total_time={run.slice}", "-rss_limit_mb=2048",
                   f"-timeout={INPUT_TIMEOUT_S}", "-print_final_stats=1", "-max_len=65536",
                   f"-artifact_prefix={self.findings}/", f"-seed={1 + number + os.getpid() * 1000 % 2**30}",
                   *([f"-dict={dictionary}"] if dictionary.exists() else []),
                   *run.libfuzzer, corpus, run.seeds / target]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.pid = self.process.pid

    def running_seconds(self) -> float:
        return time.monotonic() - self.began


class Run:
    def __init__(self, arguments: argparse.Namespace):
        self.programs = arguments.programs.resolve()
        self.out = arguments.out.resolve()
        self.seeds = arguments.seeds.resolve()
        self.slice = arguments.slice
        self.libfuzzer = arguments.libfuzzer
        self.workers = arguments.workers
        self.wanted = arguments.cpu_seconds
        self.deadline = time.monotonic() + arguments.seconds
        names = sorted(path.name.removesuffix("_fuzz") for path in self.programs.glob("*_fuzz"))
        self.targets = arguments.targets or names
        self.cpu = dict.fromkeys(self.targets, 0.0)
        self.before = {row[1]: row[2] for row in sums_of(arguments.before)}
        self.executions = dict.fromkeys(self.targets, 0)
        self.edges = dict.fromkeys(self.targets, 0)
        self.slices: dict[int, Slice] = {}
        self.started = 0
        self.stopping = False

    def next_target(self) -> str | None:
        """The one with the least CPU time, counting each slice that runs as if it had ended."""
        expected = {target: self.cpu[target] + self.before.get(target, 0.0) for target in self.targets}
        for running in self.slices.values():
            expected[running.target] += max(self.slice, running.running_seconds())
        target = min(self.targets, key=expected.get)
        return target if expected[target] < self.wanted else None

    def finish(self, pid: int, usage: resource.struct_rusage, status: int) -> None:
        done = self.slices.pop(pid)
        done.process.returncode = status  # it has been waited for here
        self.cpu[done.target] += usage.ru_utime + usage.ru_stime
        log = done.log.read_bytes()
        for units in re.findall(rb"stat::number_of_executed_units: (\d+)", log):
            self.executions[done.target] += int(units)
        for edges in re.findall(rb" cov: (\d+)", log):
            self.edges[done.target] = max(self.edges[done.target], int(edges))
        if status != 0 and not self.stopping:
            shutil.copy(done.log, done.findings / f"log-{done.log.name}")
        done.log.unlink()

    def reap(self) -> None:
        while self.slices:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                return
            self.finish(pid, usage, status)

    def stop(self) -> None:
        self.stopping = True
        for running in self.slices.values():
            os.kill(running.pid, signal.SIGINT)
        deadline = time.monotonic() + 5
        while self.slices and time.monotonic() < deadline:
            self.reap()
            time.sleep(0.02)
        for running in self.slices.values():
            os.kill(running.pid, signal.SIGKILL)
        while self.slices:
            pid, status, usage = os.wait4(-1, 0)
            self.finish(pid, usage, status)

    def loop(self) -> None:
        while time.monotonic() < self.deadline and not self.stopping:
            self.reap()
            while len(self.slices) < self.workers:
                target = self.next_target()
                if target is None:
                    break
                started = Slice(self, target, self.started)
                self.slices[started.pid] = started
                self.started += 1
            if not self.slices:
                return
            time.sleep(0.1)

    def rows(self) -> list[list]:
        today = datetime.date.today().isoformat()
        found = {target: sum(1 for path in (self.out / f"findings/{target}").glob("*")
                             if not path.name.startswith("log-")) for target in self.targets}
        return [[today, target, f"{self.cpu[target]:.1f}", self.executions[target], self.edges[target],
                 found[target]] for target in self.targets]


def sums_of(paths: list[str]) -> list[list]:
    """A row a target over all results; a field that is empty adds nothing."""
    sums = collections.defaultdict(lambda: ["", "", 0.0, 0, 0, 0])
    for path in paths:
        with open(path) as file:
            for row in csv.DictReader(line for line in file if not line.startswith("#")):
                into = sums[row["target"]]
                into[0] = max(into[0], row["date"])
                into[1] = row["target"]
                into[2] += float(row["cpu_seconds"] or 0)
                into[3] += int(row["executions"])
                into[4] = max(into[4], int(row["edges"] or 0))
                into[5] += int(row["findings"])
    return [row for _, row in sorted(sums.items())]


def write(rows: list[list], file) -> None:
    out = csv.writer(file, lineterminator="\n")
    out.writerow(COLUMNS)
    out.writerows(rows)


def run(arguments: argparse.Namespace) -> None:
    job = Run(arguments)
    job.out.mkdir(parents=True, exist_ok=True)

    def end(_signal, _frame):
        job.stopping = True

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    try:
        job.loop()
    finally:
        job.stop()
        rows = job.rows()
        with (job.out / "result.csv").open("w") as file:
            write(rows, file)
    write(rows, sys.stdout)
    sys.exit(1 if any(row[-1] for row in rows) else 0)


def total(arguments: argparse.Namespace) -> None:
    write([[*row[:2], f"{row[2]:.0f}", *row[3:]] for row in sums_of(arguments.results)], sys.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run")
    one.add_argument("programs", type=pathlib.Path)
    one.add_argument("out", type=pathlib.Path)
    one.add_argument("targets", nargs="*")
    one.add_argument("--workers", type=int, default=1)
    one.add_argument("--cpu-seconds", type=float, default=float("inf"))
    one.add_argument("--seconds", type=float, default=float("inf"))
    one.add_argument("--slice", type=int, default=30, help="seconds a process runs")
    one.add_argument("--seeds", type=pathlib.Path, default=HERE / "corpus")
    one.add_argument("--before", action="append", default=[], help="a result.csv whose CPU time counts")
    one.add_argument("--libfuzzer", action="append", default=[], help="a further option of the programs")
    one.set_defaults(command=run)
    sums = commands.add_parser("total")
    sums.add_argument("results", nargs="+")
    sums.set_defaults(command=total)
    arguments = parser.parse_args()
    arguments.command(arguments)


if __name__ == "__main__":
    main()
