#!/usr/bin/env bash
# Save the cat as a poor JPEG and take the blocks and rings out again: once by what the file says of its picture, once
# by the decoded pixels alone. Further options are passed on: examples/dejpeg.sh --iters 300
set -euo pipefail
cd "$(dirname "$0")"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

python - "$scratch" <<'PYTHON'
import sys

from PIL import Image

Image.open("cat_clean.png").save(f"{sys.argv[1]}/cat.jpg", quality=10)
PYTHON

out="${TMPDIR:-/tmp}"
dip dejpeg "$scratch/cat.jpg" --reference cat_clean.png --preset fast -o "$out/cat.dejpegged.png" "$@"
dip dejpeg "$scratch/cat.jpg" --reference cat_clean.png --preset fast --blind -o "$out/cat.blind.png" "$@"
