"""Masks as COCO's run lengths and back: pixels outside and inside in turn, down each column, column after column.

The text form packs differences of the counts into six bits a character (MS COCO, maskApi.c, rleToString).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from bones.formats.case import Outline, Rle
from bones.formats.geometry import BadLabelError

Mask = Bool[np.ndarray, "y x"]


def encode(mask: Mask) -> Rle:
    """Return a mask as run lengths."""
    height, width = mask.shape
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return Rle(width, height, tuple(([0] if flat.size and flat[0] else []) + counts))


def decode(runs: Rle) -> Mask:
    """Return the mask of run lengths."""
    inside = np.arange(len(runs.counts)) % 2 == 1
    flat = np.repeat(inside, np.asarray(runs.counts, np.int64))
    mask: Mask = flat.reshape(runs.height_px, runs.width_px, order="F")
    return mask


def read_rle(size: Sequence[int], counts: Sequence[int] | str, width_px: int, height_px: int) -> Rle:
    """Return the run lengths of a COCO annotation, packed or not.

    Raises:
        BadLabelError: they are not those of a picture of this size.
    """
    try:
        numbers = unpack(counts) if isinstance(counts, str) else [int(count) for count in counts]
        fits = [int(side) for side in size] == [height_px, width_px] and min(numbers, default=0) >= 0
    except (ValueError, TypeError, IndexError):
        fits, numbers = False, []
    if not fits or sum(numbers) != width_px * height_px:
        raise BadLabelError(f"run lengths that are not of a picture of {width_px} x {height_px} px", "export it again")
    return Rle(width_px, height_px, tuple(numbers))


def unpack(text: str) -> list[int]:
    """Return the counts of COCO's text form."""
    counts: list[int] = []
    at = 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            bits = ord(text[at]) - 48
            value |= (bits & 0x1F) << shift
            more, shift, at = bool(bits & 0x20), shift + 5, at + 1
            if not more and bits & 0x10:
                value |= -1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts


def box_of(runs: Rle) -> list[float]:
    """Return the box ``x1 y1 x2 y2`` that a mask just fills.

    Raises:
        BadLabelError: it is empty.
    """
    mask = decode(runs)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise BadLabelError("an empty mask", "take it out")
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


def filled(outline: Outline, width_px: int, height_px: int) -> Mask:
    """Return the pixels of an outline: those whose centres one of its polygons holds."""
    if isinstance(outline, Rle):
        return decode(outline)
    from skimage.draw import polygon as pixels_in

    mask = np.zeros((height_px, width_px), bool)
    for polygon in outline:
        corners = polygon.astype(np.float64) - 0.5
        mask[pixels_in(corners[:, 1], corners[:, 0], mask.shape)] = True  # type: ignore[no-untyped-call]
    return mask
