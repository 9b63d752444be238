#!/usr/bin/env bash
# `best` against `reference` at lite width: the same number of optimiser steps, 3 seeds each, one phantom cohort, scored
# on held-out phantoms. Some 50 minutes on 2 cores; goes on where it stopped. Then prints the table.
#
#   bash recipes/coronary_compare.sh
#   STEPS=3000 SEEDS="1 2 3 4 5" bash recipes/coronary_compare.sh
#
# Either preset keeps its own batch, so `best` sees half the patches. Training cases are those of
# recipes/coronary_lite.sh (seed 2000), held-out ones have seed 9300: no case is in both.
set -euo pipefail
cd "$(dirname "$0")/.."
steps=${STEPS:-600} seeds=${SEEDS:-1 2 3}
data=runs/coronary/phantoms heldout=runs/coronary/heldout out=runs/coronary/compare-$steps

bash recipes/coronary_phantoms.sh

# Width of `lite`, smaller patches; two looks at two validation cases; a warm-up and a moving average that fit the length.
lite=(--features 8 16 32 64 96 8 --patch 48 48 48 --epochs 2 --steps-per-epoch $((steps / 2)) --validation-cases 2)
train() { # PRESET SEED FLAGS...
  local preset=$1 seed=$2 run=$out/$1-$2
  [ -e "$run/scores/scores.json" ] && return
  if [ -e "$run/last.ckpt" ]; then uv run coronary train --resume "$run" --no-finish
  else uv run coronary train --preset "$preset" --no-finish --data $data --out "$run" --cache runs/coronary/cache --seed "$seed" "${lite[@]}" "${@:3}"; fi
  [ -e "$run/model.onnx" ] || uv run coronary export "$run" --out "$run/model.onnx" --provenance "phantoms only: recipes/coronary_compare.sh"
  uv run coronary evaluate --model "$run/model.onnx" --data $heldout --out "$run/scores"
}
for seed in $seeds; do
  train reference "$seed"
  train best "$seed" --batch 2 --learning-rate 3e-3 --warmup-steps $((steps / 10)) --ema 0.98
done
uv run python recipes/compare_scores.py $out/reference-* --against $out/best-* --out $out/table.json
