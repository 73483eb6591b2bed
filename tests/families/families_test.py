"""Logits of every model family against transformers, on real configurations with small random weights.

usage: families_test.py LOGITS_PROGRAM

Runs only with FIREQ_TEST_FAMILIES=1 (it installs transformers and torch from PyPI into a virtual
environment: gigabytes), reading the configurations from FIREQ_TEST_DATA/configs; exits with 77, which
ctest shows as skipped, otherwise. FIREQ_TEST_VENV names a virtual environment to make or to use again.
"""

import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import virtual_environment  # noqa: E402

TOLERANCE = 1e-3  # on logits of a spread of about 1
PREFILL, TOKENS = 150, 160  # across two borders of the cache's pages


def shrink(config: dict, real_head_dim: bool) -> dict:
    """The real configuration with its head counts and switches, but few and short rows."""
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    small = config | {"num_hidden_layers": 2, "vocab_size": 500, "intermediate_size": 344, "bos_token_id": 1,
                      "eos_token_id": 2, "torch_dtype": "float32"}
    small.pop("pad_token_id", None)
    if real_head_dim:
        return small | {"hidden_size": heads * 8, "head_dim": head_dim}
    small["hidden_size"] = heads * 16
    if "head_dim" in small:
        small["head_dim"] = 16
    return small


def fill(model, torch) -> None:
    """Weights that keep activations near 1, so that logits tell models apart; norms and biases random."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("norm.weight"):
            parameter.data = 1 + 0.2 * noise
        elif parameter.dim() == 1:
            parameter.data = 0.5 * noise
        else:
            parameter.data = noise / math.sqrt(parameter.shape[1])


def write(directory: pathlib.Path, model, config: dict, own_config: bool) -> None:
    """Weights, and config.json as transformers writes it now or as the model's own has it."""
    model.save_pretrained(directory)
    if own_config:
        (directory / "config.json").write_text(json.dumps(config))


def compare(program: str, name: str, config: dict, own_config: bool, directory: pathlib.Path) -> float:
    import numpy
    import torch
    import transformers
    transformers.utils.logging.disable_progress_bar()
    directory.mkdir()
    source = directory / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config))
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.from_pretrained(source), dtype=torch.float32, attn_implementation="eager").eval()
    fill(model, torch)
    model.tie_weights()
    write(directory / "model", model, config, own_config)

    ids = torch.randint(3, config["vocab_size"], (1, TOKENS), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model(ids).logits[0, PREFILL - 1:].numpy()
    out = directory / "logits"
    subprocess.run([program, directory / "model", out, str(PREFILL), *map(str, ids[0].tolist())], check=True)
    actual = numpy.fromfile(out, numpy.float32).reshape(expected.shape)
    worst = float(numpy.abs(actual - expected).max())
    print(f"{name:45} largest difference {worst:.2e}, spread of the logits {expected.std():.2f}", flush=True)
    return worst


def main() -> None:
    if os.environ.get("FIREQ_TEST_FAMILIES") != "1":
        virtual_environment.skip("FIREQ_TEST_FAMILIES is not 1")
    if not os.environ.get("FIREQ_TEST_DATA"):
        virtual_environment.skip("FIREQ_TEST_DATA is not set")
    virtual_environment.enter("families", "torch", "transformers", "numpy", "safetensors")
    program = os.path.abspath(sys.argv[1])
    bad = []
    paths = sorted(pathlib.Path(os.environ["FIREQ_TEST_DATA"], "configs").glob("*.json"))
    with tempfile.TemporaryDirectory(prefix="fireq_families_") as scratch:
        for path in paths:
            real = json.loads(path.read_text())
            for real_head_dim in (False, True):
                name = f"{path.stem}, {'its head_dim' if real_head_dim else 'its config.json'}"
                # The small one keeps config.json's own words, the other has transformers' of today.
                worst = compare(program, name, shrink(real, real_head_dim), not real_head_dim,
                                pathlib.Path(scratch, name.replace(", ", "_").replace(" ", "_")))
                if not worst <= TOLERANCE:
                    bad.append(name)
    if bad or not paths:
        sys.exit(f"differ by more than {TOLERANCE}: {bad}" if paths else "no configurations")


if __name__ == "__main__":
    main()
