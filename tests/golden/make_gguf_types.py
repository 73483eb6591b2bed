#!/usr/bin/env python3
"""Writes gguf_types.gguf: random blocks of every GGUF type that FireQ reads, each beside the F32
values that the Python package gguf gives for them.

    pip install gguf numpy && python3 tests/golden/make_gguf_types.py tests/golden/gguf_types.gguf

Tensor "Q4_0" holds the blocks, "Q4_0.values" what they decode to. Blocks are random bytes, drawn
again until every value is finite, so scales of either sign, subnormal and huge ones all occur.
"""

import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

TYPES = [Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.Q2_K,
         Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.Q8_K, Type.IQ4_NL, Type.IQ4_XS]
ROWS = 2


def decode(blocks: np.ndarray, kind: Type) -> np.ndarray:
    if kind == Type.Q8_K:  # the package has no decoder: f32 scale, 256 int8, 16 int16 sums
        return blocks[:, :4].copy().view(np.float32) * blocks[:, 4:260].view(np.int8).astype(np.float32)
    return gguf.quants.dequantize(blocks, kind)


def random_rows(kind: Type, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    per_row = max(1, 64 // elements)
    rows, values = [], []
    while len(rows) < ROWS * per_row:
        block = rng.integers(0, 256, size=(1, size), dtype=np.uint8)
        with np.errstate(all="ignore"):
            value = decode(block, kind)
        if np.isfinite(value).all():
            rows.append(block[0])
            values.append(value[0])
    return (np.concatenate(rows).reshape(ROWS, -1),
            np.concatenate(values).astype(np.float32).reshape(ROWS, -1))


def main() -> None:
    rng = np.random.default_rng(20250520)
    writer = gguf.GGUFWriter(sys.argv[1], "llama")
    for kind in TYPES:
        rows, values = random_rows(kind, rng)
        writer.add_tensor(kind.name, rows, raw_dtype=kind)
        writer.add_tensor(kind.name + ".values", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
