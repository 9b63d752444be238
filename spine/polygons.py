"""Outlines as people draw them: mended where it is plain what was meant, refused with a reason where it is not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

Corners = Float64[np.ndarray, "corner 2"]

# Of the film's longer side: 2 px where the network sees it at 640, which nobody can outline.
MIN_SIDE_SHARE = 2 / 640
# A film's edge cuts vertebrae; of what lies beyond more than half is missing, not cut.
MIN_INSIDE_SHARE = 0.5


class PolygonError(ValueError):
    """An outline that cannot be used; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Mended:
    """An outline within its film, not crossing itself, and what had to be done for that."""

    corners_px: Corners
    changes: tuple[str, ...]


def mend(corners_px: Float[np.ndarray, "corner 2"], width_px: int, height_px: int) -> Mended:
    """Return an outline that can be learned from.

    Points that repeat the one before are left out. An outline that crosses itself is put in order around its middle if
    it has four corners (two were swapped), else the smaller loop at each crossing is cut off. What lies beyond the film
    is cut off.

    Args:
        corners_px: x and y of its points, in order.
        width_px: the film's.
        height_px: the film's.

    Raises:
        PolygonError: fewer than three points, no number, no area, too small to be seen, or more than half outside.
    """
    corners = np.asarray(corners_px, np.float64).reshape(-1, 2)
    changes = []
    if not np.isfinite(corners).all():
        raise PolygonError("a coordinate is no number")
    once = _without_repeats(corners)
    if len(once) < len(corners) - 1:  # the last point may repeat the first: that is a way to close an outline
        changes.append("repeated points left out")
    if len(once) < 3:
        raise PolygonError(f"{len(once)} points make no outline")
    whole = _untangled(once)
    if whole is not once:
        changes.append("crossed itself")
    area = abs(signed_area(whole))
    inside = clipped(whole, width_px, height_px)
    if len(inside) < 3 or abs(signed_area(inside)) < MIN_INSIDE_SHARE * area:
        raise PolygonError("lies mostly outside the film")
    if abs(signed_area(inside)) < area * (1 - 1e-9):
        changes.append("reached beyond the film")
    sides = inside.max(axis=0) - inside.min(axis=0)
    if sides.min() < MIN_SIDE_SHARE * max(width_px, height_px):
        raise PolygonError(f"{sides[0]:.1f} x {sides[1]:.1f} px is too small to be seen")
    return Mended(inside, tuple(changes))


def signed_area(corners: Corners) -> float:
    """Return the area by the shoelace formula; positive where the points go clockwise as displayed."""
    x, y = corners.T
    return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2)


def clipped(corners: Corners, width_px: float, height_px: float) -> Corners:
    """Cut off what lies outside ``0..width, 0..height`` (Sutherland and Hodgman, CACM 17, 1974)."""
    for axis, sign, limit in ((0, 1.0, 0.0), (0, -1.0, -float(width_px)), (1, 1.0, 0.0), (1, -1.0, -float(height_px))):
        kept: list[np.ndarray] = []
        depth = sign * corners[:, axis] - limit
        for k in range(len(corners)):
            here, there = depth[k - 1], depth[k]
            if (here >= 0) != (there >= 0):
                kept.append(corners[k - 1] + (corners[k] - corners[k - 1]) * (here / (here - there)))
            if there >= 0:
                kept.append(corners[k])
        corners = np.array(kept, np.float64).reshape(-1, 2)
        if not len(corners):
            break
    high = np.array([width_px, height_px], np.float64)
    return _without_repeats(np.clip(corners, 0.0, high))


def _without_repeats(corners: Corners) -> Corners:
    """Leave out points that are where the next one is; after the last comes the first."""
    if not len(corners):
        return corners
    kept: Corners = corners[(np.abs(corners - np.roll(corners, -1, axis=0)) > 1e-6).any(axis=1)]
    return kept if len(kept) else corners[:1]


def _untangled(corners: Corners) -> Corners:
    """Return an outline that does not cross itself: the very same one if it did not."""
    found = _crossing(corners)
    if found is None:
        return corners
    if len(corners) == 4:
        around = corners - corners.mean(axis=0)
        return corners[np.argsort(np.arctan2(around[:, 1], around[:, 0]))]
    for _ in range(len(corners)):
        i, j, point = found
        inner = np.vstack([point, corners[i + 1 : j + 1]])
        outer = np.vstack([corners[: i + 1], point, corners[j + 1 :]])
        corners = _without_repeats(max(inner, outer, key=lambda loop: abs(signed_area(loop))))
        if len(corners) < 3:
            raise PolygonError("crosses itself and has no area")
        if (found := _crossing(corners)) is None:
            return corners
    raise PolygonError("crosses itself in many places")


def _crossing(corners: Corners) -> tuple[int, int, Float64[np.ndarray, " 2"]] | None:
    """Find the first pair of sides i < j (from point i to i + 1) that cross properly, and where."""
    start, step = corners, np.roll(corners, -1, axis=0) - corners
    across = step[:, None, 0] * step[None, :, 1] - step[:, None, 1] * step[None, :, 0]
    between = start[None] - start[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        along = (between[..., 0] * step[None, :, 1] - between[..., 1] * step[None, :, 0]) / across
        beside = (between[..., 0] * step[:, None, 1] - between[..., 1] * step[:, None, 0]) / across
    proper = (along > 1e-9) & (along < 1 - 1e-9) & (beside > 1e-9) & (beside < 1 - 1e-9) & (across != 0)
    places = np.argwhere(np.triu(proper, 1))
    if not len(places):
        return None
    i, j = map(int, places[0])
    return i, j, start[i] + along[i, j] * step[i]
