#!/usr/bin/env bash
# Reconstruct the cat from a layer of AlexNet. Random weights need no download, and preserve a lot. With the weights
# published by PyTorch: examples/invert.sh --weights download --layer fc6 --size 224
set -euo pipefail
cd "$(dirname "$0")"

dip invert cat_clean.png -o "${TMPDIR:-/tmp}/cat_inverted.png" --layer conv3 --weights random --size 96 "$@"
head -3 "${TMPDIR:-/tmp}/cat_inverted.dip/log.csv"
