"""One labelled picture, and what a reader must say of labels that cannot be used."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import ExifTags, Image

from shared.errors import InputError
from shared.io.dicom_file import is_dicom
from shared.io.radiograph import SUFFIXES, read_radiograph
from shared.problems import Problem
from shared.types import Boxes, Polygon

Part: TypeAlias = Literal["training", "validation", "test"]
# How data sets call the folders and files of their parts.
PARTS: dict[str, Part] = {
    "training": "training", "train": "training", "validation": "validation", "valid": "validation", "val": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
# Classes that say what a thing is, not that it is broken: never merged into another.
ANATOMY = ("bone", "implant", "lesion")
PLAIN_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"bKGD", b"pHYs",
                b"tIME", b"hIST")  # fmt: skip
TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


@dataclass(frozen=True, slots=True)
class Rle:
    """An instance as COCO's run lengths: pixels without and with it in turn, down each column, column after column."""

    width_px: int
    height_px: int
    counts: tuple[int, ...]


Outline: TypeAlias = tuple[Polygon, ...] | Rle
"""What an instance covers: one or several polygons ``x y`` in pixels, or run lengths."""


@dataclass(frozen=True, slots=True)
class Case:
    """One picture and what is known of it; None is unknown, no boxes are a finding.

    Boxes are ``x1 y1 x2 y2`` in pixels of the picture as displayed (EXIF orientation applied), lie inside it and are
    at least 1 px wide and high. Cases are equal if their names are.
    """

    name: str
    """The picture's path within the data set, with slashes."""
    picture: Path = field(compare=False)
    width_px: int = field(compare=False)
    height_px: int = field(compare=False)
    boxes: Boxes | None = field(default=None, compare=False)
    labels: tuple[str, ...] = field(default=(), compare=False)
    """The class of each box."""
    outlines: tuple[Outline | None, ...] | None = field(default=None, compare=False)
    """What each box's instance covers, where that was drawn."""
    mask: Path | None = field(default=None, compare=False)
    """A picture whose pixels other than the background's are bone (or lesion, in PH2)."""
    mask_colours: Mapping[str, tuple[int, int, int]] | None = field(default=None, compare=False)
    """The mask's classes without background, each with its red, green and blue; None is any that is not black."""
    bone: bool | None = field(default=None, compare=False)
    """Weak label: bone is somewhere in it."""
    fractured: bool | None = field(default=None, compare=False)
    """Weak label: a fracture is somewhere in it."""
    patient: str | None = field(default=None, compare=False)
    part: Part | None = field(default=None, compare=False)
    """Of the data set's own split."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a reader found: whole ``cases`` in the order of their names, and ``problems`` with what is no case."""

    layout: str
    cases: tuple[Case, ...]
    problems: tuple[Problem, ...] = ()


def fracture_in(labels: Iterable[str], classes: Iterable[str]) -> bool | None:
    """Say whether one of these boxes is a fracture; None if the data set has no class for it."""
    if all(name.casefold() in ANATOMY for name in classes):
        return None
    return any(label.casefold() not in ANATOMY for label in labels)


def bone_in(labels: Iterable[str]) -> bool | None:
    """Say that bone is there, which any box but a lesion's tells; None where none does."""
    return True if any(label.casefold() != "lesion" for label in labels) else None


def pictures_below(folder: Path) -> list[Path]:
    """Return the files below a folder that are named as pictures are, sorted; hidden ones are passed over."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith((".", "__")) and path.is_file()
    )


def part_of(names: Iterable[str]) -> Part | None:
    """Return the part of a split that one of these folder names stands for; the last that does counts."""
    return next((PARTS[name.lower()] for name in reversed([*names]) if name.lower() in PARTS), None)


def listed_parts(folder: Path) -> dict[str, Part]:
    """Return the part of each name in the lists of a folder, such as ``train.txt``; VOC and CVAT have them."""
    parts: dict[str, Part] = {}
    for path in sorted(folder.glob("*.txt")):
        if path.stem.lower() in PARTS:
            lines = (line.split() for line in read_text(path).splitlines())
            parts |= {words[0]: PARTS[path.stem.lower()] for words in lines if words}
    return parts


def displayed_size(picture: Path) -> tuple[int, int]:
    """Return a picture's width and height as displayed, from its header where that is enough.

    Raises:
        InputError: it is no picture, or damaged.
    """
    try:
        if not is_dicom(picture):
            if (plain := _plain_png_size(picture)) is not None:
                return plain
            with Image.open(picture, formats=("PNG", "JPEG", "TIFF", "BMP")) as image:
                width, height = image.size
                turned = image.getexif().get(ExifTags.Base.Orientation) in TURNED
                return (height, width) if turned else (width, height)
    except Exception:
        pass
    shown = read_radiograph(picture)
    return shown.width_px, shown.height_px


def _plain_png_size(picture: Path) -> tuple[int, int] | None:
    """Return the size of a PNG from its chunks if none may hold an orientation; Pillow would decode it all to look."""
    with picture.open("rb") as file:
        if file.read(8) != b"\x89PNG\r\n\x1a\n":
            return None
        size = (0, 0)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"IEND":
                return size if min(size) > 0 else None
            if kind not in PLAIN_CHUNKS:
                return None
            if kind == b"IHDR":
                size = struct.unpack(">II", file.read(8))
                length -= 8
            file.seek(length + 4, 1)
    return None


def is_size(told: Sequence[Any], size: tuple[int, int]) -> bool:
    """Say whether width and height as a label file tells them are the picture's; absent or 0 tells nothing."""
    try:
        numbers = tuple(float(side or 0) for side in told)
    except (TypeError, ValueError):
        return False
    return 0 in numbers or numbers == size


def sized(pictures: Iterable[Path], folder: Path) -> tuple[dict[Path, tuple[int, int]], list[Problem]]:
    """Return the displayed sizes of pictures, and a problem for each that has none."""
    sizes, problems = {}, []
    for picture in pictures:
        try:
            sizes[picture] = displayed_size(picture)
        except InputError as error:
            problems.append(Problem(within(picture, folder), error.problem, error.remedy))
    return sizes, problems


def within(path: Path, folder: Path) -> str:
    """Return a file's path within a folder, with slashes."""
    return path.relative_to(folder).as_posix()


def stacked(boxes: Sequence[np.ndarray]) -> Boxes:
    """Return boxes one below the other, float32."""
    return np.asarray(boxes, np.float32).reshape(-1, 4)


def read_text(path: Path) -> str:
    """Read a text file of labels.

    Raises:
        InputError: it cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror or error})", "check its permissions") from error
    except UnicodeDecodeError as error:
        raise InputError(path, "is no text", "export it again") from error
