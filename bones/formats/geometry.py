"""Boxes and outlines checked against their picture: what is a pixel over its edge is clipped, what is more is named."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from shared.types import Polygon

# Annotation tools round: a corner may be as far outside as this, and is then put onto the edge.
OVERSHOOT_PX = 1.0
MIN_SIDE_PX = 1.0
ROUNDING_PX = 0.01  # what is left of 1 px after six decimals of a share of the picture


class BadLabelError(ValueError):
    """A box or an outline that cannot be used: ``what`` is wrong with it, and the ``remedy``."""

    def __init__(self, what: str, remedy: str) -> None:
        self.what, self.remedy = what, remedy
        super().__init__(f"{what}; {remedy}")


def checked_box(corners: Sequence[float], width_px: int, height_px: int) -> Float64[np.ndarray, "4"]:
    """Return a box ``x1 y1 x2 y2`` clipped to its picture.

    Raises:
        BadLabelError: it is not finite, not from top left to bottom right, more than 1 px outside, or too thin.
    """
    box = np.asarray(corners, np.float64)
    if not np.isfinite(box).all():
        raise BadLabelError(f"box {_told(box)} is not finite", "draw it again")
    if not (box[0] < box[2] and box[1] < box[3]):
        raise BadLabelError(f"box {_told(box)} is not x1 < x2 and y1 < y2", "draw it from top left to bottom right")
    edges = np.array([width_px, height_px] * 2, np.float64)
    if (box < -OVERSHOOT_PX).any() or (box > edges + OVERSHOOT_PX).any():
        raise BadLabelError(
            f"box {_told(box)} reaches out of its picture of {width_px} x {height_px} px",
            "draw it inside, or check that the label belongs to this picture",
        )
    inside = np.clip(box, 0, edges)
    if (inside[2:] - inside[:2] < MIN_SIDE_PX - ROUNDING_PX).any():
        raise BadLabelError(f"box {_told(box)} is thinner than {MIN_SIDE_PX:g} px", "draw it larger or take it out")
    return inside


def checked_polygon(corners: Sequence[float], width_px: int, height_px: int) -> Polygon:
    """Return a polygon ``x1 y1 x2 y2 ...`` as corners clipped to its picture.

    Raises:
        BadLabelError: fewer than 3 corners, an odd count of numbers, not finite, or more than 1 px outside.
    """
    if len(corners) < 6 or len(corners) % 2:
        raise BadLabelError(f"an outline of {len(corners)} numbers", "give x and y of at least 3 corners")
    outline = np.asarray(corners, np.float64).reshape(-1, 2)
    if not np.isfinite(outline).all():
        raise BadLabelError("an outline that is not finite", "draw it again")
    edges = np.array([width_px, height_px], np.float64)
    if (outline < -OVERSHOOT_PX).any() or (outline > edges + OVERSHOOT_PX).any():
        low, high = outline.min(axis=0), outline.max(axis=0)
        raise BadLabelError(
            f"an outline from {_told(low)} to {_told(high)} reaches out of its picture of {width_px} x {height_px} px",
            "draw it inside, or check that the label belongs to this picture",
        )
    clipped: Polygon = np.clip(outline, 0, edges).astype(np.float32)
    return clipped


def box_around(polygons: Sequence[Polygon]) -> list[float]:
    """Return the box ``x1 y1 x2 y2`` that polygons just fill."""
    corners = np.concatenate(polygons)
    return [*map(float, corners.min(axis=0)), *map(float, corners.max(axis=0))]


def _told(numbers: Float64[np.ndarray, " n"]) -> str:
    return "(" + ", ".join(f"{number:.6g}" for number in numbers) + ")"
