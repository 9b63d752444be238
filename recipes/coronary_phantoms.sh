#!/usr/bin/env bash
# The phantoms of the recipes, made once: 76 to train on (seed 2000) and 20 held out (seed 9300).
set -euo pipefail
cd "$(dirname "$0")/.."
data=runs/coronary/phantoms

phantoms() { # FIRST_ID COUNT "SHAPE" "SPACING"
  # shellcheck disable=SC2086  # shape and spacing are three words each
  [ -e "$data/$(($1 + $2 - 1)).img.nii.gz" ] || uv run coronary phantom --out $data --seed 2000 \
    --first-id "$1" --count "$2" --shape $3 --spacing-mm $4
}
phantoms 1 40 "200 200 180" "0.6 0.6 0.6"
phantoms 101 24 "256 256 200" "0.45 0.45 0.5"
phantoms 201 12 "256 256 150" "0.7 0.7 0.75"

heldout=runs/coronary/heldout
[ -e $heldout/20.img.nii.gz ] || uv run coronary phantom --out $heldout --seed 9300 --count 20 \
  --shape 320 320 240 --spacing-mm 0.4 0.4 0.5
