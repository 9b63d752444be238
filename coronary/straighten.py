"""Curved multiplanar reformation: a vessel laid out straight, seen from any side.

Each point of the centreline gives one column: the values along a line across the vessel there. The lines turn with the
vessel and not about it (a rotation-minimising frame), so that a straight wall stays straight in the picture.
Kanitsar et al. 2002, "CPR - Curved Planar Reformation" (IEEE Visualization) calls this a straightened CPR.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Shaped
from scipy import ndimage

from shared.geometry import apply_affine
from shared.types import Affine

Points = Float64[np.ndarray, "n 3"]
OUTSIDE = -1024.0  # HU of what the scan does not hold
SMOOTH_MM = 1.0  # of the centreline's own ripple, which would make the walls ripple


@dataclass(frozen=True, slots=True)
class Straightened:
    """A straightened vessel: ``image`` has a row across and a column along, ``step_mm`` apart both ways.

    The middle row is the centreline. Column ``i`` lies at ``points_mm[i]``, ``along_mm[i]`` from the start.
    """

    image: Float32[np.ndarray, "across along"]
    step_mm: float
    points_mm: Points
    along_mm: Float64[np.ndarray, " along"]


def straighten(
    array: Shaped[np.ndarray, "x y z"],
    affine: Affine,
    points_mm: Points,
    *,
    half_width_mm: float = 8.0,
    step_mm: float = 0.25,
    angle_deg: float = 0.0,
) -> Straightened:
    """Lay a vessel out straight; trilinear.

    Args:
        array: the scan ``x y z``, numbers of any kind; a memory map will do, only the vessel's box is read.
        affine: voxel index to RAS mm.
        points_mm: the centreline, RAS, at least two different points.
        half_width_mm: how far the picture reaches on either side of the centreline.
        step_mm: distance of rows and of columns.
        angle_deg: about the vessel; half a turn mirrors the picture.

    Raises:
        ValueError: the points are fewer than two, or all the same.
    """
    line, along_mm = resample(points_mm, step_mm)
    _, normal, binormal = frames(line)
    angle = np.deg2rad(angle_deg)
    across = np.cos(angle) * normal + np.sin(angle) * binormal
    count = int(np.ceil(half_width_mm / step_mm))
    offset_mm = np.arange(-count, count + 1) * step_mm
    at_mm = line[None] + offset_mm[:, None, None] * across[None]
    return Straightened(_sample(array, affine, at_mm), step_mm, line, along_mm)


def resample(points_mm: Points, step_mm: float) -> tuple[Points, Float64[np.ndarray, " n"]]:
    """Points ``step_mm`` apart along a line, smoothed a little, and how far along each is.

    Raises:
        ValueError: the points are fewer than two, or all the same.
    """
    points = np.asarray(points_mm, np.float64)
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1) if len(points) > 1 else np.zeros(0)
    distinct = np.concatenate([[True], steps > 1e-9])
    points = points[distinct]
    if len(points) < 2:
        raise ValueError("a line needs two points")
    far_mm = np.concatenate([[0.0], np.cumsum(steps[steps > 1e-9])])
    along_mm = np.arange(int(far_mm[-1] / step_mm + 1e-9) + 1) * step_mm
    if len(along_mm) < 2:
        along_mm = np.array([0.0, far_mm[-1]])
    line = np.stack([np.interp(along_mm, far_mm, points[:, axis]) for axis in range(3)], axis=1)
    # Odd reflection keeps the ends, and a straight line, where they are.
    reach = min(len(line) - 1, int(np.ceil(4 * SMOOTH_MM / step_mm)))
    padded = np.pad(line, ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd")
    smooth = ndimage.gaussian_filter1d(padded, SMOOTH_MM / step_mm, axis=0, truncate=4.0)
    return smooth[reach : reach + len(line)], along_mm


def frames(line: Points) -> tuple[Points, Points, Points]:
    """Tangent, normal and binormal at each point, turning about the line as little as can be.

    The double reflection method of Wang et al. 2008, "Computation of rotation minimizing frames" (ACM Transactions on
    Graphics 27), table I. The first normal points as far forwards (anterior) as the vessel lets it.
    """
    tangent = np.gradient(line, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-12)
    normal = np.empty_like(tangent)
    first = np.array([0.0, 1.0, 0.0]) if abs(tangent[0, 1]) < 0.9 else np.array([0.0, 0.0, 1.0])
    first -= (first @ tangent[0]) * tangent[0]
    normal[0] = first / np.linalg.norm(first)
    for i in range(len(line) - 1):
        chord = line[i + 1] - line[i]
        square = max(float(chord @ chord), 1e-24)
        carried = normal[i] - 2 / square * (chord @ normal[i]) * chord
        turned = tangent[i] - 2 / square * (chord @ tangent[i]) * chord
        back = tangent[i + 1] - turned
        square = float(back @ back)
        carried = carried - 2 / square * (back @ carried) * back if square > 1e-24 else carried
        carried -= (carried @ tangent[i + 1]) * tangent[i + 1]
        normal[i + 1] = carried / np.linalg.norm(carried)
    return tangent, normal, np.cross(tangent, normal)


def _sample(
    array: Shaped[np.ndarray, "x y z"], affine: Affine, at_mm: Float64[np.ndarray, "across along 3"]
) -> Float32[np.ndarray, "across along"]:
    """Values at points in mm, trilinear; only the points' box is read."""
    at = apply_affine(np.linalg.inv(affine), at_mm)
    flat = at.reshape(-1, 3)
    low = np.clip(np.floor(flat.min(axis=0)), 0, np.array(array.shape) - 1).astype(int)
    high = np.clip(np.ceil(flat.max(axis=0)) + 1, low + 1, array.shape).astype(int)
    part = np.asarray(array[low[0] : high[0], low[1] : high[1], low[2] : high[2]], np.float32)
    values: Float32[np.ndarray, "across along"] = ndimage.map_coordinates(
        part, np.moveaxis(at - low, -1, 0), order=1, mode="constant", cval=OUTSIDE, output=np.float32
    )
    return values
