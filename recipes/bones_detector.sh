#!/usr/bin/env bash
# The shipped fracture detector: split, training, export, scores. Some three hours on 2 idle cores with AVX512-BF16; goes
# on where it stopped.
#
#   bash recipes/bones_detector.sh DATA TRUNK
#
# DATA is Roboflow-100's bone-fracture as YOLO (its four classes become `fracture`), TRUNK a VGG16 trunk as safetensors
# with torchvision's names (features.N.weight). Training, weights and thresholds see no picture of the test part, which
# is the published validation part with all that is a copy of it.
#
# First windows of 320 px out of pictures of 640 px, then whole pictures of 640 px at a lower rate, which teaches what
# windows do not show: that most of a picture is no fracture.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:?folder of the data set} trunk=${2:?safetensors file of a VGG16 trunk}
run=runs/bones split=runs/bones/split.json

[ -e $split ] || PYTHONPATH=$PWD uv run python recipes/bones_split.py "$data" --out $split
train() { # RUN PRESET FLAGS...
  if [ -e "$1/last.ckpt" ]; then uv run bones train --resume "$1" --no-finish
  else
    uv run bones train --preset "$2" --data "$data" --split-file $split --cache $run/cache --out "$1" --no-finish "${@:3}"
  fi
}
train $run/lite lite --init "$trunk" --epochs 14
train $run/lite-whole lite --init $run/lite/last.ckpt --window-px None --small-object-crops 0.25 \
  --epochs 4 --steps-per-epoch 67 --learning-rate 1e-4

uv run bones export $run/lite-whole --out $run/lite-whole/bones-fracture-int8.onnx --int8 \
  --provenance "Roboflow-100 bone-fracture-7fylg v2 (CC BY 4.0), VGG16 trunk (CC BY 4.0): recipes/bones_detector.sh"
for model in bones-fracture bones-fracture-int8; do
  uv run bones evaluate --model $run/lite-whole/$model.onnx --data "$data" --split-file $split --split test \
    --out $run/lite-whole/scores-$model
done
