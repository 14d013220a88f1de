#!/usr/bin/env bash
# Save the cat as a poor JPEG and take the blocks and rings out again: once by what the file says of its picture, once
# by the decoded pixels alone, as published. Further options are passed on: examples/dejpeg.sh --iters 300
set -euo pipefail
cd "$(dirname "$0")"
out="${TMPDIR:-/tmp}"

python -c 'import sys; from PIL import Image; Image.open("cat_clean.png").save(sys.argv[1], quality=10)' "$out/cat.jpg"
dip dejpeg "$out/cat.jpg" -o "$out/cat_by_its_file.png" --preset fast --reference cat_clean.png "$@"
dip dejpeg "$out/cat.jpg" -o "$out/cat_blind.png" --preset fast --blind --reference cat_clean.png "$@"
