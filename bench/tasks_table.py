"""Zero-shot tasks for several models, as CSV and as a table.

usage: tasks_table.py FIREQ DATA_DIRECTORY OUT.csv NAME=MODEL... [--limit N] [--tasks a,b,...]

e.g.   tasks_table.py build/cpu/fireq data/tasks bench/results/tasks.csv float=smollm2-135m rtn=out-rtn
"""

import argparse
import csv
import json
import subprocess

ALL = "piqa,arc_easy,arc_challenge,boolq,hellaswag,winogrande,lambada_openai"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fireq")
    parser.add_argument("data")
    parser.add_argument("out")
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--tasks", default=ALL)
    arguments = parser.parse_args()

    scores = {}
    for entry in arguments.models:
        name, _, model = entry.partition("=")
        done = subprocess.run([arguments.fireq, "eval", "tasks", model, "--data", arguments.data, "--tasks",
                               arguments.tasks, "--limit", str(arguments.limit), "--json"],
                              stdout=subprocess.PIPE, check=True)
        scores[name] = json.loads(done.stdout)["tasks"]

    with open(arguments.out, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "task", "acc", "acc_norm", "stderr", "n"])
        for name, tasks in scores.items():
            for task, s in tasks.items():
                writer.writerow([name, task, f"{s['acc']:.4f}", f"{s['acc_norm']:.4f}", f"{s['stderr']:.4f}", s["n"]])

    names = arguments.tasks.split(",")
    print(f"| acc (acc_norm), % | {' | '.join(names)} | mean acc |")
    print("|---|" + "---|" * (len(names) + 1))
    for name, tasks in scores.items():
        cells = [f"{100 * tasks[t]['acc']:.1f} ({100 * tasks[t]['acc_norm']:.1f})" for t in names]
        mean = sum(tasks[t]["acc"] for t in names) / len(names)
        print(f"| {name} | {' | '.join(cells)} | {100 * mean:.2f} |")


if __name__ == "__main__":
    main()
