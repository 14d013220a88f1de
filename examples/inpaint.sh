#!/usr/bin/env bash
# Fill a hole in the cat, and half of its pixels removed at random; compare the filled pixels with the clean image.
# Further options are passed on: examples/inpaint.sh --iters 100
set -euo pipefail
cd "$(dirname "$0")"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

python - "$scratch" <<'PYTHON'
import sys

import imageio.v3 as iio
import numpy as np

hole = np.zeros((256, 256), np.uint8)
hole[150:180, 100:150] = 255
iio.imwrite(f"{sys.argv[1]}/hole.png", hole)
iio.imwrite(f"{sys.argv[1]}/half.png", (np.random.default_rng(0).random((256, 256)) < 0.5).astype(np.uint8) * 255)
PYTHON

for mask in hole half; do
    dip inpaint cat_clean.png --mask "$scratch/$mask.png" --reference cat_clean.png -o "${TMPDIR:-/tmp}/cat.$mask.png" "$@"
done
