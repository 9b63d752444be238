#!/usr/bin/env bash
# The table by which the reference chose its gate: SegNet, SegNet pretrained, and UNet, by IoU and time.
#
#   bash recipes/bones_gate_sweep.sh            # after recipes/bones_gate.sh, which makes the pictures
#
# The reference pretrained on lesions of the skin and had some 160 radiographs with masks. Here SegNet pretrains on drawn
# limbs, and all learn from views rendered from CT, whose masks are exact; a fifth of the views is held out.
set -euo pipefail
cd "$(dirname "$0")/.."
made=runs/bones/gate-data/training out=runs/bones/gate-sweep

for kind in limb view; do
  for part in images masks; do
    mkdir -p $out/$kind/$part
    find "$PWD/$made/$part" -name "$kind*" -exec ln -sft $out/$kind/$part {} +
  done
done
[ -e $out/limbs/best.ckpt ] ||
  uv run bones train --preset lite-gate --data $out/limb --epochs 5 --out $out/limbs --no-finish
uv run bones sweep --task gate --preset lite-gate --data $out/view --init $out/limbs --epochs "${EPOCHS:-15}" --out $out/runs
