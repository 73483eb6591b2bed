"""The README's tables: what this project is judged by, beside what others published or the peer
measured in the same run; and the main job on two CPU cores. See result_tables.py."""

import statistics

from accuracy_tables import missing, read, scored_on, table

# In the order of their columns: the one that has run the present kernels first.
CARDS = ("h200", "h100")


def published(key):
    row = next(r for r in read("published.csv") if r["key"] == key)
    return f"{row['values']} ({row['who']}, {row['card']}, as published)"


def values(name, column, digits, **where):
    """The column of the rows of a CSV that agree with `where`, joined by slashes; None without any."""
    rows = [r for r in read(name) or [] if all(r[k] == v for k, v in where.items())]
    return " / ".join(f"{float(r[column]):,.{digits}f}" for r in rows) or None


def step_sizes(name, where):
    """Of the rows as values() has them; None where a CSV is older than their column."""
    if any("max_tokens" not in row for row in read(name) or []):
        return None
    return values(name, "max_tokens", 0, **where)


def accuracy():
    main = "accuracy_main.csv"
    on_cpu = [r for r in read(main) or [] if r["products"] == "table" and scored_on(r) == "CPU"]
    for what, column, digits in (("perplexity", "perplexity", 2), ("KL to the float model", "kl", 3)):
        of = {recipe: " / ".join(f"{float(r[column]):.{digits}f}" for r in on_cpu if r["row"] == recipe)
              for recipe in ("rtn", "fireq", "default")}
        beside = f"{of['fireq']} (the paper's method), {of['rtn']} (plain rounding)"
        if column == "perplexity":
            float_model = values(main, "perplexity", 2, row="float")
            beside += f", {float_model} (float)"
        yield f"SmolLM2-135M, WikiText-2, {what} (FireQ: 131,072 / 32,768 calibration tokens)", beside, of["default"] or None


def gemm(card):
    rows = [r for r in read(f"gemm_{card}.csv") or [] if r["kernel"] == "fireq"]
    at = [statistics.geometric_mean(float(r["ratio_fp8"]) for r in rows if r["M"] == m)
          for m in ("1", "64", "256", "1024", "16384") if any(r["M"] == m for r in rows)]
    yield ("INT4 x FP8 GEMM, time at M = 1 / 64 / 256 / 1024 / 16384", "1 (cuBLASLt FP8, same run)",
           " / ".join(f"{ratio:.2f}" for ratio in at) or None)


def ffn(card):
    ours = [values(f"ffn_{card}.csv", "ratio_fp16", 2, model="Llama-2-7B", kernel="fireq", M=m)
            for m in ("1024", "4096", "16384")]
    yield ("FFN block of Llama-2-7B over FP16, 1024 / 4096 / 16384 tokens",
           published("ffn_llama_2_7b"), " / ".join(ours) if None not in ours else None)


def attention(card):
    for heads, kv_heads in (("32", "8"), ("32", "32")):
        yield (f"causal prefill attention, {heads}/{kv_heads} heads, 16 x 1024 to 1 x 32768, rate",
               "1 (cuDNN BF16, same run)",
               values(f"attention_prefill_{card}.csv", "ratio_cudnn", 2, heads=heads, kv_heads=kv_heads))


def engine(card):
    llama, int4_head = "synthetic llama-3-8b", "synthetic llama-3-8b (INT4 lm_head)"
    yield ("Llama-3-8B prefill, batch 16 of 1024 / 2048 / 4096, tokens/s", published("prefill_llama_3_8b"),
           values(f"engine_prefill_{card}.csv", "tokens_per_second", 0, model=llama, batch="16"))
    decode = [values(f"engine_decode_{card}.csv", "tokens_per_second", 0, model=model, batch="1")
              for model in (llama, int4_head)]
    yield ("Llama-3-8B decode, one sequence at 1024, BF16 / INT4 lm_head, tokens/s", published("decode_llama_3_8b"),
           " / ".join(decode) if None not in decode else None)
    serve = f"engine_serve_{card}.csv"
    steps = step_sizes(serve, {"model": llama, "output": "512"})
    served = [values(serve, "tokens_per_second", 0, model=model, output="512") for model in (llama, int4_head)]
    yield ("Llama-3-8B served, 256 x 1024 in, 512 out, BF16 / INT4 lm_head, tokens/s with prefill"
           + (f" (steps of {steps} tokens)" if steps else ""),
           published("serve_llama_3_8b"), " / ".join(served) if None not in served else None)


def cpu():
    for what in ("decode, short context", "prefill 512"):
        yield (f"SmolLM2-135M on two CPU cores, {what}, tokens/s",
               f"{values('llamacpp_speed.csv', 'llamacpp', 0, what=what)} (llama.cpp Q4_1, same run)",
               values("llamacpp_speed.csv", "fireq", 0, what=what))


def on_cards(part):
    """A part's rows, with a column of ours for each card."""
    for rows in zip(*(part(card) for card in CARDS), strict=True):
        (what, beside, _), *_ = rows
        yield what, beside, *(ours for _, _, ours in rows)


def headline():
    if read("accuracy_main.csv") is None:
        return missing("accuracy_main.csv")
    rows = [*((*row, "") for row in accuracy()),
            *(row for part in (gemm, ffn, attention, engine) for row in on_cards(part)),
            *((*row, "") for row in cpu())]
    first, second = (card.upper() for card in CARDS)
    return table(["", "others", f"FireQ (on a GPU: {first})", second],
                 [[what, beside, *("not measured yet" if value is None else value for value in ours)]
                  for what, beside, *ours in rows])


def main_job():
    rows = read("main_job.csv")
    if rows is None:
        return missing("main_job.csv")
    return table(["two CPU cores, SmolLM2-135M", "command", "measured", "wanted"],
                 [[r["what"], f"`{r['command']}`", r["measured"], r["contract"] or "-"] for r in rows])


TABLES = (headline, main_job)
