#!/usr/bin/env bash
# Restore the noisy cat, with the truth in the log (it cannot influence the result) and snapshots on the way.
# Further options are passed on: examples/denoise.sh --iters 300
set -euo pipefail
cd "$(dirname "$0")"

dip denoise cat_noisy.png -o "${TMPDIR:-/tmp}/cat.png" --reference cat_clean.png --snapshot-at 1,10,100,500 "$@"
head -3 "${TMPDIR:-/tmp}/cat.dip/log.csv"
