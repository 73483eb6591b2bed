#!/bin/sh
# The main job, from nothing: build FireQ, fetch a small real model, quantise it to W4A8KV4 in three
# ways, measure what each costs on text it never saw, and let the model talk. Two cores and fifteen
# minutes are enough; no GPU is needed. Everything it makes lies in build/ and demo-out/.
set -eu
cd "$(dirname "$0")"
sh tools/install_packages.sh build run

fireq=build/cpu/fireq
out=demo-out
model=smollm2-135m
calib_tokens=20480
echo "== build"
cmake --preset cpu -DFIREQ_TESTS=OFF -DFIREQ_BENCH=OFF
cmake --build --preset cpu -j "$(nproc)" --target fireq

echo "== texts: chapters of the Debian FAQ, odd ones to calibrate, even ones to score"
sh tools/demo_text.sh "$out/text"

echo "== model: $model (fetched once, then kept)"
$fireq inspect $model | sed -n 1,12p

score() {
  $fireq eval perplexity "$1" --text "$out/text/score.txt" \
    --reference $model --json >"$2"
}
for recipe in rtn fireq default; do
  echo "== quantise: $recipe"
  $fireq quantize $model -o "$out/$recipe" --recipe $recipe --calib "$out/text/calib.txt" \
    --calib-tokens $calib_tokens
  echo "== score: $recipe against the float model"
  score "$out/$recipe" "$out/$recipe.json"
done
echo "== score: the float model itself"
$fireq eval perplexity $model --text "$out/text/score.txt" --json \
  >"$out/float.json"

python3 - "$out" <<'TABLE'
import json
import pathlib
import sys

out = pathlib.Path(sys.argv[1])
print(f"\n{'':10}{'perplexity':>12}{'KL':>9}{'top-1':>9}{'tokens/s':>10}")
for name in ("float", "rtn", "fireq", "default"):
    r = json.loads((out / f"{name}.json").read_text())
    kl = f"{r['kl_mean']:.4f}" if "kl_mean" in r else "0"
    top1 = f"{100 * r['top1_agreement']:.1f} %" if "kl_mean" in r else "100 %"
    print(f"{name:10}{r['perplexity']:12.3f}{kl:>9}{top1:>9}{r['tokens_per_second']:10.0f}")
TABLE

echo
echo "== the model quantised with the default recipe talks"
question="What is the capital of France, and what is it known for?"
echo "> $question"
echo "$question" | $fireq chat "$out/default" --temperature 0 -n 80
echo
echo "Done. Talk to it yourself: $fireq chat $out/default"
