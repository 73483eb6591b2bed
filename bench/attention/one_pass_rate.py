#!/usr/bin/env python3
"""How often prefill attention's one pass fails: simulated from scores, on a CPU.

    bench/attention/one_pass_rate.py normal             normal scores of several deviations, 32/8 heads
    bench/attention/one_pass_rate.py GGUF IDS           SmolLM2's own scores; IDS: a file of token ids

attn_prefill takes a tile of 128 keys that all of a warpgroup's rows see in one pass; a warp goes back,
and its warpgroup waits, where a probability was too high for its row's unit (consumer.cuh: OnePass,
FirstUnits, Raise, the same constants here; V's scales are taken as equal). The CSV on stdout gives the
share of a warp's tiles that failed and of a warpgroup's tiles in which any warp failed: with `retry`,
which takes the one pass wherever it may; where a warp whose last tile failed or raised a unit takes the
careful path at once (`warp`), or all four of the warpgroup do (`group`). The kernel does the last, for 16
tiles and into its next pieces, which is not simulated. Needs torch, and gguf for a model. Exit code 1 with a traceback on bad input.
"""

import math
import sys

import torch

KEYS, PAGE, GROUP_ROWS, WARP_ROWS = 128, 64, 64, 16
HIGHEST, HIGHEST_SUM = 0.75, 448 / 256
MARGIN, WIDE_MARGIN, ALIKE = 1.0, 4.0, 5.0


def rates(scores, heads_of_group, policy):
    """Tiles seen whole, warps' failures, warpgroups' tiles with a failure, warps' careful tiles.

    scores: [queries * heads_of_group, keys] to the base 2, row i of query i // heads_of_group; causal.
    """
    groups = scores.shape[0] // GROUP_ROWS
    scores = scores[:groups * GROUP_ROWS]
    limits = torch.arange(scores.shape[0]) // heads_of_group + 1
    first_limit, last_limit = limits[::GROUP_ROWS], limits[GROUP_ROWS - 1::GROUP_ROWS]
    units = torch.zeros(scores.shape[0])
    careful_next = torch.zeros(groups, GROUP_ROWS // WARP_ROWS, dtype=torch.bool)
    whole = failures = group_failures = careful_tiles = 0
    for begin in range(0, scores.shape[1] // KEYS * KEYS, KEYS):
        tile = scores[:, begin:begin + KEYS]
        unseen = torch.arange(begin, begin + KEYS)[None] >= limits[:, None]
        highest = tile.masked_fill(unseen, -math.inf).amax(1)
        seen = first_limit >= begin + KEYS
        partly = ((last_limit > begin) & ~seen).repeat_interleave(GROUP_ROWS)
        rows = seen.repeat_interleave(GROUP_ROWS)
        if begin == 0:
            lanes = tile[:, :PAGE].reshape(-1, PAGE // 16, 4, 4).amax(dim=(1, 3))
            alike = lanes.amax(1) - lanes.amin(1) < ALIKE
            first = lanes.amax(1).ceil() + torch.where(alike, WIDE_MARGIN, MARGIN)
            units = torch.where(rows, first, torch.where(partly, highest.ceil() + MARGIN, units))
        careful = careful_next & seen[:, None] if policy != "retry" else torch.zeros_like(careful_next)
        sums = torch.exp2(tile - units[:, None]).reshape(-1, KEYS // 4, 4).sum(2).amax(1)
        failed = ((sums > HIGHEST_SUM) & rows).reshape(groups, -1, WARP_ROWS).any(2) & ~careful
        two_passes = (failed | careful).repeat_interleave(WARP_ROWS, 1).reshape(-1) | partly
        raised = two_passes & (highest - units > HIGHEST) if begin else partly & False
        units = torch.where(raised, highest.ceil() + MARGIN, units)
        careful_next = failed | raised.reshape(groups, -1, WARP_ROWS).any(2)
        if policy == "group":
            careful_next = careful_next.any(1, keepdim=True).expand_as(careful_next)
        whole += int(seen.sum()) * (GROUP_ROWS // WARP_ROWS)
        failures += int(failed.sum())
        group_failures += int(failed.any(1).sum())
        careful_tiles += int(careful.sum())
    return whole, failures, group_failures, careful_tiles


def report(name, counted):
    for policy, tiles in counted.items():
        whole, failures, group_failures, careful = tiles
        print(f"{name},{policy},{whole},{failures / whole:.4f},{group_failures * 4 / whole:.4f},{careful / whole:.4f}",
              flush=True)


def add(counted, scores, heads_of_group):
    for policy in ("retry", "warp", "group"):
        one = rates(scores * math.log2(math.e), heads_of_group, policy)
        counted[policy] = [a + b for a, b in zip(counted.get(policy, (0,) * 4), one)]


def normal():
    for keys in (1024, 4096):
        for deviation in (1, 1.5, 2, 3, 4):
            torch.manual_seed(0)
            queries, k = deviation * torch.randn(4 * keys, 128), torch.randn(keys, 128)
            counted = {}
            add(counted, queries @ k.T / 128**0.5, 4)
            report(f"normal {deviation} x {keys}", counted)


def model(path, ids_path):
    import gguf

    reader = gguf.GGUFReader(path)
    weights = {t.name: torch.tensor(gguf.dequantize(t.data, t.tensor_type), dtype=torch.float32)
               .reshape([int(n) for n in reversed(t.shape)]) for t in reader.tensors}
    value = {name: field.parts[-1][0] for name, field in reader.fields.items() if len(field.parts)}
    heads, kv_heads = (int(value[f"llama.attention.head_count{kv}"]) for kv in ("", "_kv"))
    dim, group = int(value["llama.embedding_length"]) // heads, heads // kv_heads
    epsilon, base = float(value["llama.attention.layer_norm_rms_epsilon"]), float(value["llama.rope.freq_base"])
    ids = torch.tensor([int(x) for x in open(ids_path).read().split()])
    n = len(ids)
    angle = torch.arange(n)[:, None, None] * base ** (-torch.arange(0, dim, 2) / dim)
    mask = torch.arange(n)[None] > (torch.arange(n * group) // group)[:, None]

    def rope(x):  # GGUF's rows are permuted for pairs side by side
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1).flatten(-2)

    def linear(x, name):
        return x @ weights[name + ".weight"].T

    def norm(x, name):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * weights[name + ".weight"]

    hidden, whole = weights["token_embd.weight"][ids], {}
    for layer in range(int(value["llama.block_count"])):
        block = f"blk.{layer}."
        x = norm(hidden, block + "attn_norm")
        q, k = (rope(linear(x, f"{block}attn_{which}").view(n, -1, dim)) for which in "qk")
        v = linear(x, block + "attn_v").view(n, kv_heads, dim)
        out, counted, deviations = torch.empty(n, heads, dim), {}, []
        for head in range(kv_heads):
            of = slice(head * group, (head + 1) * group)
            scores = q[:, of].reshape(n * group, dim) @ k[:, head].T / dim**0.5
            deviations.append(float(scores[~mask].std()))
            add(counted, scores, group)
            probabilities = torch.softmax(scores.masked_fill(mask, -math.inf), -1)
            out[:, of] = (probabilities @ v[:, head]).view(n, group, dim)
        hidden = hidden + linear(out.reshape(n, -1), block + "attn_output")
        x = norm(hidden, block + "ffn_norm")
        hidden = hidden + linear(torch.nn.functional.silu(linear(x, block + "ffn_gate")) * linear(x, block + "ffn_up"),
                                 block + "ffn_down")
        report(f"layer {layer} (deviation {sum(deviations) / kv_heads:.1f})", counted)
        whole = {policy: [a + b for a, b in zip(tiles, whole.get(policy, (0,) * 4))] for policy, tiles in counted.items()}
    logits = linear(norm(hidden, "output_norm"), "token_embd")
    loss = torch.nn.functional.cross_entropy(logits[:-1], ids[1:])
    print(f"# perplexity {float(loss.exp()):.2f}: the model is right", file=sys.stderr)
    report("model", whole)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    print("scores,policy,warp_tiles,warps_failed,warpgroups_failed,warps_careful")
    normal() if sys.argv[1] == "normal" else model(*sys.argv[1:3])
