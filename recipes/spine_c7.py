"""The films of a run with C7 labelled too, as the run's own network outlines it: AASCE labels T1 to L5 alone.

    uv run python recipes/spine_c7.py --model MODEL.onnx --run runs/spine/lite-640 --out runs/spine/c7

C7 shows on most of these films, looks like T1, and counts as background while it bears no label: a network that is to
tell T1 from what lies above it must see both named. A candidate that no label covers is taken for C7 where it lies
above T1, about as far as T2 lies below. Only training films are relabelled; those held out stay as they are.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import tyro

from shared.io.radiograph import read_radiograph
from shared.io.tables import write_csv
from spine.cases import MANIFEST, Film, load_films, read_labels
from spine.config import LEVELS
from spine.labels import describe, label_lines
from spine.predict import OperatingPoint, Predictor
from spine.scoring import pair

LEAST = OperatingPoint(confidence=0.1, iou=0.4)
NEAREST, FARTHEST = 0.6, 1.4  # distances from T1 in that of T2
C7, T1, T2 = map(LEVELS.index, ("C7", "T1", "T2"))


def main(model: Path, run: Path, out: Path) -> None:
    """Write the data set; pictures stay where they are."""
    shutil.rmtree(out, ignore_errors=True)
    predictor, films, found = Predictor(model, "cpu"), load_films(run / "films.json"), 0
    rows: list[dict[str, object]] = []
    for film in films["training"]:
        label = Path("train", "labels", film.label.name)
        classes, polygons = read_labels(film.label)
        outlines = [(LEVELS[k], polygon) for k, polygon in zip(classes, polygons, strict=True)]
        above = seventh_cervical(predictor, film)
        found += above is not None
        (out / label).parent.mkdir(parents=True, exist_ok=True)
        more = [] if above is None else [("C7", above)]
        (out / label).write_text(label_lines([*more, *outlines]), encoding="utf-8")
        rows.append({"image": film.image.absolute(), "label": label, "part": "train", "group": film.group})
    for film in films["validation"]:
        rows.append(
            {"image": film.image.absolute(), "label": film.label.absolute(), "part": "val", "group": film.group}
        )
    write_csv(rows, out / MANIFEST)
    (out / "data.yaml").write_text(describe({"training": rows, "validation": rows}), encoding="utf-8")
    print(f"C7 on {found} of {len(films['training'])} films")


def seventh_cervical(predictor: Predictor, film: Film) -> np.ndarray | None:
    """Return the outline of what is C7 on a film, in shares of its sides; None where nothing is sure enough."""
    classes, polygons = read_labels(film.label)
    if not {T1, T2} <= set(classes.tolist()):
        return None
    picture = read_radiograph(film.image)
    sides = np.array([picture.width_px, picture.height_px], np.float64)
    corners = [polygon * sides for polygon in polygons]
    boxes = np.array([[*c.min(axis=0), *c.max(axis=0)] for c in corners], np.float32)
    candidates = predictor.candidates(picture, LEAST)
    free = np.setdiff1d(np.arange(len(candidates)), pair(candidates.boxes_px, boxes))
    t1, t2 = (corners[classes.tolist().index(level)].mean(axis=0) for level in (T1, T2))
    steps = candidates.centres_px[free] - t1
    # In units of the step from T2 to T1: how far up, and how far aside.
    up = (t1 - t2) / np.linalg.norm(t1 - t2) ** 2
    far, aside = steps @ up, np.abs(steps @ np.array([-up[1], up[0]]))
    fits = (far > NEAREST) & (far < FARTHEST) & (aside < 0.5)
    if not fits.any():
        return None
    best = free[fits][np.argmax(candidates.confidences[free[fits]])]
    corners_px = cv2.boxPoints(
        cv2.minAreaRect(candidates.polygons_px[best].astype(np.float32))
    )  # labels are quadrangles
    return np.clip(corners_px / sides, 0, 1)


if __name__ == "__main__":
    tyro.cli(main)
