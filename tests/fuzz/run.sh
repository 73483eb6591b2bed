#!/bin/sh
# Fuzzes every parser for the same CPU time (seconds each, default 60), under AddressSanitizer and UBSan.
#
#   tests/fuzz/run.sh [CPU_SECONDS [NAME...]]      e.g. tests/fuzz/run.sh 3600 gguf
#   WORKERS=2 tests/fuzz/run.sh 3600               two processes at a time (default: one a core)
#
# New inputs are collected in build/fuzz/out/corpus/NAME, findings in build/fuzz/out/findings/NAME, CPU
# seconds and executions in build/fuzz/out/result.csv (campaign.py). Put a finding's input into
# tests/fuzz/corpus/NAME once the bug is fixed.
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:-60}
[ $# -eq 0 ] || shift
names=${*:-$(ls tests/fuzz/*_fuzz.cpp | sed 's|.*/||; s|_fuzz.cpp||')}
command -v clang++ >/dev/null || { echo "run.sh: clang++ is needed: apt install clang" >&2; exit 2; }
cmake -S . -B build/fuzz -G Ninja -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DCMAKE_CXX_FLAGS_RELWITHDEBINFO="-O2 -g1 -fsanitize=fuzzer-no-link" -DFIREQ_BENCH=OFF \
  -DFIREQ_SANITIZE=address,undefined -DFIREQ_FUZZ=ON
for name in $names; do
  cmake --build build/fuzz --target "${name}_fuzz"
done
# shellcheck disable=SC2086
exec python3 tests/fuzz/campaign.py run build/fuzz/tests/fuzz build/fuzz/out $names \
  --workers "${WORKERS:-$(nproc)}" --cpu-seconds "$seconds"
