"""What bench/accuracy/run.py measures: rows of (name, recipe, settings), and the sets they make."""

from typing import NamedTuple

FLOAT_REST = "activations=float query=float probs=float borders=f32"
NO_COMPENSATION = "weights.solver=nearest weights.sweeps=0 follow=false"
FLOAT_LINEARS = "weights.grid=none rotate.residual=false " + NO_COMPENSATION
KV_ONLY = FLOAT_LINEARS + " query=float probs=float borders=f32"
WEIGHTS_ONLY = "kv=float rpn=false crs=false hadamard.qk=false " + FLOAT_REST

SMOOTHED = "cas=mean cas.lambdas=1,3"

MAIN = [
    ("default", "default", ""),
    ("default without following", "default", "follow=false"),
    ("fireq", "fireq", ""),
    ("qoq", "qoq", ""),
    ("qoq with outputs smoothed", "qoq", SMOOTHED),
    ("qoq smoothed and rotated", "qoq", f"{SMOOTHED} rotate.residual=true"),
    ("rtn", "rtn", ""),
    ("float", "", ""),
]

RIVALS = [
    ("qoq", "qoq", ""),
    ("qoq, activations unrounded", "qoq", "activations=float"),
    ("qoq without clipping", "qoq", "weights.search=false"),
    ("qoq without SmoothAttention", "qoq", "smooth.qk=false"),
    ("qoq with outputs smoothed", "qoq", SMOOTHED),
    ("qoq with outputs smoothed, activations unrounded", "qoq", f"{SMOOTHED} activations=float"),
    ("qoq with outputs smoothed by maxima", "qoq", "cas=absmax cas.lambdas=1,3"),
    ("qoq with the input of o smoothed", "qoq", "cas=mean cas.lambdas=1"),
    ("qoq with the input of down smoothed", "qoq", "cas=mean cas.lambdas=3"),
    ("qoq with all inputs smoothed", "qoq", "cas=mean"),
    ("qoq with the residual rotated", "qoq", "rotate.residual=true"),
    ("qoq smoothed and rotated", "qoq", f"{SMOOTHED} rotate.residual=true"),
]

# The fourth entry is the calibration text, the fifth the text that is scored. Part 2/3 of a text is
# its second third. A seed changes the calibration text and the rotations at once.
WITHOUT = [
    ("default", ""),
    ("without error compensation", NO_COMPENSATION),
    ("without following", "follow=false"),
    ("without correcting lm_head", "follow.head=false"),
    ("without coordinate descent", "weights.sweeps=0"),
    ("without search", "weights.search=false"),
    ("without zero points in the weights", "weights.grid=signed"),
    ("without rotation of the residual", "rotate.residual=false"),
    ("without rotation of V", "rotate.v=false"),
    ("without Hadamard of Q and K", "hadamard.qk=false"),
    ("without zero points in K and V", "kv=symmetric"),
    ("without centring K", "shift.k=0"),
    ("without t", "weights.t=false"),
]
SEEDS = [
    (f"{name}, seed {seed}", "default", f"seed={seed} {settings}".strip(),
     f"calibration/c4.utf8#{seed}/3")
    for seed in (1, 2, 3) for name, settings in WITHOUT
]

TEXTS = [
    (f"{recipe}, {calibration} to {text}", recipe, "", f"calibration/{calibration}.utf8", path)
    for calibration in ("c4", "wiki") for recipe in ("default", "fireq", "qoq", "rtn")
    for text, path in (("test", "wikitext-2-raw/wiki.test.raw"),
                       ("technical", "calibration/technical.utf8"))
]

AUTO = [("auto", "auto", "")]

TASKS = [("float", "", ""), ("default", "default", ""), ("fireq", "fireq", ""),
         ("qoq", "qoq", ""), ("rtn", "rtn", "")]

KV_ALONE = [
    ("float", "", ""),
    ("K and V alone, default", "default", KV_ONLY),
    ("K and V alone, K not centred", "default", "shift.k=0 " + KV_ONLY),
]

ABLATION = [
    ("qoq", "qoq", ""),
    ("rtn", "rtn", ""),
    ("fireq", "fireq", ""),
    ("fireq, CAS by absmax", "fireq-absmax", ""),
    ("fireq without t", "fireq", "weights.t=false"),
    ("fireq without CAS", "fireq", "cas=none"),
    ("fireq without RPN", "fireq", "rpn=false"),
    ("fireq without CRS", "fireq", "crs=false"),
    ("fireq without RPN and CRS", "fireq", "rpn=false crs=false"),
    ("fireq with asymmetric K and V", "fireq", "kv=asymmetric"),
    ("fireq with searched scales", "fireq", "weights.grid=signed weights.search=true"),
    ("default", "default", ""),
] + [
    (f"default {name}", "default", settings) for name, settings in WITHOUT[1:]
] + [
    ("weights only, rtn", "rtn", WEIGHTS_ONLY),
    ("weights only, fireq", "fireq", WEIGHTS_ONLY),
    ("weights only, default", "default", WEIGHTS_ONLY),
    ("K and V only, rtn", "rtn", KV_ONLY),
    ("K and V only, fireq", "fireq", KV_ONLY + " cas=none"),
    ("K and V only, default", "default", KV_ONLY),
]

# Everything but what the name says stays as the float model has it. Fused linears go together.
ALONE = "kv=float activations=float query=float probs=float borders=f32 follow=false"
SENSITIVITY = [
    (f"{kind} alone", "default", f"{ALONE} exclude=^(?!.*({kind.replace(',', '|')})_proj)")
    for kind in ("q,k,v", "o", "gate,up", "down")
] + [
    ("K and V alone", "default", KV_ONLY),
    ("weights alone", "default", ALONE),
] + [
    (f"layer {layer} alone", "default", f"{ALONE} exclude=^(?!model\\.layers\\.{layer}\\.)")
    for layer in range(30)
]

CHOOSE = [
    ("default", "default", ""),
    ("RPN and CRS for Hadamard", "default", "rpn=true crs=true hadamard.qk=false"),
    ("default, lm_head as it was", "default", "follow.head=false"),
    ("default without following", "default", "follow=false"),
    ("follow damping 0.3", "default", "follow.damping=0.3"),
    ("follow damping 3", "default", "follow.damping=3"),
    ("without rotation of V", "default", "rotate.v=false"),
    ("signed grid, table products", "default", "weights.grid=signed weights.products=table"),
    ("damping 0.03", "default", "weights.damping=0.03"),
    ("damping 0.3", "default", "weights.damping=0.3"),
    ("without rotation of the residual", "default", "rotate.residual=false"),
    ("inputs of o and down smoothed", "default", "cas=mean cas.lambdas=1,3"),
    ("input of o smoothed", "default", "cas=mean cas.lambdas=1"),
    ("input of down smoothed", "default", "cas=mean cas.lambdas=3"),
    ("smoothed, without rotation of the residual", "default",
     "rotate.residual=false cas=mean cas.lambdas=1,3"),
    ("no sweeps", "default", "weights.sweeps=0"),
    ("K not centred", "default", "shift.k=0"),
    ("K half centred", "default", "shift.k=0.5"),
]

ZERO_SHOT = ("piqa", "arc_easy", "arc_challenge", "winogrande", "lambada_openai", "hellaswag",
             "boolq")
WIKI_TEST = "wikitext-2-raw/wiki.test.raw"


class Set(NamedTuple):
    rows: list
    text: str
    tokens: int  # items of each task for TASKS, 0: all
    calib_tokens: int
    products: str = "table,exact"
    reference: bool = True  # KL and top-1 as well
    tasks: tuple = ()


SETS = {
    "main": Set(MAIN, WIKI_TEST, 65536, 131072),
    "full": Set(MAIN, WIKI_TEST, 303104, 131072, reference=False),
    "rivals": Set(RIVALS, "calibration/wiki.utf8", 16384, 32768),
    "ablation": Set(ABLATION, WIKI_TEST, 16384, 32768, "table"),
    "seeds": Set(SEEDS, WIKI_TEST, 16384, 8192, "table"),
    "texts": Set(TEXTS, WIKI_TEST, 16384, 16384, "table"),
    "kv": Set(KV_ALONE, WIKI_TEST, 65536, 32768, "exact"),
    "auto": Set(AUTO, WIKI_TEST, 16384, 32768),
    "sensitivity": Set(SENSITIVITY, "calibration/wiki.utf8", 8192, 16384, "exact"),
    "choose": Set(CHOOSE, "calibration/wiki.utf8", 16384, 32768),
    "tasks": Set(TASKS, "", 500, 131072, "served", tasks=ZERO_SHOT),
    "tasks_full": Set(TASKS, "", 0, 131072, "served", tasks=ZERO_SHOT),  # every item
}
