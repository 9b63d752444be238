"""Boxes ``x1 y1 x2 y2`` in pixels, where pixel i reaches from i to i + 1."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64, Int64

AnyBoxes = Float[np.ndarray, "n 4"]


def box_areas(boxes_px: AnyBoxes) -> Float64[np.ndarray, " n"]:
    """Return the areas in square pixels; a box that is not from top left to bottom right has none."""
    sides = np.maximum(np.asarray(boxes_px[:, 2:], np.float64) - boxes_px[:, :2], 0)
    areas: Float64[np.ndarray, " n"] = sides[:, 0] * sides[:, 1]
    return areas


def iou_matrix(one: AnyBoxes, other: Float[np.ndarray, "m 4"]) -> Float64[np.ndarray, "n m"]:
    """Return the area that each pair of boxes shares over the area it covers, in 0..1; 0 where neither has any."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    sides = np.maximum(high - low, 0)
    shared = sides[..., 0] * sides[..., 1]
    covered = box_areas(one)[:, None] + box_areas(other)[None] - shared
    ious: Float64[np.ndarray, "n m"] = np.divide(shared, covered, out=np.zeros_like(shared), where=covered > 0)
    return ious


def nms(boxes_px: AnyBoxes, iou: float, limit: int | None = None) -> Int64[np.ndarray, " kept"]:
    """Return which of the boxes stay, given best first: those that overlap no better one by more than ``iou``.

    Greedy non-maximum suppression; the work is that of the boxes that stay, so thousands may come in. At most
    ``limit`` stay.
    """
    boxes, areas = np.asarray(boxes_px, np.float64), box_areas(boxes_px)
    left = np.arange(len(boxes))
    kept: list[np.int64] = []
    while len(left) and (limit is None or len(kept) < limit):
        best, left = left[0], left[1:]
        kept.append(best)
        low, high = np.maximum(boxes[best, :2], boxes[left, :2]), np.minimum(boxes[best, 2:], boxes[left, 2:])
        shared = np.maximum(high - low, 0).prod(axis=1)
        left = left[shared <= iou * (areas[best] + areas[left] - shared)]
    return np.array(kept, np.int64)
