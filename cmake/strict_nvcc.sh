#!/bin/sh
# Runs a CUDA compile and fails it where ptxas merely mentions that the code it made is not what was
# written: C7508 setmaxnreg ignored, C7510, C7511, C7513, C7514, C7520 wgmma serialised.
log=$(mktemp) || exit 1
"$@" >"$log" 2>&1
status=$?
cat "$log" >&2
if [ $status -eq 0 ] && grep -Eq 'C75(08|10|11|13|14|20)' "$log"; then
  echo "strict_nvcc: the remark above is an error in this project" >&2
  status=1
fi
rm -f "$log"
exit $status
