#!/bin/sh
# Makes the demo's two texts from the FAQ of the Debian project (package debian-faq): odd chapters
# for calibration, even ones for scoring, so that no text is in both. Downloads the package with
# apt-get (no root needed), unwraps its lines and leaves nothing but DIR/calib.txt, DIR/score.txt.
#
# Headings hold no-break spaces; the table of contents, before the first chapter, is dropped.
#
# usage: tools/demo_text.sh DIR
set -eu
out=${1:?usage: tools/demo_text.sh DIR}
[ -s "$out/calib.txt" ] && [ -s "$out/score.txt" ] && exit 0
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if ! (cd "$work" && apt-get -q download debian-faq >apt.log 2>&1); then
  cat "$work/apt.log" >&2
  echo "error: 'apt-get download debian-faq' failed: is the network there? ('apt-get update' first)" >&2
  exit 1
fi
dpkg-deb -x "$work"/debian-faq_*.deb "$work/faq"
gzip -dc "$work/faq/usr/share/doc/debian/FAQ/debian-faq.en.txt.gz" |
  sed 's/\xc2\xa0/ /g' | awk -v out="$work" '
  /^Chapter [0-9]+\./ {
    file = int($2) % 2 ? out "/calib.txt" : out "/score.txt"
  }
  file == "" { next }
  /^[[:space:]]*$/ { if (paragraph != "") print paragraph "\n" > file; paragraph = ""; next }
  { sub(/^[[:space:]]+/, ""); paragraph = paragraph == "" ? $0 : paragraph " " $0 }
  END { if (paragraph != "") print paragraph > file }'
mv "$work/calib.txt" "$work/score.txt" "$out/"
