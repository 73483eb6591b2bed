"""The tables of accuracy, from bench/results/accuracy_*.csv; see result_tables.py."""

import csv
import pathlib
import statistics

RESULTS = pathlib.Path(__file__).resolve().parent.parent / "bench/results"


def read(name):
    path = RESULTS / name
    if not path.exists():
        return None
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def table(header, rows):
    out = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(out + ["| " + " | ".join(row) + " |" for row in rows])


def missing(name):
    return f"*Not measured yet: there is no bench/results/{name}.*"


def with_error(row, value, digits, factor=1):
    if row[value] == "":
        return "-"
    return f"{factor * float(row[value]):.{digits}f} +- {factor * float(row[value + '_stderr']):.{digits}f}"


def scored_on(row):
    """Rows without a device are older: the CPU's unless the CSV's first lines say otherwise."""
    return "GPU" if (row.get("device") or "").split(" ")[0].endswith("cuda") else "CPU"


def accuracy():
    rows = read("accuracy_main.csv")
    if rows is None:
        return missing("accuracy_main.csv")
    same = ("row", "products", "calib_tokens")
    full = {tuple(r[f] for f in same): r for r in read("accuracy_full.csv") or []}

    def whole(row):
        found = full.get(tuple(row[f] for f in same))
        if not found:
            return "-"
        other = scored_on(found) != scored_on(row)
        return with_error(found, "perplexity", 2) + (f" ({scored_on(found)})" if other else "")

    return table(["", "calibration tokens", "products", "perplexity, 303,104 tokens",
                  "perplexity, 65,536", "scored on", "KL(float, quantised), 65,536", "top-1 agreement"],
                 [[r["row"], f"{int(r['calib_tokens']):,}" if r["calib_tokens"] != "0" else "-", r["products"], whole(r),
                   with_error(r, "perplexity", 2), scored_on(r), with_error(r, "kl", 4),
                   f"{100 * float(r['top1']):.1f} %" if r["top1"] else "-"]
                  for r in rows])


def ablation():
    rows = read("accuracy_ablation.csv")
    if rows is None:
        return missing("accuracy_ablation.csv")
    return table(["", "products", "scored on", "perplexity", "KL"],
                 [[r["row"], r["products"], scored_on(r), f"{float(r['perplexity']):.2f}",
                   with_error(r, "kl", 4)]
                  for r in rows])


def seeds():
    rows = read("accuracy_seeds.csv")
    if rows is None:
        return missing("accuracy_seeds.csv")
    groups = {}
    for r in rows:
        groups.setdefault((scored_on(r), r["row"].rsplit(", seed", 1)[0]), []).append(float(r["kl"]))
    lines = [[name, device, " / ".join(f"{kl:.4f}" for kl in kls), f"{statistics.mean(kls):.4f}",
              f"{statistics.stdev(kls):.4f}" if len(kls) > 1 else "-"]
             for (device, name), kls in sorted(groups.items(), key=lambda group: group[0][0], reverse=True)]
    return table(["", "scored on", "KL of each seed", "mean", "spread"], lines)


def texts():
    rows = read("accuracy_texts.csv")
    if rows is None:
        return missing("accuracy_texts.csv")
    columns = sorted({r["row"].split(", ", 1)[1] for r in rows})
    found = {tuple(r["row"].split(", ", 1)): f"{float(r['kl']):.4f}" for r in rows}
    recipes = list(dict.fromkeys(r["row"].split(", ", 1)[0] for r in rows))
    return table([""] + columns,
                 [[name] + [found.get((name, column), "-") for column in columns]
                  for name in recipes])


def tasks(name="accuracy_tasks.csv"):
    rows = read(name)
    if rows is None:
        return missing(name)
    models = list(dict.fromkeys(r["row"] for r in rows))
    names = list(dict.fromkeys(r["text"] for r in rows))
    found = {(r["row"], r["text"]): r for r in rows}
    lines = []
    for model in models:
        cells = [found.get((model, name)) for name in names]
        if None not in cells:
            mean = statistics.mean(float(c["accuracy"]) for c in cells)
            error = sum(float(c["stderr"]) ** 2 for c in cells) ** 0.5 / len(cells)
            whole = f"{100 * mean:.1f} +- {100 * error:.1f}"
        else:
            whole = "-"
        lines.append([model] + [f"{100 * float(c['accuracy']):.1f} +- {100 * float(c['stderr']):.1f}"
                                if c else "-" for c in cells] + [whole])
    return table([""] + [f"{name}, %" for name in names] + ["mean"], lines)


def tasks_full():
    return tasks("accuracy_tasks_full.csv")


def rivals():
    rows = read("accuracy_rivals.csv")
    if rows is None:
        return missing("accuracy_rivals.csv")
    rows = [r for r in rows if r["products"] == "table"]
    return table(["", "settings", "tokens scored / of calibration", "perplexity", "KL"],
                 [[r["row"], f"`{r['settings']}`" if r["settings"] else "",
                   f"{int(r['tokens']):,} / {int(r['calib_tokens']):,}", f"{float(r['perplexity']):.2f}",
                   with_error(r, "kl", 4)] for r in rows])


def kv():
    rows = read("accuracy_kv.csv")
    if rows is None:
        return missing("accuracy_kv.csv")
    return table(["", "perplexity", "KL", "top-1 agreement"],
                 [[r["row"], with_error(r, "perplexity", 2), with_error(r, "kl", 4),
                   f"{100 * float(r['top1']):.1f} %" if r["top1"] else "-"] for r in rows])


def auto():
    rows = read("accuracy_auto_choice.csv")
    if rows is None:
        return missing("accuracy_auto_choice.csv")
    return table(["candidate", "KL, table", "KL, exact", "chosen"],
                 [[r["candidate"], f"{float(r['kl_table']):.4f}",
                   f"{float(r['kl_exact']):.4f} +- {float(r['kl_stderr']):.4f}", r["chosen"]] for r in rows])


def sensitivity():
    rows = read("accuracy_sensitivity.csv")
    if rows is None:
        return missing("accuracy_sensitivity.csv")
    kinds = [r for r in rows if not r["row"].startswith("layer")]
    layers = sorted((r for r in rows if r["row"].startswith("layer")), key=lambda r: -float(r["kl"]))
    shown = kinds + layers[:5]
    lines = [[r["row"].removesuffix(" alone"), with_error(r, "kl", 4)] for r in shown]
    if len(layers) > 5:
        rest = [float(r["kl"]) for r in layers[5:]]
        lines.append([f"the other {len(rest)} layers", f"{min(rest):.4f} to {max(rest):.4f} each"])
    return table(["quantised alone", "KL"], lines)


TABLES = (accuracy, ablation, seeds, texts, tasks, tasks_full, rivals, kv, auto, sensitivity)
