#!/usr/bin/env bash
# The reference's comparison of baseline and augmented training on phantoms, at lite width. Some 25 minutes on 2 cores;
# goes on where it stopped. Leaves comparison.json, comparison.csv and comparison.png.
#
#   bash recipes/coronary_ablation.sh                                                              # 2 cores
#   uv run coronary train --preset reference-ablation --data ImageCAS --device cuda                # full width, a GPU
set -euo pipefail
cd "$(dirname "$0")/.."
run=runs/coronary/ablation

bash recipes/coronary_phantoms.sh
if [ -e $run/ablation.json ]; then uv run coronary train --resume $run
else
  uv run coronary train --preset reference-ablation --data runs/coronary/phantoms --out $run \
    --features 8 16 32 64 96 8 --patch 64 64 64 --validation-cases 2
fi
