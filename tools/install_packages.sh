#!/bin/sh
# Installs the Debian packages of tools/packages.txt for the purposes named as arguments
# (build, run, test), saying first which are missing. Needs root or sudo only if some are.
set -eu
here=$(dirname "$0")
missing=
for purpose in "$@"; do
  for package in $(awk -v p="$purpose" '$1 == p {print $2}' "$here/packages.txt"); do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' ||
      missing="$missing $package"
  done
done
[ -n "$missing" ] || exit 0
echo "FireQ needs these Debian packages and installs them now:$missing"
if ! command -v apt-get >/dev/null; then
  echo "error: no apt-get here. Install the equivalents of:$missing" >&2
  exit 1
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "error: not root and no sudo. As root run: apt-get install$missing" >&2
    exit 1
  fi
  as_root=sudo
fi
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -q
# shellcheck disable=SC2086  # a list of words
$as_root apt-get install -y -q --no-install-recommends $missing
