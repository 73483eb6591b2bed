#!/usr/bin/env python3
"""Names every #include in src/fireq that tools/layers.txt does not allow; exit 1 if there is one."""
import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parent.parent
allowed = {}
for line in (root / "tools/layers.txt").read_text().splitlines():
    line = line.split("#")[0].strip()
    if line:
        layer, _, below = line.partition(":")
        allowed[layer] = set(below.split()) | {layer}


def layer_of(path: str) -> str:
    """'formats/e4m3.h' -> 'formats'; the longest listed layer that contains the path."""
    candidates = [name for name in allowed if path.startswith(name + "/")]
    return max(candidates, key=len) if candidates else path.split("/")[0]


bad = 0
for source in sorted((root / "src/fireq").rglob("*")):
    if source.suffix not in {".h", ".cpp", ".cu", ".cuh"}:
        continue
    relative = source.relative_to(root / "src/fireq").as_posix()
    layer = layer_of(relative)
    if layer not in allowed:
        print(f"{relative}: layer '{layer}' is not in tools/layers.txt")
        bad += 1
        continue
    for number, text in enumerate(source.read_text(encoding="utf-8").splitlines(), 1):
        match = re.match(r'\s*#\s*include\s*"fireq/([^"]+)"', text)
        if match and layer_of(match[1]) not in allowed[layer]:
            print(f"src/fireq/{relative}:{number}: {layer} may not include {match[1]}")
            bad += 1
sys.exit(1 if bad else 0)
