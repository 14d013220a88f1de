#!/usr/bin/env bash
# Shrink the cat to a quarter, enlarge it again, and compare the result with the original, next to bicubic enlargement.
# For a small image of your own, leave out --simulate and name the kernel that shrank it with --kernel.
# Further options are passed on: examples/superres.sh --preset balanced --iters 1200
set -euo pipefail
cd "$(dirname "$0")"

dip superres cat_clean.png --simulate --scale 4 --preset fast --iters 200 -o "${TMPDIR:-/tmp}/cat_large.png" "$@"
ls "${TMPDIR:-/tmp}/cat_large.dip"
