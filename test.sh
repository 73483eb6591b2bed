#!/bin/sh
# All tests of FireQ: hygiene; where nvcc is found, every sm_90a kernel compiled, with its host side
# tested (and its device side, where there is a Hopper GPU); the suites under AddressSanitizer and
# UBSan; those with threads under ThreadSanitizer; and the CPU product.
#
#   ./test.sh            everything
#   ./test.sh cpu        one part: check, hopper, asan, tsan or cpu
#
# Real data: tests that need it read the folder FIREQ_TEST_DATA names and say "skipped" without it.
# The demo's model is fetched once for the tests of the CPU product (FIREQ_TEST_MODEL names another
# copy); without a network they, too, say "skipped".
set -eu
cd "$(dirname "$0")"
# The part that runs every test comes last, so that a log ends with its summary.
parts=${*:-"check hopper asan tsan cpu"}
# The test programs whose code starts threads, and the GPU build's own: label regexes for ctest.
threaded='^(base|backend_cpu|quant|engine)_test$'
hopper='_gpu_test$|_plan_test$|^(product|install)$'
sh tools/install_packages.sh build run test

if [ -z "${FIREQ_TEST_DATA:-}" ] && [ -d ../shared/data ]; then
  FIREQ_TEST_DATA=$(cd ../shared/data && pwd)
  export FIREQ_TEST_DATA
fi
jobs=$(nproc)

# Path of the demo's model, fetched by the program itself; empty where that fails.
test_model() {
  if build/cpu/fireq inspect smollm2-135m --json >/dev/null; then
    echo "${XDG_CACHE_HOME:-$HOME/.cache}/fireq/SmolLM2-135M-Instruct.Q4_1.gguf"
  fi
}

# A Python with numpy and safetensors, for the reader of checkpoints that is not ours; empty where it
# cannot be made.
test_python() {
  if [ -x .venv/bin/python ] || {
    python3 -m venv .venv && .venv/bin/pip install -q numpy safetensors
  } >&2; then
    echo "$PWD/.venv/bin/python"
  fi
}

for part in $parts; do
  echo "== test.sh: $part"
  case $part in
    check) sh tools/check.sh ;;
    cpu)
      # The demo leaves a build folder without tests.
      cmake --preset cpu -DFIREQ_TESTS=ON -DFIREQ_BENCH=ON
      cmake --build --preset cpu -j "$jobs"
      FIREQ_TEST_MODEL=${FIREQ_TEST_MODEL:-$(test_model)} \
        FIREQ_TEST_PYTHON=${FIREQ_TEST_PYTHON:-$(test_python)} ctest --preset cpu --no-tests=error -j "$jobs"
      ;;
    asan)
      cmake --preset asan
      cmake --build --preset asan -j "$jobs"
      ctest --preset asan --no-tests=error -j "$jobs"
      ;;
    tsan)
      cmake --preset tsan
      cmake --build --preset tsan -j "$jobs" --target base_test backend_cpu_test quant_test engine_test
      ctest --preset tsan --no-tests=error -j "$jobs" -L "$threaded"
      ;;
    hopper)
      if ! command -v nvcc >/dev/null; then
        echo "no nvcc on the PATH: the sm_90a kernels are not compiled here (CUDA >= 12.8 does it)"
        continue
      fi
      cmake --preset hopper
      cmake --build --preset hopper -j "$jobs"
      ctest --preset hopper --no-tests=error -j "$jobs" -L "$hopper"
      ;;
    *) echo "test.sh: no part '$part': check, hopper, asan, tsan, cpu" >&2; exit 2 ;;
  esac
done
echo "test.sh: all of '$parts' passed"
