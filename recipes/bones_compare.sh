#!/usr/bin/env bash
# What the shipped detector is compared with, each trained for as long as its first stage on the same pictures: the same
# network from the reference's recipe, and YOLO11n. Goes on where it stopped; then scores them on the test part.
#
#   bash recipes/bones_compare.sh DATA TRUNK            # after recipes/bones_detector.sh
#   NETWORKS=yolo11n MINUTES=60 bash recipes/bones_compare.sh DATA TRUNK
#
# The reference began with torchvision's COCO weights and YOLO has some too; where they can be fetched, give
# PRETRAINED=coco. Without, SSD begins with the trunk, as the shipped one does, and YOLO untrained.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:?folder of the data set} trunk=${2:?safetensors file of a VGG16 trunk}
run=runs/bones split=runs/bones/split.json

spent() { # RUN -> minutes of training, all at the run's quickest rate: others may use the machine too
  uv run python - "$1" <<'PYTHON'
import json, sys
from pathlib import Path
run = Path(sys.argv[1])
file = run / "metrics.jsonl"
epochs = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
batch = json.loads((run / "config.json").read_text())["training"]["batch"] if epochs else 0
print(round(sum(e["step"] for e in epochs[-1:]) * batch / max([e["samples_per_s"] for e in epochs], default=1) / 60, 1))
PYTHON
}
minutes=${MINUTES:-$(spent $run/lite)}

train() { # RUN PRESET FLAGS...
  local left
  left=$(uv run python -c "print(max($minutes - $(spent "$1"), 0))")
  [ "$left" = 0 ] && return 0
  if [ -e "$1/last.ckpt" ]; then uv run bones train --resume "$1" --no-finish --time-limit-minutes "$left"
  else
    uv run bones train --preset "$2" --data "$data" --split-file $split --cache $run/cache --out "$1" --no-finish \
      --time-limit-minutes "$left" "${@:3}"
  fi
}
if [ "${PRETRAINED:-none}" = coco ]; then ssd=(--pretrained coco) yolo=(--pretrained coco)
else ssd=(--pretrained none --init "$trunk") yolo=(--pretrained none); fi

for name in ${NETWORKS:-reference yolo11n}; do
  if [ $name = reference ]; then
    # The reference's own recipe but for the weights it begins with; bfloat16, for else it would see half as many
    # pictures. In an hour it gets through two of its fifteen epochs.
    train $run/reference reference --precision bf16-mixed "${ssd[@]}"
  else
    # As many epochs as fit, since the learning rate falls to zero with the last.
    train $run/yolo11n best --kind yolo --epochs "${YOLO_EPOCHS:-80}" --batch 16 \
      --learning-rate 1e-3 --ema 0.998 --warmup-steps 100 --workers 1 "${yolo[@]}"
  fi
  uv run bones export $run/$name --out $run/$name/model.onnx --provenance "recipes/bones_compare.sh"
  uv run bones evaluate --model $run/$name/model.onnx --data "$data" --split-file $split --split test \
    --out $run/$name/scores
done
