#!/usr/bin/env python3
"""Tokens a second of BF16 GEMMs (cuBLAS) and BF16 attention (cuDNN or FlashAttention, whichever is
faster) in the shapes of a model, through PyTorch: what `fireq bench prefill|decode|serve --compare`
compares with.

GEMMs and attention are all that is timed: no norm, no RoPE, no activation, no sampling, no scheduler, as
CUDA graphs. So it is less than any engine would take in BF16, and the ratio to it is a low one.
Weights, inputs and caches are random; four layers of them take turns, so that none stays in the L2.

usage: torch_baseline.py PHASE HIDDEN FFN LAYERS HEADS KV_HEADS HEAD_DIM VOCAB BATCH INPUT OUTPUT MAX_TOKENS REQUESTS
Prints the number alone.
"""

import statistics
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import linear, scaled_dot_product_attention

SETS = 4  # layers of weights and caches that take turns


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * 0.05


def seconds(run, repeats=7):
    """Of one call of `run`, recorded as a graph; median."""
    for _ in range(2):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    times = []
    for i in range(repeats + 2):
        start, stop = torch.cuda.Event(True), torch.cuda.Event(True)
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        if i >= 2:
            times.append(start.elapsed_time(stop) * 1e-3)
    return statistics.median(times)


def fastest(run):
    """The time of `run` with the better of both attentions."""
    best = None
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
        try:
            with sdpa_kernel(backend):
                time = seconds(run)
        except RuntimeError:  # not for this shape
            continue
        best = time if best is None else min(best, time)
    if best is None:
        raise SystemExit("neither cuDNN nor FlashAttention takes this shape")
    return best


class Model:
    def __init__(self, hidden, ffn, layers, heads, kv_heads, head_dim, vocab):
        self.hidden, self.ffn, self.layers, self.vocab = hidden, ffn, layers, vocab
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        q, kv = heads * head_dim, kv_heads * head_dim
        shapes = ((q + 2 * kv, hidden), (hidden, q), (2 * ffn, hidden), (hidden, ffn))
        self.weights = [[random(*shape) for shape in shapes] for _ in range(SETS)]
        self.lm_head = random(vocab, hidden)

    def step(self, tokens, sampled, sequences, queries, context):
        """Seconds of a step of `tokens`, of which each of `sequences` has `queries` at the end of `context`."""
        inputs = [random(tokens, w.shape[1]) for w in self.weights[0]]
        last = random(sampled, self.hidden)
        q = random(sequences, queries, self.heads, self.head_dim).transpose(1, 2)
        caches = [[random(sequences, context, self.kv_heads, self.head_dim).transpose(1, 2) for _ in range(2)]
                  for _ in range(SETS)]
        grouped = self.heads != self.kv_heads

        def blocks():
            for weights, (k, v) in zip(self.weights, caches):
                for x, w in zip(inputs, weights):
                    linear(x, w)
                scaled_dot_product_attention(q, k, v, is_causal=queries > 1, enable_gqa=grouped)

        return fastest(blocks) * self.layers / SETS + seconds(lambda: linear(last, self.lm_head))

    def prefill(self, sequences, length, max_tokens):
        """Seconds of all prompts, in steps of whole prompts."""
        at_once = max(1, min(sequences, max_tokens // length))
        return self.step(at_once * length, at_once, at_once, length, length) * sequences / at_once

    def decode(self, batch, context):
        return self.step(batch, batch, batch, 1, context)


@torch.inference_mode()
def main():
    phase = sys.argv[1]
    *dims, batch, length, output, max_tokens, requests = map(int, sys.argv[2:])
    model = Model(*dims)
    middle = length + output // 2
    if phase == "prefill":
        rate = batch * length / model.prefill(batch, length, max_tokens)
    elif phase == "decode":
        rate = batch / model.decode(batch, middle)
    else:
        all_seconds = (model.prefill(requests, length, max_tokens)
                       + model.decode(batch, middle) * output * requests / batch)
        rate = requests * output / all_seconds
    print(f"{rate:.1f}")


if __name__ == "__main__":
    main()
