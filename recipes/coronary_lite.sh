#!/usr/bin/env bash
# The shipped coronary model: phantoms, training, export, scores. Some two hours on 2 cores; goes on where it stopped.
#
#   bash recipes/coronary_lite.sh
#
# Training cases 1.. of seed 2000, held-out cases of seed 9200: no case is in both.
set -euo pipefail
cd "$(dirname "$0")/.."
run=runs/coronary/lite data=runs/coronary/phantoms heldout=runs/coronary/heldout

phantoms() { # FIRST_ID COUNT "SHAPE" "SPACING"
  # shellcheck disable=SC2086  # shape and spacing are three words each
  [ -e "$data/$(($1 + $2 - 1)).img.nii.gz" ] || uv run coronary phantom --out $data --seed 2000 \
    --first-id "$1" --count "$2" --shape $3 --spacing-mm $4
}
phantoms 1 40 "200 200 180" "0.6 0.6 0.6"
phantoms 101 24 "256 256 200" "0.45 0.45 0.5"
phantoms 201 12 "256 256 150" "0.7 0.7 0.75"
[ -e $heldout/20.img.nii.gz ] || uv run coronary phantom --out $heldout --seed 9200 --count 20 \
  --shape 320 320 240 --spacing-mm 0.4 0.4 0.5

if [ -e $run/last.ckpt ]; then uv run coronary train --resume $run
else uv run coronary train --preset lite --data $data --out $run; fi
uv run coronary export $run --out $run/coronary-int8.onnx --int8 --provenance "phantoms only: recipes/coronary_lite.sh"
for model in coronary coronary-int8; do
  uv run coronary evaluate --model $run/$model.onnx --data $heldout --out $run/scores-$model
done
