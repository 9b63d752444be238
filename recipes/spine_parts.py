"""A run's films with C7 labelled too, and parts cut out of them, as a data set of its own.

    uv run python recipes/spine_parts.py --model MODEL.onnx --run runs/spine/lite-640 --out runs/spine/parts

AASCE's films show T1 to L5, tightly framed in its training part: a network can tell a level by its place on the film,
and is then off by one on films with wider margins. On a part of a film place says nothing. And C7, which shows on most
films and looks like T1, is background while it bears no label: a network that is to tell T1 from what lies above it
must see both named. A candidate of the run's own network that no label covers is taken for C7 where it lies above T1,
about as far as T2 lies below, and so for T1 or L5 where labels end before them. Films held out are cut as well, but get
no labels.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import tyro

from shared.io.radiograph import read_radiograph
from shared.io.tables import write_csv
from spine.cases import MANIFEST, Film, load_films, read_labels
from spine.config import LEVELS
from spine.decode import Candidates
from spine.labels import describe, write_film
from spine.model_file import OperatingPoint
from spine.predict import Predictor
from spine.preprocess import as_bytes
from spine.scoring import pair

LEAST = OperatingPoint(confidence=0.1, iou=0.4)
NEAREST, FARTHEST, ASIDE = 0.6, 1.4, 0.5  # of C7 from T1 in T1's distance from T2, and so at the lower end
FEWEST = 5  # levels on a part

Outlines = list[tuple[str, np.ndarray]]  # corners in pixels


def main(model: Path, run: Path, out: Path, *, data: Path | None = None, parts: int = 2, seed: int = 11) -> None:
    """Write the data set: each film once, and so many ``--parts`` of it; ``--data`` has other labels of the films."""
    shutil.rmtree(out, ignore_errors=True)
    predictor, films = Predictor(model, "cpu"), load_films(run / "films.json")
    rows: list[dict[str, object]] = []
    found = 0
    for name, part in (("training", "train"), ("validation", "val")):
        for number, film in enumerate(films[name]):
            if data is not None:
                film = replace(film, label=data / "train" / "labels" / f"{film.image.stem}.txt")
                if not film.label.exists():
                    continue
            picture, outlines = read(film)
            if part == "train":
                labelled = len(outlines)
                outlines = completed(predictor, picture, outlines)
                found += len(outlines) - labelled
            made = {film.image.stem: (picture, outlines)}
            rng = np.random.default_rng([seed, part == "val", number])
            made |= {f"{film.image.stem}-part{k}": cut(picture, outlines, rng) for k in range(parts)}
            rows += [write_film(out, part, stem, *one) | {"group": film.group} for stem, one in made.items()]
    write_csv(rows, out / MANIFEST)
    (out / "data.yaml").write_text(describe({"training": rows, "validation": rows}), encoding="utf-8")
    print(f"{len(rows)} films; {found} labels added on {len(films['training'])} to train on")


def read(film: Film) -> tuple[np.ndarray, Outlines]:
    """Return a film as 8 bit grey and its labels, from the head down."""
    picture = as_bytes(read_radiograph(film.image).array)
    classes, polygons = read_labels(film.label)
    sides = np.array(picture.shape[::-1], np.float64)
    return picture, [(LEVELS[classes[k]], polygons[k] * sides) for k in np.argsort(classes)]


def completed(predictor: Predictor, picture: np.ndarray, outlines: Outlines) -> Outlines:
    """Return a film's labels and, up to C7 and down to L5, those of what its network finds beyond them."""
    candidates = predictor.candidates(picture.astype(np.float32) / 255, LEAST)
    for end, step, last in ((0, -1, LEVELS.index("C7")), (-1, 1, LEVELS.index("L5"))):
        while (level := LEVELS.index(outlines[end][0]) + step) * step <= last * step:
            found = beyond(candidates, outlines, outlines[end][1], outlines[end - step][1])
            if found is None:
                break
            outlines = [(LEVELS[level], found), *outlines] if step < 0 else [*outlines, (LEVELS[level], found)]
    return outlines


def beyond(candidates: Candidates, outlines: Outlines, last: np.ndarray, before: np.ndarray) -> np.ndarray | None:
    """Return the corners of what follows the ``last`` of the labels; None where nothing is sure enough."""
    boxes = np.array([[*corners.min(axis=0), *corners.max(axis=0)] for _, corners in outlines], np.float32)
    free = np.setdiff1d(np.arange(len(candidates)), pair(candidates.boxes_px, boxes))
    end = last.mean(axis=0)
    onward = end - before.mean(axis=0)
    onward = onward / np.linalg.norm(onward) ** 2
    steps = candidates.centres_px[free] - end
    far, aside = steps @ onward, np.abs(steps @ np.array([-onward[1], onward[0]]))
    fits = free[(far > NEAREST) & (far < FARTHEST) & (aside < ASIDE)]
    if not len(fits):
        return None
    best = fits[np.argmax(candidates.confidences[fits])]
    # Labels are quadrangles, so this one is.
    return np.asarray(cv2.boxPoints(cv2.minAreaRect(candidates.outline(int(best)).astype(np.float32))))


def cut(picture: np.ndarray, outlines: Outlines, rng: np.random.Generator) -> tuple[np.ndarray, Outlines]:
    """Return a part of a film with FEWEST levels or more: cut above, below or on both sides, between two vertebrae."""
    middles = [corners[:, 1].mean() for _, corners in outlines]
    above, below = [(True, False), (False, True), (True, True)][rng.integers(3)]
    count = len(outlines)
    first = int(rng.integers(1, count - FEWEST)) if above else 0
    last = int(rng.integers(first + FEWEST - 1, count - 1)) if below else count - 1
    top = round((middles[first - 1] + middles[first]) / 2) if first else 0
    bottom = round((middles[last] + middles[last + 1]) / 2) if last < count - 1 else len(picture)
    inside = [(level, corners - [0, top]) for level, corners in outlines[first : last + 1]]  # cut off when written
    return picture[top:bottom], inside


if __name__ == "__main__":
    tyro.cli(main)
