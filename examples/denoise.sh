#!/usr/bin/env bash
# Restore the noisy cat. The log has PSNRs against the clean cat, which cannot influence the result; a snapshot is written.
# Further options are passed on: examples/denoise.sh --iters 300
set -euo pipefail
cd "$(dirname "$0")"

dip denoise cat_noisy.png -o "${TMPDIR:-/tmp}/cat.png" --reference cat_clean.png --snapshot-at 1 "$@"
head -3 "${TMPDIR:-/tmp}/cat.dip/log.csv"
