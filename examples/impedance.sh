#!/usr/bin/env bash
# Chart how fast the network fits the cat, the cat with noise, its shuffled pixels, and noise; print the first numbers.
# Further options are passed on: examples/impedance.sh --iters 3 --size 32
set -euo pipefail
cd "$(dirname "$0")"

dip impedance cat_clean.png -o "${TMPDIR:-/tmp}/impedance.png" --preset fast "$@"
head -3 "${TMPDIR:-/tmp}/impedance.csv"
