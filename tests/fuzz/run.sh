#!/bin/sh
# Fuzzes every parser for a number of seconds each (default 60), under AddressSanitizer and UBSan.
#
#   tests/fuzz/run.sh [SECONDS [NAME...]]      e.g. tests/fuzz/run.sh 3600 gguf
#
# New inputs are collected in build/fuzz/corpus/NAME; a crash stops the run and leaves its input in
# build/fuzz as crash-*. Put that input into tests/fuzz/corpus/NAME once the bug is fixed.
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:-60}
[ $# -eq 0 ] || shift
names=${*:-$(ls tests/fuzz/*_fuzz.cpp | sed 's|.*/||; s|_fuzz.cpp||')}
command -v clang++ >/dev/null || { echo "run.sh: clang++ is needed: apt install clang" >&2; exit 2; }
cmake -S . -B build/fuzz -G Ninja -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DCMAKE_CXX_FLAGS_RELWITHDEBINFO="-O1 -g -fsanitize=fuzzer-no-link" -DFIREQ_BENCH=OFF \
  -DFIREQ_SANITIZE=address,undefined -DFIREQ_FUZZ=ON
for name in $names; do
  cmake --build build/fuzz --target "${name}_fuzz"
  mkdir -p "build/fuzz/corpus/$name"
  echo "== fuzzing $name for $seconds s"
  (cd build/fuzz && "tests/fuzz/${name}_fuzz" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
    -print_final_stats=1 -max_len=65536 "corpus/$name" "../../tests/fuzz/corpus/$name")
done
