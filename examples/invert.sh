#!/usr/bin/env bash
# What can be told of the cat from a layer of AlexNet? With random weights nothing has to be fetched, and the answer is:
# much. With those that PyTorch publishes: examples/invert.sh --weights download --layer fc6 --size 224
set -euo pipefail
cd "$(dirname "$0")"

dip invert cat_clean.png -o "${TMPDIR:-/tmp}/cat_inverted.png" --layer conv3 --weights random --size 96 "$@"
head -3 "${TMPDIR:-/tmp}/cat_inverted.dip/log.csv"
