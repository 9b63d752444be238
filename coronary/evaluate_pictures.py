"""Pictures of an evaluation: how the scores are distributed, and what is hit, missed and extra in one case."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from coronary.cases import Case
from coronary.evaluate import Scores
from shared.draw import preview
from shared.figures import Strip, draw_strips
from shared.io.atomic import whole
from shared.io.volume import read_volume
from shared.types import Segmentation

COLOURS = {"hit": (120, 200, 120), "missed": (255, 96, 80), "extra": (255, 200, 60)}
TITLES = {
    "dice": "Dice",
    "cl_dice": "clDice",
    "hd95_mm": "HD95, mm",
    "surface_dice_1mm": "surface Dice at 1 mm",
    "betti0_error": "Betti-0 error",
    "recall_radius_below_0_8mm": "recall, radius < 0.8 mm",
    "recall_radius_0_8_to_1_5mm": "recall, radius 0.8-1.5 mm",
    "recall_radius_above_1_5mm": "recall, radius > 1.5 mm",
}
UNBOUNDED = ("hd95_mm", "betti0_error")


def draw_scores(scores: Scores, path: Path) -> None:
    """Draw every metric's values over the cases, with box, mean and the worst case's name."""
    cases = [str(row["case"]) for row in scores.rows]
    strips = [
        Strip(title, {"": [float(row[metric]) for row in scores.rows]}, cases, share=metric not in UNBOUNDED)
        for metric, title in TITLES.items()
    ]
    draw_strips(strips, path, f"{len(cases)} case{'s' if len(cases) > 1 else ''}")


def draw_case(case: Case, packed: np.ndarray, path: Path, title: str) -> None:
    """Draw hits, misses and extras of one case; ``packed`` is the found mask by ``np.packbits``."""
    scan, label = read_volume(case.image), read_volume(case.label)
    found = np.unpackbits(packed, count=label.array.size).reshape(label.array.shape).astype(bool)
    wanted = label.array > 0
    labels = np.where(found & wanted, 1, np.where(wanted, 2, np.where(found, 3, 0))).astype(np.uint8)
    shown = Segmentation(labels, scan.affine, {0: "background", 1: "hit", 2: "missed", 3: "extra"}, scan.source)
    with whole(path) as aside:
        preview(scan, shown, title=title, colours=COLOURS).save(aside)
