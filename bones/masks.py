"""The masks of a case as arrays: where bone is, and each instance by itself. Needs no torch."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from scipy import ndimage

from bones.formats.case import Case
from bones.formats.rle import Mask, filled
from shared.errors import InputError

BONE_LABELS = ("bone", "implant")
HALF = 128  # a mask of grey values, such as a resized one, is inside from here on


def has_bone_mask(case: Case) -> bool:
    """Say whether ``bone_mask`` gives a mask; reads no picture."""
    return case.mask is not None or (case.outlines is not None and any(_bones_of(case)))


def bone_mask(case: Case) -> Mask | None:
    """Return where bone is (in PH2: the lesion), ``y x`` on the picture as displayed; None if it is not drawn.

    Raises:
        InputError: the mask cannot be read.
    """
    if case.mask is not None:
        inside = np.zeros((case.height_px, case.width_px), bool)
        for one in _class_masks(case).values():
            inside |= one
        return inside
    bones = _bones_of(case)
    if not bones:
        return None
    assert case.outlines is not None
    inside = np.zeros((case.height_px, case.width_px), bool)
    for k in bones:
        outline = case.outlines[k]
        if outline is not None:
            inside |= filled(outline, case.width_px, case.height_px)
    return inside


def instances(case: Case, labels: Collection[str]) -> tuple[Bool[np.ndarray, "n y x"], tuple[str, ...]]:
    """Return the mask and the label of each instance of these labels.

    They are those drawn; of CVAT's masks each object, or where objects are not told apart each connected piece.

    Raises:
        InputError: a mask cannot be read.
    """
    found: list[tuple[Mask, str]] = []
    if case.outlines is not None:
        drawn = zip(case.outlines, case.labels, strict=True)
        found = [(filled(outline, case.width_px, case.height_px), label)
                 for outline, label in drawn if outline is not None and label in labels]  # fmt: skip
    elif case.mask is not None:
        objects = None if case.instances is None else _object_numbers(case)
        for label, inside in _class_masks(case).items():
            if label in labels:
                numbers = ndimage.label(inside)[0] if objects is None else objects * inside
                found += [(numbers == number, label) for number in np.unique(numbers) if number]
    found = [(mask, label) for mask, label in found if mask.any()]
    empty = np.zeros((0, case.height_px, case.width_px), bool)
    return (np.stack([mask for mask, _ in found]) if found else empty), tuple(label for _, label in found)


def _bones_of(case: Case) -> list[int]:
    """Return the numbers of the boxes that are bone and have an outline."""
    drawn = case.outlines or ()
    return [k for k, (outline, label) in enumerate(zip(drawn, case.labels, strict=False))
            if outline is not None and label.casefold() in BONE_LABELS]  # fmt: skip


def _class_masks(case: Case) -> dict[str, Mask]:
    """Return the mask of each class of a mask picture; one of no named classes is all bone."""
    assert case.mask is not None
    colours = _rgb(case.mask, case)
    if case.mask_colours is None:
        least = HALF if colours.max() >= HALF else 1
        inside: Mask = colours.max(axis=2) >= least
        return {"bone": inside}
    return {name: (colours == np.array(rgb, np.uint8)).all(axis=2) for name, rgb in case.mask_colours.items()}


def _object_numbers(case: Case) -> np.ndarray:
    """Return each pixel's object, from 1 on; the background has 0."""
    assert case.instances is not None
    colours = _rgb(case.instances, case).astype(np.int64)
    packed = (colours[..., 0] << 16) | (colours[..., 1] << 8) | colours[..., 2]
    values, numbers = np.unique(packed, return_inverse=True)
    result: np.ndarray = numbers.reshape(packed.shape) + (1 if values[0] else 0)
    return result


def _rgb(path: Path, case: Case) -> UInt8[np.ndarray, "y x 3"]:
    try:
        with Image.open(path) as image:
            colours = np.asarray(image.convert("RGB"))
    except Exception as error:
        raise InputError(path, f"cannot be read ({str(error).splitlines()[0]})", "export it again") from error
    if colours.shape[:2] != (case.height_px, case.width_px):
        what = f"is {colours.shape[1]} x {colours.shape[0]} px, its picture {case.width_px} x {case.height_px}"
        raise InputError(path, what, "export pictures and masks together again")
    return colours
