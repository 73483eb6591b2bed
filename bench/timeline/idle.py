"""How much of a decode step no kernel runs in, from the CSV that kernel_timeline.cpp writes.

A step is what lies between the ends of two choices of tokens; its graph is the kernels with a graph's number.
A kernel that waits for the one in front of it (programmatic dependent launch) counts as running.

usage: idle.py TIMELINE_CSV [STEPS] [LABEL]     the last STEPS whole steps; prints CSV
       idle.py --chain TIMELINE_CSV KERNELS     what each of a layer's KERNELS adds: its end behind the
                                                end of the one in front, medians over steps and layers
"""

import collections
import statistics
import sys


def read(path):
    spans = []
    with open(path, encoding="utf-8") as lines:
        next(lines)
        for line in lines:
            start, end, graph, name = line.rstrip("\n").split(",", 3)
            spans.append((int(start), int(end), int(graph), name))
    return sorted(spans)


def busy(spans, begin, end):
    """Nanoseconds of [begin, end) in which at least one of the spans (in order) runs."""
    total, reached = 0, begin
    for start, stop, _, _ in spans:
        start, stop = max(start, reached), min(stop, end)
        if stop > start:
            total += stop - start
            reached = stop
    return total


CHOICES = ("SampleLogits", "LargestOfTops", "PeerLargest")
# The first that a name contains; attention's may have RopeKvWriteParams among its template arguments.
SHORT = ("GemmI4F8Blocks", "GemmI4F8Chain", "GemmI4F8Stream", "GemmI4F8Wide", "PeerSum", "RmsNorm", "Quant", "AttnDecode", "Rope")


def short_name(kernel):
    return next((short for short in SHORT if short in kernel), kernel)


def chain(path, kernels):
    """Of recorded steps; layers are read off their beginnings (the embedding, CopyRows) on."""
    spans = sorted((span for span in read(path) if span[2] != 0), key=lambda span: span[1])
    added = [(short_name(b[3]), (b[1] - a[1]) / 1e3) for a, b in zip(spans, spans[1:])]
    starts = [i for i, span in enumerate(spans[1:]) if "CopyRows" in span[3]]
    if len(starts) < 2:
        sys.exit(f"{path}: no whole step between two CopyRows kernels, of {len(spans)} kernels")
    places = [collections.defaultdict(list) for _ in range(kernels)]
    for start, stop in zip(starts, starts[1:]):
        for i, (kernel, us) in enumerate(added[start + 1 : stop]):
            places[i % kernels][kernel].append(us)
    print("place,kernel,chain_us")
    for i, place in enumerate(places):
        kernel = max(place, key=lambda k: len(place[k]))
        print(f"{i},{kernel},{statistics.median(place[kernel]):.2f}")


def main():
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    if sys.argv[1] == "--chain":
        return chain(sys.argv[2], int(sys.argv[3]))
    spans = read(sys.argv[1])
    wanted = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    label = sys.argv[3] if len(sys.argv) > 3 else ""
    ends = [span[1] for span in spans if any(kernel in span[3] for kernel in CHOICES)][-wanted - 1 :]
    rows = []
    kernels = collections.Counter()
    for begin, end in zip(ends, ends[1:]):
        inside = [s for s in spans if s[0] < end and s[1] > begin]
        graph = [s for s in inside if s[2] != 0]
        if not graph:
            continue
        first, last = graph[0][0], max(s[1] for s in graph)
        rows.append((end - begin, 1 - busy(inside, begin, end) / (end - begin),
                     last - first, 1 - busy(graph, first, last) / (last - first)))
        for start, stop, _, name in inside:
            kernels[name] += stop - start
    if not rows:
        sys.exit(f"{sys.argv[1]}: no whole decode step between two choices of tokens, of {len(spans)} kernels")
    print("label,steps,step_us,idle_share,graph_us,idle_share_of_graph")
    median = [statistics.median(column) for column in zip(*rows)]
    print(f"{label},{len(rows)},{median[0] / 1e3:.1f},{median[1]:.4f},{median[2] / 1e3:.1f},{median[3]:.4f}")
    for name, ns in kernels.most_common(12):
        print(f"# {ns / 1e3 / len(rows):.1f} us a step: {name[:70]}")


if __name__ == "__main__":
    main()
