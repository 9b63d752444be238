"""The masks of a case as arrays: where bone is, and each instance by itself. Needs no torch."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from jaxtyping import Bool

from bones.formats.case import Case
from bones.formats.mask_png import read_rgb
from bones.formats.rle import Mask, filled
from shared.errors import InputError

BONE_LABELS = ("bone", "implant")
HALF = 128  # a mask of grey values, such as a resized one, is inside from here on


def has_bone_mask(case: Case) -> bool:
    """Say whether ``bone_mask`` gives a mask; reads no picture."""
    return case.mask is not None or bool(_drawn(case, BONE_LABELS))


def bone_mask(case: Case) -> Mask | None:
    """Return where bone or metal is (in PH2: the lesion), ``y x`` on the picture as displayed; None if not drawn.

    Raises:
        InputError: the mask cannot be read.
    """
    if case.mask is not None:
        return _of_picture(case)
    masks, _ = instances(case, BONE_LABELS)
    return np.asarray(masks.any(axis=0)) if len(masks) else None


def instances(case: Case, labels: Collection[str]) -> tuple[Bool[np.ndarray, "n y x"], tuple[str, ...]]:
    """Return the mask and the label of each instance of these labels; boxes without an outline have none."""
    drawn = _drawn(case, labels)
    masks = np.zeros((len(drawn), case.height_px, case.width_px), bool)
    for mask, k in zip(masks, drawn, strict=True):
        if case.outlines is not None and (outline := case.outlines[k]) is not None:
            mask[:] = filled(outline, case.width_px, case.height_px)
    return masks, tuple(case.labels[k] for k in drawn)


def _drawn(case: Case, labels: Collection[str]) -> list[int]:
    """Return the numbers of the boxes of these labels that have an outline."""
    if case.outlines is None:
        return []
    return [k for k, outline in enumerate(case.outlines) if outline is not None and case.labels[k] in labels]


def _of_picture(case: Case) -> Mask:
    """Return where the mask picture shows one of its classes, or where it is not black."""
    assert case.mask is not None
    colours = read_rgb(case.mask)
    if colours.shape[:2] != (case.height_px, case.width_px):
        what = f"is {colours.shape[1]} x {colours.shape[0]} px, its picture {case.width_px} x {case.height_px}"
        raise InputError(case.mask, what, "export pictures and masks together again")
    if case.mask_colours is None:
        return np.asarray(colours.max(axis=2) >= (HALF if colours.max() >= HALF else 1))
    named = np.array([*case.mask_colours.values()], np.uint8)
    return np.asarray((colours[:, :, None] == named).all(axis=3).any(axis=2))
