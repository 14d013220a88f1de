#!/usr/bin/env bash
# Restore the noisy cat. The log has PSNRs against the clean cat, which cannot influence the result; snapshots are written.
# Further options are passed on: examples/denoise.sh --iters 300
set -euo pipefail
cd "$(dirname "$0")"

dip denoise cat_noisy.png -o "${TMPDIR:-/tmp}/cat.png" --reference cat_clean.png --snapshot-at 1,10,100,500 "$@"
head -3 "${TMPDIR:-/tmp}/cat.dip/log.csv"
