#!/usr/bin/env bash
# From a fresh clone to rendered frames and a video. Called by `make demo`.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh
echo "Building pictor (the first time: six to eight minutes on two processors)"
${CARGO:-cargo} build --locked
${MAKE:-make} --no-print-directory scenes
pictor=${CARGO_TARGET_DIR:-target}/debug/pictor
data=${DEMO_DATA:-.pictor} out=${DEMO_OUT:-out/turntable}
echo
# Replaces the results of an earlier demo.
echo "\$ $pictor run workflows/turntable.yaml --data $data --out $out --overwrite"
"$pictor" run workflows/turntable.yaml --data "$data" --out "$out" --overwrite
echo
echo "frames    $out/frames/    24 linear EXR pictures"
echo "previews  $out/previews/  24 PNG pictures"
echo "video     $out/turntable.mp4"
echo
echo "Next, four times as large (fetches 100 MB of networks once):"
echo "  $pictor models pull && $pictor run workflows/upscale-image.yaml --data $data"
