#!/usr/bin/env bash
# The shipped coronary model: phantoms, training, export, scores. Some half an hour of training on 2 cores; goes on where it stopped.
#
#   bash recipes/coronary_lite.sh
#
# Training cases 1.. of seed 2000, held-out cases of seed 9300: no case is in both.
set -euo pipefail
cd "$(dirname "$0")/.."
run=runs/coronary/lite data=runs/coronary/phantoms heldout=runs/coronary/heldout

bash recipes/coronary_phantoms.sh

if [ -e $run/last.ckpt ]; then uv run coronary train --resume $run --no-finish
else uv run coronary train --preset lite --no-finish --data $data --out $run --cache runs/coronary/cache; fi
uv run coronary export $run --out $run/coronary-int8.onnx --int8 --cache runs/coronary/cache --provenance "phantoms only: recipes/coronary_lite.sh"
for model in coronary coronary-int8; do
  uv run coronary evaluate --model $run/$model.onnx --data $heldout --out $run/scores-$model --record
done
