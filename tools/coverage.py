#!/usr/bin/env python3
"""Which lines of the library and the program the tests execute, a row a layer.

    tools/coverage.py [CTEST_ARGUMENTS...]      e.g. tools/coverage.py -E 'families|install'

Builds build/coverage (g++ --coverage, -O1), runs its tests and asks gcov. A line counts as executed if
any object that contains it executed it. Writes bench/results/coverage.csv.
"""

import collections
import csv
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build/coverage"


def build_and_test(ctest_arguments: list[str]) -> None:
    subprocess.run(["cmake", "-S", ROOT, "-B", BUILD, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Debug",
                    "-DCMAKE_CXX_FLAGS_DEBUG=-O1 -DNDEBUG --coverage -fprofile-update=atomic",
                    "-DFIREQ_BENCH=OFF"], check=True)
    subprocess.run(["cmake", "--build", BUILD], check=True)
    for old in BUILD.rglob("*.gcda"):
        old.unlink()
    subprocess.run(["ctest", "--test-dir", BUILD, "-j", str(os.cpu_count()), "--output-on-failure",
                    *ctest_arguments], check=True)


def executed_lines() -> dict[str, dict[int, bool]]:
    """By source file below the root: line -> was it executed."""
    lines = collections.defaultdict(dict)
    for notes in sorted(BUILD.rglob("*.gcno")):
        relative = notes.relative_to(BUILD).parts[0]
        if relative not in ("src", "apps"):
            continue
        out = subprocess.run(["gcov", "--json-format", "--stdout", notes], cwd=notes.parent,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
        for document in filter(None, out.splitlines()):
            for file in json.loads(document)["files"]:
                path = (BUILD / file["file"]).resolve()
                if not path.is_relative_to(ROOT) or path.is_relative_to(BUILD):
                    continue
                seen = lines[path.relative_to(ROOT).as_posix()]
                for line in file["lines"]:
                    seen[line["line_number"]] = seen.get(line["line_number"], False) or line["count"] > 0
    return lines


def layer_of(path: str) -> str:
    parts = path.split("/")
    if parts[0] != "src":
        return parts[0]
    return "/".join(parts[2:4]) if parts[2] == "backends" else parts[2]


def main() -> None:
    if sys.argv[1:2] in (["-h"], ["--help"]):
        return print(__doc__)
    build_and_test(sys.argv[1:])
    layers = collections.defaultdict(lambda: [0, 0])
    for path, lines in executed_lines().items():
        if not path.startswith(("src/", "apps/")):
            continue
        for layer in (layer_of(path), "all"):
            layers[layer][0] += sum(lines.values())
            layers[layer][1] += len(lines)
    names = sorted(set(layers) - {"all"}) + ["all"]
    with (ROOT / "bench/results/coverage.csv").open("w", newline="") as file:
        file.write("# " + " ".join(["tools/coverage.py", *sys.argv[1:]]) + "\n")
        out = csv.writer(file)
        out.writerow(["layer", "lines_executed", "lines", "percent"])
        for name in names:
            executed, total = layers[name]
            out.writerow([name, executed, total, f"{100 * executed / total:.1f}"])
            print(f"{name:16}{executed:7}{total:7}{100 * executed / total:7.1f} %")


if __name__ == "__main__":
    main()
