"""Orientation, resampling, region of interest, and the way back.

Every function takes and gives ``x y z`` arrays with a 4x4 affine from voxel index to RAS mm. Grids here keep the
input's axis directions, so resampling is separable: one linear interpolation along each axis.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Shaped

from shared.types import Affine, Grid

Array3 = Shaped[np.ndarray, "x y z"]
Box = tuple[slice, slice, slice]
Order = Literal[0, 1]

# MONAI's AFFINE_TOL: a spacing this close to the wanted one is kept as it is.
SPACING_TOLERANCE_MM = 1e-3
# Two grids share their directions if no index strays by more than this along another axis, in voxels.
DIRECTION_TOLERANCE_VOXELS = 0.05


def to_ras(array: Array3, affine: Affine) -> tuple[Array3, Affine]:
    """Turn an array to the closest RAS+ orientation by transposing and flipping; no value changes.

    The array that comes back is a view. An oblique affine keeps its obliquity.
    """
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    turn = io_orientation(affine)
    return apply_orientation(array, turn), affine @ inv_ornt_aff(turn, array.shape)


def from_ras(array: Array3, grid: Grid) -> Array3:
    """Turn a RAS+ array back to the stored orientation of ``grid``: the exact inverse of `to_ras`, also a view.

    Raises:
        ValueError: the array does not have the turned grid's shape.
    """
    from nibabel.orientations import io_orientation

    turn = io_orientation(grid.affine)
    axes = turn[:, 0].astype(int)
    stored: Array3 = array.transpose(axes)
    if stored.shape != tuple(grid.shape):
        raise ValueError(f"an array of shape {array.shape} does not lie on a grid of shape {grid.shape}")
    for axis, sign in enumerate(turn[:, 1]):
        if sign < 0:
            stored = np.flip(stored, axis)
    return stored


def ras_grid(grid: Grid) -> Grid:
    """Give the RAS+ grid that `to_ras` turns an array on ``grid`` to."""
    from nibabel.orientations import inv_ornt_aff, io_orientation

    turn = io_orientation(grid.affine)
    x, y, z = (grid.shape[int(axis)] for axis in np.argsort(turn[:, 0]))
    return Grid((x, y, z), grid.affine @ inv_ornt_aff(turn, grid.shape))


def resample_to_spacing(
    array: Array3, affine: Affine, spacing_mm: float | tuple[float, float, float]
) -> tuple[Array3, Affine]:
    """Resample to a spacing along the array's own axes, trilinear; gives float32, x fastest in memory.

    The first voxel's centre stays where it is and the shape is round((n - 1) * old / new + 1), as in MONAI 1.6
    ``Spacing(pixdim, mode="bilinear", padding_mode="border", diagonal=False)``, with which it agrees.
    An axis within 1e-3 mm of the wanted spacing is kept; if all are, the array itself comes back.

    Raises:
        ValueError: ``spacing_mm`` is not positive.
    """
    old = np.sqrt(np.square(affine[:3, :3]).sum(axis=0))
    wanted = np.broadcast_to(np.asarray(spacing_mm, dtype=np.float64), 3)
    if not (wanted > 0).all():
        raise ValueError(f"spacing must be positive, not {spacing_mm}")
    new = np.where(np.abs(old - wanted) <= SPACING_TOLERANCE_MM, old, wanted)
    if (new == old).all():
        return array, affine
    target = affine.copy()
    target[:3, :3] *= new / old
    # Solved, not divided: where an extent falls on half a voxel the rounding is then MONAI's.
    step = np.diag(np.linalg.solve(target, affine))[:3]
    x, y, z = (int(n) for n in np.round((np.array(array.shape) - 1) * step + 1))
    at = [np.arange(n) / along for n, along in zip((x, y, z), step, strict=True)]
    taps = [_Taps(coordinates, n, reach=np.inf) for coordinates, n in zip(at, array.shape, strict=True)]
    return _interpolate(array, taps, np.dtype(np.float32)), target


def resample_to_grid(array: Array3, affine: Affine, grid: Grid, *, order: Order = 1, box: Box | None = None) -> Array3:
    """Resample onto another grid with the same axis directions, or onto ``box`` of it.

    Linear (``order`` 1, gives float32) or nearest (0, keeps the dtype). A border value holds for one voxel beyond the
    array; farther out is 0. On equal grids the values come back untouched, as a view.

    Raises:
        ValueError: the grids' directions differ.
    """
    to_index = np.linalg.solve(affine, grid.affine)
    stray = np.abs(to_index[:3, :3] - np.diag(np.diag(to_index)[:3])) * np.array(grid.shape)
    if stray.max() > DIRECTION_TOLERANCE_VOXELS:
        raise ValueError("the two grids do not share their axis directions")
    box = box or (slice(0, grid.shape[0]), slice(0, grid.shape[1]), slice(0, grid.shape[2]))
    wanted = [np.arange(*part.indices(n), dtype=np.float64) for part, n in zip(box, grid.shape, strict=True)]
    at = [w * to_index[i, i] + to_index[i, 3] for i, w in enumerate(wanted)]
    if array.shape == tuple(grid.shape) and np.allclose(np.concatenate(at), np.concatenate(wanted), rtol=0, atol=1e-6):
        return array[box] if order == 0 else array[box].astype(np.float32, copy=False)
    taps = [_Taps(a, n, nearest=order == 0) for a, n in zip(at, array.shape, strict=True)]
    return _interpolate(array, taps, np.dtype(np.float32) if order else array.dtype)


class _Taps:
    """The two neighbours of each wanted coordinate along one axis, and their weights.

    Border values hold for ``reach`` voxels beyond the axis; farther out the weights are 0.
    """

    def __init__(
        self, at: Float64[np.ndarray, " n"], length: int, *, nearest: bool = False, reach: float = 1.0
    ) -> None:
        inside = np.clip(at, 0, length - 1)
        if nearest:
            inside = np.floor(inside + 0.5)
        self.low = np.minimum(inside.astype(np.intp), max(length - 2, 0))
        self.high = np.minimum(self.low + 1, length - 1)
        reached = (at >= -reach) & (at <= length - 1 + reach)
        self.high_weight = ((inside - self.low) * reached).astype(np.float32)
        self.low_weight = reached.astype(np.float32) - self.high_weight

    def window(self) -> slice:
        """Cut the axis to what is needed; shifts the indices."""
        first, last = (int(self.low.min()), int(self.high.max())) if len(self.low) else (0, 0)
        self.low, self.high = self.low - first, self.high - first
        return slice(first, last + 1)


def _interpolate(array: Array3, taps: list[_Taps], dtype: np.dtype[Any]) -> Array3:
    """Interpolate plane by plane: along z, then y, then x, so that only a few planes are held."""
    window = tuple(axis.window() for axis in taps)
    planes = array[window].transpose()  # z y x: a plane is contiguous where x is fastest
    x, y, z = taps
    out = np.empty((len(z.low), len(y.low), len(x.low)), dtype)
    y_low, y_high = y.low_weight[:, None], y.high_weight[:, None]
    for k in range(len(z.low)):
        plane = planes[z.low[k]] * z.low_weight[k]
        if z.high_weight[k]:
            plane += planes[z.high[k]] * z.high_weight[k]
        rows = plane[y.low] * y_low + plane[y.high] * y_high
        out[k] = np.take(rows, x.low, axis=1) * x.low_weight + np.take(rows, x.high, axis=1) * x.high_weight
    return out.transpose()


def bounding_box(mask: Bool[np.ndarray, "x y z"], margin_mm: float, spacing_mm: tuple[float, float, float]) -> Box:
    """Give the smallest box around a mask with ``margin_mm`` on each side, clipped to the array.

    Raises:
        ValueError: the mask is empty.
    """
    sides = []
    for axis, (length, spacing) in enumerate(zip(mask.shape, spacing_mm, strict=True)):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not len(hit):
            raise ValueError("an empty mask has no bounding box")
        margin = int(np.ceil(margin_mm / spacing - 1e-9))
        sides.append(slice(max(int(hit[0]) - margin, 0), min(int(hit[-1]) + 1 + margin, length)))
    return sides[0], sides[1], sides[2]


def crop(array: Array3, affine: Affine, box: Box) -> tuple[Array3, Affine]:
    """Cut a box out of an array (a view) and move the affine's origin to the box's first voxel."""
    start = np.array([part.start or 0 for part in box], dtype=np.float64)
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ start + affine[:3, 3]
    return array[box], moved


def box_within(grid: Grid, shape: tuple[int, int, int], affine: Affine) -> Box:
    """Give the box of ``grid`` that lies within another array's voxels, up to a voxel beyond its last centres.

    Both grids share their axis directions.
    """
    to_grid = np.linalg.solve(grid.affine, affine)
    sides = []
    for axis in range(3):
        low = to_grid[axis, 3] - to_grid[axis, axis]
        high = low + to_grid[axis, axis] * (shape[axis] + 1)
        sides.append(slice(max(int(np.ceil(low)), 0), min(int(np.floor(high)) + 1, grid.shape[axis])))
    return sides[0], sides[1], sides[2]


def apply_affine(
    affine: Affine, points: Float64[np.ndarray, "*n 3"] | Float32[np.ndarray, "*n 3"]
) -> Float64[np.ndarray, "*n 3"]:
    """Carry points through an affine: voxel indices to mm, or back with the inverse."""
    carried: Float64[np.ndarray, "*n 3"] = points @ affine[:3, :3].T + affine[:3, 3]
    return carried
