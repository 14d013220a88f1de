#!/usr/bin/env bash
# Shrink the cat to a quarter, make it large again, and see how near it comes to the cat it was, beside plain bicubic
# enlargement. With a small picture of your own leave --simulate out and name the kernel that shrank it.
# Further options are passed on: examples/superres.sh --preset balanced --iters 1200
set -euo pipefail
cd "$(dirname "$0")"

dip superres cat_clean.png --simulate --scale 4 --preset fast --iters 200 -o "${TMPDIR:-/tmp}/cat_large.png" "$@"
ls "${TMPDIR:-/tmp}/cat_large.dip"
