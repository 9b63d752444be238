"""What every reader demands of a grid and of voxel values before it hands them on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from shared.errors import InputError
from shared.geometry import apply_affine, from_ras, ras_grid
from shared.types import Affine, Grid, Source, Volume, VolumeArray

# Axes this far from perpendicular put the corner of a 200 mm scan 0.35 mm off, about one voxel of a cardiac CT.
MAX_SHEAR_DEG = 0.1
MIN_VOXELS_PER_AXIS = 2


class Canvas:
    """An empty RAS+ volume, x fastest in memory, that is filled through its stored orientation.

    ``stored`` is a view of the volume in the file's own axis order and direction: writing a slab of the file to it
    converts to float32 and turns to RAS+ in one pass, so that at most one slab is held besides the volume.
    """

    def __init__(self, path: Path | str, grid: Grid) -> None:
        self.path, self.grid = path, grid
        self._ras = ras_grid(grid)
        self._array: VolumeArray = np.empty(self._ras.shape, np.float32, order="F")
        self.stored: Shaped[np.ndarray, "i j k"] = from_ras(self._array, grid)
        self._non_finite = 0

    def fill(self, first: int, slab: Shaped[np.ndarray, "i j k"]) -> None:
        """Put ``slab`` at index ``first`` of the stored last axis."""
        part = self.stored[:, :, first : first + slab.shape[2]]
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which is refused below
            part[...] = slab
        if slab.dtype.kind == "f":
            self._non_finite += part.size - int(np.count_nonzero(np.isfinite(part)))

    def volume(self, source: Source) -> Volume:
        """Give the filled volume.

        Raises:
            InputError: some voxels are NaN or infinite.
        """
        if self._non_finite:
            raise InputError(
                self.path,
                f"{self._non_finite} of {self._array.size} voxels are NaN or infinite",
                "set them to a number first (air is -1000 HU)",
            )
        return Volume(self._array, self._ras.affine, source)


def check_grid(path: Path | str, shape: tuple[int, ...], affine: Affine) -> Grid:
    """Check that a shape and an affine are those of a scan in space.

    Raises:
        InputError: not three axes of two voxels or more, a spacing of zero, a degenerate or sheared affine.
    """
    if len(shape) != 3 or min(shape, default=0) < MIN_VOXELS_PER_AXIS:
        raise InputError(path, f"its shape {format_shape(shape)} is not that of a volume", "give a 3D scan")
    affine = np.array(affine, dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.array_equal(affine[3], [0, 0, 0, 1]):
        raise InputError(path, "its affine is no finite 4x4 matrix ending in 0 0 0 1", "correct its header")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not (spacing > 1e-6).all():
        raise InputError(path, f"its spacing {format_mm(spacing)} is not positive", "correct its header")
    cosines = affine[:3, :3] / spacing
    if abs(np.linalg.det(cosines)) < 0.1:
        raise InputError(path, "its affine is degenerate: two axes point the same way", "correct its header")
    off = np.abs(cosines.T @ cosines - np.eye(3)).max()
    shear_deg = float(np.degrees(np.arcsin(min(off, 1.0))))
    if shear_deg > MAX_SHEAR_DEG:
        raise InputError(
            path,
            f"its axes are {shear_deg:.1f} degrees from perpendicular (a tilted gantry?)",
            "resample it to a straight grid first, for example with dcm2niix",
        )
    x, y, z = shape
    return Grid((x, y, z), affine)


def farthest_corner_mm(shape: tuple[int, ...], one: Affine, other: Affine) -> float:
    """How far apart two affines put the same corner of an array, at most, mm."""
    corners = np.array([[i, j, k] for i in (0, shape[0] - 1) for j in (0, shape[1] - 1) for k in (0, shape[2] - 1)])
    apart = apply_affine(one, corners.astype(np.float64)) - apply_affine(other, corners.astype(np.float64))
    return float(np.linalg.norm(apart, axis=1).max())


def format_mm(values: Any) -> str:
    """Write lengths as people do: ``0.35 x 0.35 x 0.5 mm``."""
    return " x ".join(f"{float(value):.4g}" for value in values) + " mm"


def format_shape(shape: tuple[int, ...]) -> str:
    """Write a shape as people do: ``512 x 512 x 206``."""
    return " x ".join(str(n) for n in shape)


def lps_to_ras(affine: Affine) -> Affine:
    """Turn an affine to LPS mm (DICOM, ITK) into one to RAS mm, or back."""
    turned: Affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    return turned


def as_float32(slab: Shaped[np.ndarray, "i j k"], slope: float, intercept: float) -> Float32[np.ndarray, "i j k"]:
    """Apply a linear scale to stored values; computed in float64 where float32 could not hold the stored value."""
    if slope == 1 and intercept == 0:
        return slab
    work = np.float32 if slab.dtype.itemsize <= 2 else np.float64
    with np.errstate(over="ignore", invalid="ignore"):
        scaled: Float32[np.ndarray, "i j k"] = slab * work(slope) + work(intercept)
    return scaled
