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
calib_tokens=16384
score_tokens=10240
echo "== build"
# Some files at a time in one translation unit: the headers they share cost more than they do.
cmake --preset cpu -DFIREQ_TESTS=OFF -DFIREQ_BENCH=OFF -DCMAKE_UNITY_BUILD=ON
cmake --build --preset cpu -j "$(nproc)" --target fireq

echo "== texts: chapters of the Debian FAQ, odd ones to calibrate, even ones to score"
sh tools/demo_text.sh "$out/text"

echo "== model: $model (fetched once, then kept)"
$fireq inspect $model | sed -n 1,12p

score() {
  $fireq eval perplexity "$1" --text "$out/text/score.txt" --max-tokens $score_tokens \
    --reference $model --json >"$2"
}
for recipe in rtn fireq default; do
  echo "== quantise: $recipe"
  $fireq quantize $model -o "$out/$recipe" --recipe $recipe --calib "$out/text/calib.txt" \
    --calib-tokens $calib_tokens
  echo "== score: $recipe against the float model"
  score "$out/$recipe" "$out/$recipe.json"
done

python3 - "$out" <<'TABLE'
import json
import pathlib
import sys

out = pathlib.Path(sys.argv[1])
rows = {name: json.loads((out / f"{name}.json").read_text()) for name in ("rtn", "fireq", "default")}
print(f"\n{'':10}{'perplexity':>12}{'KL':>9}{'top-1':>9}{'tokens/s':>10}")
print(f"{'float':10}{rows['default']['reference_perplexity']:12.3f}{0:9}{'100 %':>9}")
for name, r in rows.items():
    print(f"{name:10}{r['perplexity']:12.3f}{r['kl_mean']:9.4f}"
          f"{100 * r['top1_agreement']:7.1f} %{r['tokens_per_second']:10.0f}")
TABLE

echo
echo "== the model quantised with the default recipe talks"
question="What is the capital of France, and what is it known for?"
echo "> $question"
echo "$question" | $fireq chat "$out/default" --temperature 0 -n 80
echo
echo "Done. Talk to it yourself: $fireq chat $out/default"
