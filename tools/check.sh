#!/bin/sh
# Hygiene of the sources: formatting, layers, ASCII, no printing in the library, file sizes, documents
# whose tables say what bench/results says.
# With --tidy also clang-tidy on what differs from the given base (needs a build in build/cpu).
set -eu
cd "$(dirname "$0")/.."
status=0
sources=$(git ls-files 'src/*.h' 'src/*.cpp' 'src/*.cu' 'src/*.cuh' 'apps/*.h' 'apps/*.cpp' \
  'tests/*.h' 'tests/*.cpp' 'tests/*.cu' 'bench/*.cpp' 'bench/*.cu' 'bench/*.h')
fail() { echo "check: $1" >&2; status=1; }

unformatted=$(echo "$sources" | xargs -P "$(nproc)" -I{} sh -c \
  'clang-format --dry-run --Werror {} 2>/dev/null || echo {}')
[ -z "$unformatted" ] || { echo "$unformatted"; fail "run clang-format -i on the files above"; }
python3 tools/check_layers.py || fail "an include points up (tools/layers.txt)"
# shellcheck disable=SC2086
if LC_ALL=C grep -nP '[^\x00-\x7F]' $sources | grep -v '^tests/'; then
  fail "non-ASCII bytes in the sources above"
fi
if git ls-files src | grep -E '\.(h|cpp|cuh|cu)$' | xargs grep -nE 'std::cout|std::cerr|[^sn]printf\(|abort\(\)|std::exit' ; then
  fail "the library neither prints nor exits"
fi
long=$(echo "$sources" | xargs wc -l | awk '$2 != "total" && $1 > 600')
[ -z "$long" ] || { echo "$long"; fail "files over 600 lines"; }

python3 tools/result_tables.py --check || fail "a table is stale"
python3 tools/performance_tables.py --check || fail "a table of docs/PERFORMANCE.md is stale"

if [ "${1:-}" = "--tidy" ]; then
  changed=$(git diff --name-only "${2:-HEAD~1}" -- 'src/*.cpp' 'apps/*.cpp' | xargs -r ls 2>/dev/null)
  # shellcheck disable=SC2086
  [ -z "$changed" ] || clang-tidy -p build/cpu --quiet $changed || fail "clang-tidy"
fi
exit $status
