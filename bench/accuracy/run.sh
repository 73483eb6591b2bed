#!/bin/sh
# Accuracy on the CPU backend: DATA holds wikitext-2-raw/, calibration/ and tasks/. A day on two cores; a run
# that was interrupted goes on where it stopped (bench/results/accuracy_*.csv).
set -eu
[ $# -eq 1 ] || { echo "usage: $0 DATA" >&2; exit 2; }
for set in main full ablation rivals seeds texts kv sensitivity auto tasks; do
  "$(dirname "$0")/run.py" --set "$set" --data "$1"
done
