#!/usr/bin/env bash
# The reference's comparison of baseline and augmented training on phantoms, at lite width, 3 seeds. Some 40 minutes on
# 2 cores; goes on where it stopped. Each seed leaves comparison.json, comparison.csv and comparison.png, and the table
# over seeds is printed.
#
#   bash recipes/coronary_ablation.sh                                                              # 2 cores
#   uv run coronary train --preset reference-ablation --data ImageCAS --device cuda                # full width, a GPU
set -euo pipefail
cd "$(dirname "$0")/.."
out=runs/coronary/ablation seeds=${SEEDS:-1 2 3}

bash recipes/coronary_phantoms.sh
for seed in $seeds; do
  run=$out-$seed
  [ -e "$run/comparison.png" ] && continue
  if [ -e "$run/ablation.json" ]; then uv run coronary train --resume "$run"
  else
    uv run coronary train --preset reference-ablation --data runs/coronary/phantoms --out "$run" --seed "$seed" \
      --cache runs/coronary/cache --features 8 16 32 64 96 8 --patch 48 48 48 --precision bf16-mixed --validation-cases 2
  fi
done
uv run python recipes/compare_scores.py $out-*/baseline --against $out-*/augmented --out $out.json
