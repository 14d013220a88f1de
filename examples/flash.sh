#!/usr/bin/env bash
# Make a dark noisy image of the cat and restore it with the bright one as the guide.
# Further options are passed on: examples/flash.sh --iters 100
set -euo pipefail
cd "$(dirname "$0")"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

python - "$scratch" <<'PYTHON'
import sys

import imageio.v3 as iio
import numpy as np

# The lamplight is warm and comes from the right; the flash is white and frontal.
lit = iio.imread("cat_clean.png") / 255
lamp = np.linspace(0.1, 0.4, 256)[None, :, None] * np.array([1, 0.7, 0.4])
dark = lit * lamp
noisy = dark + np.random.default_rng(0).normal(0, 0.04, dark.shape)
for name, image in (("dark", dark), ("noisy", noisy)):
    iio.imwrite(f"{sys.argv[1]}/{name}.png", np.rint(image.clip(0, 1) * 255).astype(np.uint8))
PYTHON

dip flash "$scratch/noisy.png" --guide cat_clean.png --reference "$scratch/dark.png" -o "${TMPDIR:-/tmp}/cat.relit.png" "$@"
