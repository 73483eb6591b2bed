#!/usr/bin/env python3
"""Reads a quantised checkpoint with numpy and safetensors alone, as docs/FORMATS.md states it.

    read_checkpoint.py CHECKPOINT           one line a tensor: name, shape, SHA-256 of its F32 bytes
    read_checkpoint.py CHECKPOINT -o FOLDER also writes each as FOLDER/NAME.f32 (row-major)

A quantised linear NAME gives NAME.exact, (q - z) * s / t, and NAME.table, E4M3((q - z) * s) / t;
every other tensor gives itself.
"""

import argparse
import hashlib
import json
import pathlib

import numpy as np
from safetensors import safe_open

GROUP = 128


def bytes_of(path: pathlib.Path, names: set[str]) -> dict[str, tuple[str, list[int], bytes]]:
    """dtype, shape and raw bytes of tensors: numpy has no BF16 and no E4M3."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        out = {}
        for name in names:
            begin, end = header[name]["data_offsets"]
            file.seek(8 + length + begin)
            out[name] = (header[name]["dtype"], header[name]["shape"], file.read(end - begin))
        return out


def e4m3_values() -> np.ndarray:
    """The 256 values of E4M3 (bias 7, no infinity, 0x7F and 0xFF NaN) in F32."""
    values = np.empty(256, np.float32)
    for code in range(256):
        exponent, mantissa = (code >> 3) & 15, code & 7
        magnitude = mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10)
        if code & 0x7F == 0x7F:
            magnitude = np.nan
        values[code] = -magnitude if code & 0x80 else magnitude
    return values


E4M3 = e4m3_values()


def round_to_e4m3(x: np.ndarray) -> np.ndarray:
    """Nearest E4M3 value, ties to the even code, saturating at 448."""
    magnitude = np.abs(x).astype(np.float64)
    grid = E4M3[:127].astype(np.float64)
    above = np.clip(np.searchsorted(grid, magnitude), 1, 126)
    low, high = grid[above - 1], grid[above]
    up = (magnitude - low > high - magnitude) | (
        (magnitude - low == high - magnitude) & (above % 2 == 0))
    rounded = np.where(magnitude >= 448, 448, np.where(up, high, low))
    return np.copysign(rounded, x).astype(np.float32)


def as_f32(dtype: str, shape: list[int], raw: bytes) -> np.ndarray:
    if dtype == "F32":
        return np.frombuffer(raw, "<f4").reshape(shape)
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    raise ValueError(f"a checkpoint has no {dtype} tensor of its own")


def linear_products(tensors: dict, name: str, columns: int) -> dict[str, np.ndarray]:
    codes = np.frombuffer(tensors[name + ".weight_codes"][2], np.uint8)
    codes = codes.reshape(tensors[name + ".weight_codes"][1])
    q = np.stack([codes & 15, codes >> 4], axis=-1).reshape(codes.shape[0], -1)[:, :columns]
    shape = tensors[name + ".weight_scale"][1]
    scale = E4M3[np.frombuffer(tensors[name + ".weight_scale"][2], np.uint8)].reshape(shape)
    zero = np.frombuffer(tensors[name + ".weight_zero"][2], np.uint8).reshape(shape)
    t = np.frombuffer(tensors[name + ".weight_t"][2], "<f4")[0]
    group = np.arange(columns) // GROUP
    product = (q.astype(np.float32) - zero[:, group].astype(np.float32)) * scale[:, group]
    return {name + ".exact": product / t, name + ".table": round_to_e4m3(product) / t}


def columns_of(config: dict, name: str) -> int:
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    if name.endswith("o_proj"):
        return config["num_attention_heads"] * head_dim
    return config["intermediate_size"] if name.endswith("down_proj") else config["hidden_size"]


def read_checkpoint(folder: pathlib.Path):
    """Yields (name, F32 array) in the order of the names."""
    config = json.loads((folder / "config.json").read_text())
    quant = config["quantization_config"]
    assert quant["quant_method"] == "fireq" and quant["format_version"] == 1, quant
    assert quant["group_size"] == GROUP, quant
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:  # the reference reader accepts the file
            names = set(file.keys())
        tensors |= bytes_of(path, names)
    for name in sorted(tensors):
        linear, _, part = name.rpartition(".")
        if part == "weight_codes":
            yield from linear_products(tensors, linear, columns_of(config, linear)).items()
        elif part not in ("weight_scale", "weight_zero", "weight_t"):
            yield name, as_f32(*tensors[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("-o", "--output", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
    for name, values in read_checkpoint(arguments.checkpoint):
        raw = np.ascontiguousarray(values, "<f4").tobytes()
        print(name, list(values.shape), hashlib.sha256(raw).hexdigest())
        if arguments.output:
            (arguments.output / f"{name}.f32").write_bytes(raw)


if __name__ == "__main__":
    main()
