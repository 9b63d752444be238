"""Labelled films: what a data set on disk holds. Needs no torch."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from shared.errors import InputError, SetupError
from shared.io.tables import write_json
from spine.config import LEVELS

MANIFEST = "manifest.csv"
PARTS = {"training": "train", "validation": "val", "test": "test"}
"""A split's parts, and what YOLO calls them."""


@dataclass(frozen=True, slots=True)
class Film:
    """One film of a data set: picture, labels, the part of the split it is in, and whom it may not be parted from."""

    image: Path
    label: Path
    part: str
    group: str


def read_labels(path: Path) -> tuple[Int64[np.ndarray, " n"], list[Float64[np.ndarray, "corner 2"]]]:
    """Read a YOLO-seg label file: class numbers, and polygons as shares of width and height.

    Raises:
        InputError: it cannot be read, or a line is no class and polygon of this data set.
    """
    classes, polygons = [], []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(path, "cannot be read as a label file", "check the file") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            name, *values = line.split()
            level, corners = int(name), np.array(values, np.float64).reshape(-1, 2)
        except ValueError as error:
            raise InputError(path, f"line {number} is no class and polygon", "merge the data set again") from error
        if not 0 <= level < len(LEVELS) or len(corners) < 3 or not np.isfinite(corners).all():
            raise InputError(path, f"line {number} is no polygon of a known class", "merge the data set again")
        classes.append(level)
        polygons.append(corners)
    return np.array(classes, np.int64), polygons


def find_films(data: Path) -> list[Film]:
    """Return the films of a data set that ``spine merge`` or ``spine phantom`` wrote, in the order of their names.

    Raises:
        SetupError: there is no such data set, or it is of another form.
    """
    try:
        with (data / MANIFEST).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [Film(data / row["image"], data / row["label"], row["part"], row["group"]) for row in rows]
    except OSError as error:
        raise SetupError(
            f"{data}: holds no {MANIFEST}; make a data set of your exports with: spine merge {data} --out DIR"
        ) from error
    except KeyError as error:
        raise SetupError(f"{data / MANIFEST}: has no column {error}; merge the data set again") from error


def save_films(path: Path, parts: Mapping[str, Sequence[Film]]) -> None:
    """Write which films a run trains on and which it looks at; resuming and exporting read it, from any folder."""
    rows = {
        part: [[str(film.image.absolute()), str(film.label.absolute()), film.part, film.group] for film in films]
        for part, films in parts.items()
    }
    write_json(rows, path)


def load_films(path: Path) -> dict[str, list[Film]]:
    """Read what ``save_films`` wrote.

    Raises:
        SetupError: the file is missing or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            part: [Film(Path(image), Path(label), side, group) for image, label, side, group in films]
            for part, films in content.items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SetupError(f"{path}: the run's list of films cannot be read ({error}); train again") from error
