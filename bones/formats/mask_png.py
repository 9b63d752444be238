"""Masks as pictures: CVAT's segmentation masks, plain ``images`` and ``masks`` folders, and PH2 with its lesions.

CVAT ("Segmentation mask 1.1") writes ``labelmap.txt`` (``name:red,green,blue::``), ``SegmentationClass`` and
``SegmentationObject``, lists in ``ImageSets/Segmentation``, and the pictures in ``JPEGImages`` if told to.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from scipy import ndimage

from bones.formats.case import (
    Case,
    Found,
    bone_in,
    displayed_size,
    fracture_in,
    listed_parts,
    part_of,
    pictures_below,
    read_text,
    sized,
    stacked,
    within,
)
from bones.formats.rle import Mask, box_of, encode
from shared.errors import InputError
from shared.problems import Problem

CLASSES, OBJECTS, LABELMAP = "SegmentationClass", "SegmentationObject", "labelmap.txt"
IMAGES, MASKS = "images", "masks"
BACKGROUND = "background"

Colours: TypeAlias = Mapping[str, tuple[int, int, int]]
Rgb: TypeAlias = UInt8[np.ndarray, "y x 3"]


def is_cvat(folder: Path) -> bool:
    """Say whether a folder is an export of CVAT's masks."""
    return (folder / CLASSES).is_dir() and (folder / LABELMAP).is_file()


def read_cvat(folder: Path) -> Found:
    """Read CVAT's masks; the split is that of its lists ``train.txt``, ``val.txt`` and ``test.txt``."""
    problems: list[Problem] = []
    colours = read_labelmap(folder / LABELMAP)
    parts = listed_parts(folder / "ImageSets" / "Segmentation")
    pictures = [
        path for path in pictures_below(folder) if not {CLASSES, OBJECTS}.intersection(path.relative_to(folder).parts)
    ]
    masks = {path.stem: path for path in pictures_below(folder / CLASSES)}
    objects = {path.stem: path for path in pictures_below(folder / OBJECTS)}
    cases = []
    for picture, size in _paired(pictures, masks, folder, problems).items():
        mask = masks[picture.stem]
        try:
            drawn = read_objects(mask, objects.get(picture.stem), colours)
        except InputError as error:
            problems.append(Problem(within(error.path, folder), error.problem, error.remedy))
            continue
        outlines = tuple(encode(inside) for _, inside in drawn)
        labels = tuple(label for label, _ in drawn)
        cases.append(
            Case(within(picture, folder), picture, *size, stacked([np.array(box_of(one)) for one in outlines]), labels,
                 outlines, mask, colours, bone=bone_in(labels), fractured=fracture_in(labels, colours),
                 part=parts.get(picture.stem))
        )  # fmt: skip
    return Found("CVAT masks", tuple(cases), tuple(problems))


def read_labelmap(path: Path) -> Colours:
    """Return the classes without background and their colours.

    Raises:
        InputError: a line is of another form, or there is no class.
    """
    colours: dict[str, tuple[int, int, int]] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        try:
            red, green, blue = (int(value) for value in rest.partition(":")[0].split(","))
        except ValueError:
            raise InputError(path, f"line {number} is not name:red,green,blue::", "export it again") from None
        if name.strip().lower() != BACKGROUND:
            colours[name.strip()] = (red, green, blue)
    if not colours:
        raise InputError(path, "names no class but the background", "add the class that was drawn")
    return colours


def read_objects(classes: Path, objects: Path | None, colours: Colours) -> list[tuple[str, Mask]]:
    """Return each object's class and mask; where objects are not told apart, each connected piece is one.

    Raises:
        InputError: a mask cannot be read, the two are not of one size, or a colour is not in the label map.
    """
    kinds = read_rgb(classes)
    known = np.array([(0, 0, 0), *colours.values()], np.uint8)
    strange = ~(kinds[:, :, None] == known).all(axis=3).any(axis=2)
    if strange.any():
        told = ",".join(map(str, kinds[strange][0]))
        raise InputError(classes, f"has the colour {told}, which {LABELMAP} does not name", "export the masks again")
    apart = None if objects is None else read_rgb(objects).astype(np.int64) @ (1 << 16, 1 << 8, 1)
    if objects is not None and apart is not None and apart.shape != kinds.shape[:2]:
        raise InputError(objects, "is not of the size of its class mask", "export the masks again")
    found = []
    for label, colour in colours.items():
        inside = (kinds == np.array(colour, np.uint8)).all(axis=2)
        numbers = ndimage.label(inside)[0] if apart is None else apart * inside
        found += [(label, numbers == number) for number in np.unique(numbers) if number]
    return found


def read_rgb(path: Path) -> Rgb:
    """Read a mask's colours.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow raises what its readers raise
        raise InputError(path, f"cannot be read ({str(error).splitlines()[0]})", "export it again") from error


def is_masked(folder: Path) -> bool:
    """Say whether a folder has pictures below ``images`` and masks of the same names below ``masks``."""
    return any((base / IMAGES).is_dir() and (base / MASKS).is_dir() for base in (folder, *_folders(folder)))


def read_masked(folder: Path) -> Found:
    """Read pictures with a mask each, such as ``train/images/a.jpg`` and ``train/masks/a.png``; not black is bone."""
    problems: list[Problem] = []
    cases = []
    for base in (folder, *_folders(folder)):
        if not ((base / IMAGES).is_dir() and (base / MASKS).is_dir()):
            continue
        masks = {_inner(path, base / MASKS): path for path in pictures_below(base / MASKS)}
        pictures = {_inner(path, base / IMAGES): path for path in pictures_below(base / IMAGES)}
        by_picture = {picture: masks[key] for key, picture in pictures.items() if key in masks}
        sizes = _checked(by_picture, folder, problems)
        problems += _alone(
            [path for key, path in pictures.items() if key not in masks],
            [path for key, path in masks.items() if key not in pictures], folder,
        )  # fmt: skip
        cases += [
            Case(within(picture, folder), picture, *size, mask=by_picture[picture],
                 part=part_of(picture.relative_to(folder).parent.parts))
            for picture, size in sizes.items()
        ]  # fmt: skip
    return Found("images and masks", tuple(cases), tuple(problems))


def is_ph2(folder: Path) -> bool:
    """Say whether a folder holds PH2, the dermoscopy set of the ADDI project."""
    return next(folder.rglob("IMD*_Dermoscopic_Image"), None) is not None


def read_ph2(folder: Path) -> Found:
    """Read PH2: ``IMD002/IMD002_Dermoscopic_Image/IMD002.bmp`` and ``IMD002/IMD002_lesion/IMD002_lesion.bmp``.

    Its masks are of lesions of the skin: to pretrain on, as no bone is there.
    """
    problems: list[Problem] = []
    pictures = {
        picture: picture.parents[1] / f"{picture.stem}_lesion" / f"{picture.stem}_lesion{picture.suffix}"
        for below in sorted(folder.rglob("IMD*_Dermoscopic_Image"))
        for picture in pictures_below(below)
    }
    problems += _alone([picture for picture, mask in pictures.items() if not mask.is_file()], [], folder)
    masked = {picture: mask for picture, mask in pictures.items() if mask.is_file()}
    cases = [
        Case(within(picture, folder), picture, *size, mask=masked[picture], bone=False, fractured=False)
        for picture, size in _checked(masked, folder, problems).items()
    ]
    return Found("PH2", tuple(cases), tuple(problems))


def _paired(
    pictures: list[Path], masks: dict[str, Path], folder: Path, problems: list[Problem]
) -> dict[Path, tuple[int, int]]:
    stems = {picture.stem for picture in pictures}
    problems += _alone(
        [picture for picture in pictures if picture.stem not in masks],
        [mask for stem, mask in masks.items() if stem not in stems], folder,
    )  # fmt: skip
    return _checked({picture: masks[picture.stem] for picture in pictures if picture.stem in masks}, folder, problems)


def _checked(masks: Mapping[Path, Path], folder: Path, problems: list[Problem]) -> dict[Path, tuple[int, int]]:
    """Return the sizes of pictures whose masks are of the same size; the others are problems."""
    sizes, unreadable = sized(masks, folder)
    problems += unreadable
    fitting = {}
    for picture, size in sizes.items():
        try:
            other = displayed_size(masks[picture])
        except InputError as error:
            problems.append(Problem(within(masks[picture], folder), error.problem, error.remedy))
            continue
        if other == size:
            fitting[picture] = size
        else:
            what = f"is {other[0]} x {other[1]} px, its picture as displayed {size[0]} x {size[1]}"
            problems.append(Problem(within(masks[picture], folder), what, "export pictures and masks together again"))
    return fitting


def _alone(pictures: list[Path], masks: list[Path], folder: Path) -> list[Problem]:
    return [
        Problem(within(path, folder), "has no mask, so it is left out", "draw one, or take it away", note=True)
        for path in pictures
    ] + [
        Problem(within(path, folder), "is the mask of a picture that is not there", "add the picture, or take it out")
        for path in masks
    ]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _inner(path: Path, base: Path) -> str:
    return path.relative_to(base).with_suffix("").as_posix()
