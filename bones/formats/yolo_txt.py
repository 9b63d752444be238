"""YOLO as Roboflow and ultralytics lay it out: ``images`` and ``labels`` folders, a line for each box or polygon.

A label file has the picture's path with its last ``images`` turned into ``labels``; a picture without one, or with an
empty one, holds nothing. A line is ``class x y width height`` (the centre) or ``class x1 y1 x2 y2 x3 y3 ...``, in
shares of the picture. https://docs.ultralytics.com/datasets/detect/ and .../segment/
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bones.formats.case import (
    PARTS,
    Case,
    Found,
    Outline,
    Part,
    bone_in,
    fracture_in,
    part_of,
    pictures_below,
    read_text,
    sized,
    stacked,
    within,
)
from bones.formats.geometry import BadLabelError, box_around, checked_box, checked_polygon
from shared.errors import InputError
from shared.problems import Problem

IMAGES, LABELS = "images", "labels"
NO_LABELS = ("classes.txt", "notes.txt", "readme.txt", "readme.roboflow.txt", "readme.dataset.txt", "obj.names")


@dataclass
class Marks:
    """The boxes of one picture as they are read."""

    boxes: list[np.ndarray] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    outlines: list[Outline | None] = field(default_factory=list)

    def drawn(self) -> tuple[Outline | None, ...] | None:
        """Return the outlines, or None where no box has one."""
        return tuple(self.outlines) if any(outline is not None for outline in self.outlines) else None


def is_yolo(folder: Path) -> bool:
    """Say whether a folder is laid out so: pictures below an ``images``, and ``labels`` with text files."""
    return any(
        (folder / one).is_dir() and any((folder / one).rglob("*.txt"))
        for one in (LABELS, *(f"{part}/{LABELS}" for part in PARTS))
    )


def read_yolo(folder: Path) -> Found:
    """Read a YOLO data set; the split is that of its folders, or of ``data.yaml``."""
    problems: list[Problem] = []
    names, parts = _read_yaml(folder, problems)
    pictures = [path for path in pictures_below(folder) if IMAGES in path.relative_to(folder).parent.parts]
    sizes, unreadable = sized(pictures, folder)
    problems += unreadable
    cases, without = [], []
    for picture, (width, height) in sizes.items():
        label = label_path(picture, folder)
        marks = Marks()
        if label.is_file():
            marks = read_labels(label, folder, width, height, names, problems)
        else:
            without.append(picture)
        cases.append(
            Case(
                within(picture, folder), picture, width, height, stacked(marks.boxes), tuple(marks.labels),
                marks.drawn(), bone=bone_in(marks.labels), fractured=fracture_in(marks.labels, names or marks.labels),
                part=_part_of(picture, folder, parts),
            )
        )  # fmt: skip
    problems += [
        Problem(within(path, folder), "has no label file, so nothing is on it", "add an empty one if so", note=True)
        for path in without
    ]
    expected = {label_path(picture, folder) for picture in pictures}
    problems += [
        Problem(within(path, folder), "labels a picture that is not there", "add the picture or take the file out")
        for path in sorted(folder.rglob("*.txt"))
        if LABELS in path.relative_to(folder).parent.parts and path not in expected
        and path.name.lower() not in NO_LABELS
    ]  # fmt: skip
    return Found("YOLO", tuple(cases), tuple(problems))


def label_path(picture: Path, folder: Path) -> Path:
    """Return where the labels of a picture are: its path with the last ``images`` within the folder as ``labels``."""
    inside = [*picture.relative_to(folder).parts]
    at = len(inside) - 1 - inside[::-1].index(IMAGES)
    inside[at] = LABELS
    return folder.joinpath(*inside).with_suffix(".txt")


def read_labels(label: Path, folder: Path, width: int, height: int, names: list[str], problems: list[Problem]) -> Marks:
    """Read one label file; lines that cannot be used go to ``problems``, each with its number."""
    marks = Marks()
    try:
        lines = read_text(label).splitlines()
    except InputError as error:
        problems.append(Problem(within(label, folder), error.problem, error.remedy))
        return marks
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                _read_line(line, width, height, names, marks)
            except BadLabelError as error:
                problems.append(Problem(f"{within(label, folder)} line {number}", error.what, error.remedy))
    return marks


def _read_line(line: str, width: int, height: int, names: list[str], marks: Marks) -> None:
    try:
        kind, *numbers = [float(word) for word in line.split()]
    except ValueError:
        raise BadLabelError(f"{line.strip()[:40]!r} is not all numbers", "write class x y width height") from None
    label = _name_of(kind, names)
    if len(numbers) == 4:
        x, y, across, down = numbers
        corners = [(x - across / 2) * width, (y - down / 2) * height, (x + across / 2) * width, (y + down / 2) * height]
        marks.boxes.append(checked_box(corners, width, height))
        marks.outlines.append(None)
    elif len(numbers) >= 6 and len(numbers) % 2 == 0:
        polygon = checked_polygon(
            (np.asarray(numbers).reshape(-1, 2) * (width, height)).ravel().tolist(), width, height
        )
        marks.boxes.append(checked_box(box_around([polygon]), width, height))
        marks.outlines.append((polygon,))
    else:
        what = f"{len(numbers)} numbers after the class are no box (4) and no polygon (6, 8, ...)"
        raise BadLabelError(what, "write class x y width height, or class and the corners")
    marks.labels.append(label)


def _name_of(kind: float, names: list[str]) -> str:
    if not kind.is_integer() or kind < 0:
        raise BadLabelError(f"class {kind:g} is no whole number from 0 on", "write the class first in the line")
    if names and kind >= len(names):
        raise BadLabelError(f"class {kind:g} is not among the {len(names)} of data.yaml", "add its name there")
    return names[int(kind)] if names else f"class {int(kind)}"


def _read_yaml(folder: Path, problems: list[Problem]) -> tuple[list[str], dict[Path, Part]]:
    """Read class names, and folders or pictures of each part; ``classes.txt`` where there is no ``data.yaml``."""
    import yaml  # type: ignore[import-untyped]

    path = next(
        (folder / name for name in ("data.yaml", "data.yml", "dataset.yaml") if (folder / name).is_file()), None
    )
    if path is None:
        listed = next((one for one in (folder / "classes.txt", folder / LABELS / "classes.txt") if one.is_file()), None)
        return ([line.strip() for line in read_text(listed).splitlines() if line.strip()] if listed else []), {}
    try:
        content: Any = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise InputError(path, f"is no YAML ({reason})", "mend it, or export the data set again") from error
    if not isinstance(content, dict):
        raise InputError(path, "holds no names and folders", "export the data set again")
    parts: dict[Path, Part] = {}
    for key, part in PARTS.items():
        given = content.get(key) or []
        for one in given if isinstance(given, list) else [given]:
            # Roboflow writes ../train/images for train/images beside the file.
            for base in (folder / str(content.get("path") or ""), folder):
                for place in (base / str(one), base / str(one).removeprefix("../")):
                    if place.resolve().is_relative_to(folder.resolve()):
                        parts |= dict.fromkeys(_named_by(place), part)
    return _class_names(path, content.get("names") or []), parts


def _class_names(path: Path, names: Any) -> list[str]:
    """Return the class names of ``data.yaml``, a list or numbers with names, by their numbers."""
    if isinstance(names, dict) and all(isinstance(number, int) for number in names):
        return [str(names.get(k, f"class {k}")) for k in range(max(names, default=-1) + 1)]
    if not isinstance(names, list):
        raise InputError(path, "its names are no list", "write names: [fracture, ...]")
    return [str(name) for name in names]


def _named_by(place: Path) -> list[Path]:
    """Return the folder that ``data.yaml`` names, or the pictures of a text file that it names."""
    if place.is_dir():
        return [place.resolve()]
    if not place.is_file():
        return []
    lines = [line.strip() for line in read_text(place).splitlines()]
    return [(place.parent / line).resolve() for line in lines if line]


def _part_of(picture: Path, folder: Path, parts: dict[Path, Part]) -> Part | None:
    """Return the part for which ``data.yaml`` names picture or nearest folder, else of the folder's own name."""
    if parts:
        whole = picture.resolve()
        named = next((parts[above] for above in (whole, *whole.parents) if above in parts), None)
        if named:
            return named
    return part_of(picture.relative_to(folder).parent.parts)
