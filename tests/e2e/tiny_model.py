"""Writes a small random Llama with a byte-level tokenizer in Hugging Face layout; standard library only."""

import json
import math
import pathlib
import random
import struct


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte, in byte order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(spare)) for b in range(256)]


def write_safetensors(path: pathlib.Path, tensors: dict[str, tuple[list[int], list[float]]]) -> None:
    header, blobs, offset = {}, [], 0
    for name, (shape, values) in tensors.items():
        blob = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def config(**changes) -> dict:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 260,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "torch_dtype": "float32",
    } | changes


def tensors(c: dict, seed: int = 1) -> dict[str, tuple[list[int], list[float]]]:
    rng = random.Random(seed)
    d, f, v = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    kv = d // c["num_attention_heads"] * c["num_key_value_heads"]

    def matrix(n: int, k: int):
        return [n, k], [rng.gauss(0, 1 / math.sqrt(k)) for _ in range(n * k)]

    def norm():
        return [d], [1 + 0.1 * rng.gauss(0, 1) for _ in range(d)]

    out = {"model.embed_tokens.weight": matrix(v, d), "model.norm.weight": norm()}
    if not c["tie_word_embeddings"]:
        out["lm_head.weight"] = matrix(v, d)
    for layer in range(c["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        out[at + "input_layernorm.weight"] = norm()
        out[at + "post_attention_layernorm.weight"] = norm()
        shapes = {"self_attn.q_proj": (d, d), "self_attn.k_proj": (kv, d), "self_attn.v_proj": (kv, d),
                  "self_attn.o_proj": (d, d), "mlp.gate_proj": (f, d), "mlp.up_proj": (f, d),
                  "mlp.down_proj": (d, f)}
        for name, (n, k) in shapes.items():
            out[at + name + ".weight"] = matrix(n, k)
    return out


def tokenizer() -> dict:
    alphabet = byte_alphabet()
    vocab = {symbol: i for i, symbol in enumerate(alphabet)}
    special = ["<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>"]
    return {
        "version": "1.0",
        "added_tokens": [{"id": 256 + i, "content": s, "single_word": False, "lstrip": False,
                          "rstrip": False, "normalized": False, "special": True}
                         for i, s in enumerate(special)],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                          "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "vocab": vocab, "merges": []},
    }


CHAT_TEMPLATE = ("{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
                 "{% if add_generation_prompt %}<|assistant|>{% endif %}")


def write_model(directory: pathlib.Path, seed: int = 1, **changes) -> pathlib.Path:
    directory.mkdir(parents=True)
    c = config(**changes)
    (directory / "config.json").write_text(json.dumps(c))
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer()))
    (directory / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|bos|>", "eos_token": "<|eos|>",
         "chat_template": CHAT_TEMPLATE}))
    write_safetensors(directory / "model.safetensors", tensors(c, seed))
    return directory
