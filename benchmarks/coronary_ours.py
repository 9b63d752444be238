"""Our way from scan to mask, without torch in the process; one JSON line.

python benchmarks/coronary_ours.py SCAN MODEL OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from coronary.batch import write_mesh, write_preview
from coronary.predict import Predictor, as_volume
from coronary.tree import measure
from shared.io.writers import write_mask
from shared.report import Stopwatch, peak_memory_bytes


def main() -> None:
    scan, model, out = (Path(word) for word in sys.argv[1:])
    predictor, watch = Predictor(model, "cpu"), Stopwatch()
    with watch.stage("read"):
        volume = as_volume(scan)
    segmentation = predictor(volume, stage=watch.stage)
    with watch.stage("write mask"):
        write_mask(segmentation, out)
    extras = Stopwatch()
    peak = peak_memory_bytes()
    with extras.stage("tree"):
        tree = measure(segmentation)
    if segmentation.labels.any():
        with extras.stage("mesh"):
            write_mesh(segmentation, out.with_name(out.name + ".stl"))
    with extras.stage("preview"):
        write_preview(volume, segmentation, tree, out.with_name(out.name + ".png"))
    print(json.dumps({"seconds": watch.seconds, "extras": extras.seconds, "peak_memory_bytes": peak}))


if __name__ == "__main__":
    main()
