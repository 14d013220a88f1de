#!/usr/bin/env bash
# Save the cat as a low-quality JPEG and remove the artefacts: once using the coefficients in the file, once using only
# the decoded pixels. Further options are passed on: examples/dejpeg.sh --iters 300
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
