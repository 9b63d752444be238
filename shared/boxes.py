"""Boxes ``x1 y1 x2 y2`` in pixels, where pixel i reaches from i to i + 1."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64

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
