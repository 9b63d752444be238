"""COCO detection data sets, as Roboflow (``train/_annotations.coco.json``) and others export them.

Boxes are ``x y width height`` in pixels; segmentations are polygons or run lengths. https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from bones.formats.case import (
    Case,
    Found,
    Outline,
    Part,
    bone_in,
    fracture_in,
    is_size,
    part_of,
    pictures_below,
    read_text,
    sized,
    stacked,
    within,
)
from bones.formats.geometry import BadLabelError, box_around, checked_box, checked_polygon
from bones.formats.rle import Mask, box_of, encode, read_rle
from shared.errors import InputError
from shared.io.tables import write_json
from shared.problems import Problem

ROBOFLOW = "_annotations.coco.json"


def is_coco(folder: Path) -> bool:
    """Say whether a folder holds a JSON file of COCO's form."""
    return bool(annotation_files(folder))


def annotation_files(folder: Path) -> list[Path]:
    """Return the JSON files below a folder that begin as COCO's do."""
    return [path for path in sorted(folder.rglob("*.json")) if not path.name.startswith(".") and _looks_coco(path)]


def _looks_coco(path: Path) -> bool:
    if path.name == ROBOFLOW:
        return True
    try:
        content = json.loads(read_text(path))
    except (InputError, ValueError):
        return False
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= set(content)


def read_coco(folder: Path) -> Found:
    """Read a COCO data set; the split is that of its folders, or of the names of its JSON files."""
    problems: list[Problem] = []
    cases: dict[str, Case] = {}
    pictures = pictures_below(folder)
    for path in annotation_files(folder):
        for case in read_annotations(path, folder, pictures, problems):
            if case.name in cases:
                where = f"{within(path, folder)} {case.name}"
                problems.append(Problem(where, "is in another JSON file too", "keep it in one"))
            cases.setdefault(case.name, case)
    named = set(cases) | {problem.where for problem in problems}
    problems += [
        Problem(within(path, folder), "is in no JSON file, so it is left out", "label it, or take it away", note=True)
        for path in pictures
        if within(path, folder) not in named
    ]
    return Found("COCO", tuple(cases.values()), tuple(problems))


def read_annotations(path: Path, folder: Path, pictures: Sequence[Path], problems: list[Problem]) -> Iterator[Case]:
    """Give the cases of one JSON file; what cannot be used goes to ``problems``.

    Raises:
        InputError: the file is no COCO.
    """
    content = _content(path)
    classes = {one["id"]: str(one["name"]) for one in content["categories"]}
    by_image: dict[Any, list[dict[str, Any]]] = {}
    for one in content["annotations"]:
        by_image.setdefault(one.get("image_id"), []).append(one)
    known = {one["id"] for one in content["images"]}
    where = within(path, folder)
    for image in sorted(set(by_image) - known, key=str):
        what = f"{len(by_image[image])} annotations of image {image}, which is not listed"
        problems.append(Problem(where, what, "export it again"))
    places = _Places(path, folder, pictures)
    listed = [(one, places.find(str(one["file_name"]))) for one in content["images"]]
    problems += [
        Problem(f"{where} image {one['id']}", f"{one['file_name']} is not there", "add the picture, or export again")
        for one, picture in listed
        if picture is None
    ]
    sizes, unreadable = sized([picture for _, picture in listed if picture is not None], folder)
    problems += unreadable
    part = _part_of(path, folder)
    for one, picture in listed:
        if picture in sizes and picture is not None:
            marks = _Marks(where, picture.name, sizes[picture], classes, problems)
            if marks.fits(one):
                marks.read(by_image.get(one["id"], []))
                yield marks.case(picture, folder, part or part_of(picture.relative_to(folder).parent.parts))


@dataclass
class _Marks:
    """The boxes of one picture as they are read."""

    where: str
    name: str
    size: tuple[int, int]
    classes: Mapping[Any, str]
    problems: list[Problem]
    boxes: list[np.ndarray] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    outlines: list[Outline | None] = field(default_factory=list)

    def fits(self, image: Mapping[str, Any]) -> bool:
        """Say whether labels were made for the picture as it is displayed."""
        told = (image.get("width"), image.get("height"))
        if is_size(told, self.size):
            return True
        what = f"labels are for {told[0]} x {told[1]} px, the picture as displayed is {self.size[0]} x {self.size[1]}"
        self.problems.append(Problem(f"{self.where} {self.name}", what, "export labels and pictures together again"))
        return False

    def read(self, annotations: Iterable[Mapping[str, Any]]) -> None:
        """Read the annotations of the picture."""
        for one in annotations:
            where = f"{self.where} annotation {one.get('id', '?')} ({self.name})"
            if one.get("iscrowd") and "counts" not in (one.get("segmentation") or ()):
                self.problems.append(Problem(where, "is a crowd, so it is left out", "box each by itself", note=True))
                continue
            try:
                label = self.classes.get(one.get("category_id"))
                if label is None:
                    raise BadLabelError(f"class {one.get('category_id')} is not among the categories", "add it there")
                outline, box = self._drawn(one)
                self.boxes.append(box)
                self.outlines.append(outline)
                self.labels.append(label)
            except BadLabelError as error:
                self.problems.append(Problem(where, error.what, error.remedy))
            except (TypeError, ValueError):
                what = "its bbox or segmentation is not of COCO's form"
                self.problems.append(Problem(where, what, "export it again"))

    def _drawn(self, one: Mapping[str, Any]) -> tuple[Outline | None, np.ndarray]:
        drawn = one.get("segmentation")
        outline: Outline | None
        if isinstance(drawn, Mapping):
            outline = read_rle(drawn.get("size", ()), drawn.get("counts", ()), *self.size)
            around = None if one.get("bbox") else box_of(outline)
        else:
            polygons = tuple(checked_polygon(polygon, *self.size) for polygon in drawn or ())
            outline = polygons or None
            around = box_around(polygons) if polygons and not one.get("bbox") else None
        if around is None:
            if not one.get("bbox"):
                raise BadLabelError("neither bbox nor segmentation", "draw one")
            x, y, width, height = one["bbox"]
            around = [x, y, x + width, y + height]
        return outline, checked_box(around, *self.size)

    def case(self, picture: Path, folder: Path, part: Part | None) -> Case:
        """Return the case of what was read."""
        outlines = tuple(self.outlines) if any(outline is not None for outline in self.outlines) else None
        classes = tuple(self.classes.values())
        return Case(
            within(picture, folder), picture, *self.size, stacked(self.boxes), tuple(self.labels), outlines,
            bone=bone_in(self.labels), fractured=fracture_in(self.labels, classes), part=part,
        )  # fmt: skip


class _Places:
    """Where the pictures of a JSON file are: beside it, in ``images``, or anywhere if no other is called so."""

    def __init__(self, path: Path, folder: Path, pictures: Sequence[Path]) -> None:
        self._bases = (path.parent, folder, path.parent / "images", folder / "images")
        self._by_name: dict[str, list[Path]] = {}
        for picture in pictures:
            self._by_name.setdefault(picture.name, []).append(picture)

    def find(self, name: str) -> Path | None:
        """Return the picture of that name."""
        for base in self._bases:
            if (base / name).is_file():
                return base / name
        same = self._by_name.get(PureWindowsPath(name).name, [])  # which knows both kinds of slashes
        return same[0] if len(same) == 1 else None


def _content(path: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(read_text(path))
    except ValueError as error:
        raise InputError(path, f"is no JSON ({error})", "export it again") from error
    needed = {"images": ("id", "file_name"), "annotations": (), "categories": ("id", "name")}
    for key, entries in needed.items():
        items = content.get(key) if isinstance(content, dict) else None
        if not isinstance(items, list) or not all(isinstance(one, dict) and {*entries} <= {*one} for one in items):
            what = f", each with {' and '.join(entries)}" if entries else ""
            raise InputError(path, f"has no list of {key}{what}", "export it as COCO again")
    found: dict[str, Any] = content
    return found


def _part_of(path: Path, folder: Path) -> Part | None:
    """Return the part a JSON file is of: by its folder, or by a word of its name such as ``instances_val2017``."""
    words = re.findall(r"[a-z]+", path.stem.lower())
    return part_of([*path.relative_to(folder).parent.parts, *words])


@dataclass(frozen=True, slots=True)
class Written:
    """A picture to be listed: its file beside the JSON, its size, and its annotations as (label, box or mask)."""

    file: str
    width_px: int
    height_px: int
    boxes: Sequence[tuple[str, Sequence[float]]] = ()
    masks: Sequence[tuple[str, Mask]] = ()


def write_annotations(pictures: Iterable[Written], labels: Sequence[str], path: Path, about: str) -> None:
    """Write a COCO JSON file that keeps boxes and masks exactly: masks as run lengths, which are not packed.

    Raises:
        SetupError: the file cannot be written.
    """
    images, annotations = [], []
    for number, one in enumerate(pictures, start=1):
        images.append({"id": number, "file_name": one.file, "width": one.width_px, "height": one.height_px})
        for label, mask in one.masks:
            runs = encode(mask)
            x1, y1, x2, y2 = box_of(runs)
            drawn = {"size": [one.height_px, one.width_px], "counts": list(runs.counts)}
            annotations.append({"image_id": number, "category_id": labels.index(label) + 1, "iscrowd": 0,
                                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": int(mask.sum()),
                                "segmentation": drawn})  # fmt: skip
        for label, box in one.boxes:
            x1, y1, x2, y2 = map(float, box)
            annotations.append({"image_id": number, "category_id": labels.index(label) + 1, "iscrowd": 0,
                                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
                                "segmentation": []})  # fmt: skip
    content = {
        "info": {"description": about},
        "images": images,
        "categories": [{"id": number, "name": label} for number, label in enumerate(labels, start=1)],
        "annotations": [{"id": number, **one} for number, one in enumerate(annotations, start=1)],
    }
    write_json(content, path)
