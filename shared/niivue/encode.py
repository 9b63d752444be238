"""Volumes, labels and surfaces as the browser takes them: raw arrays in files, x fastest.

A scan goes out as half floats, which hold every whole number to 2048 (and every second one to 4096): HU come through
unchanged where it matters, at half the size of float32, and a GPU filters them as they are. Files are written in
place: whoever calls announces them when all are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from shared.geometry import bounding_box
from shared.types import Affine, LabelArray, VolumeArray

if TYPE_CHECKING:
    from trimesh import Trimesh

Dims = tuple[int, int, int]

FIRST_VOXELS = 2**22  # of the coarse picture that is there at once: 8 MB
FINE_VOXELS = 2**28  # more than that, 512 MB, is shown coarser
HALF_MAX = 65_504.0


@dataclass(frozen=True, slots=True)
class EncodedVolume:
    """A scan as files in a folder: ``first`` is coarse and quick to load, ``fine`` what is looked at."""

    dims: Dims
    affine: list[list[float]]
    first: Dims
    fine: Dims

    FIRST_NAME = "first.f16"
    FINE_NAME = "fine.f16"


@dataclass(frozen=True, slots=True)
class EncodedLabels:
    """A label map cut to what is labelled; ``low`` and ``high`` are that box in fractions of the scan's extent."""

    dims: Dims
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    present: tuple[int, ...]


def write_volume(
    array: VolumeArray,
    affine: Affine,
    folder: Path,
    *,
    first_voxels: int = FIRST_VOXELS,
    fine_voxels: int = FINE_VOXELS,
) -> EncodedVolume:
    """Write a scan ``x y z`` as ``first.f16`` and ``fine.f16``; both cover its whole extent.

    A scan of more than ``fine_voxels`` is written with fewer voxels, the nearest of the scan's own.
    """
    first, fine = fit_dims(array.shape, affine, first_voxels), fit_dims(array.shape, affine, fine_voxels)
    _write_half(array, first, folder / EncodedVolume.FIRST_NAME)
    _write_half(array, fine, folder / EncodedVolume.FINE_NAME)
    x, y, z = array.shape
    return EncodedVolume((x, y, z), affine.tolist(), first, fine)


def fit_dims(shape: tuple[int, ...], affine: Affine, most_voxels: int) -> Dims:
    """Voxels along each axis such that no more than ``most_voxels`` are left and they come near to cubes."""
    size = np.array(shape, dtype=np.float64)
    extent_mm = size * np.linalg.norm(affine[:3, :3], axis=0)
    low, high = 0.0, float(size.max() / extent_mm.min())
    if np.prod(size) > most_voxels:  # voxels per mm, by bisection: axes that are coarse already keep what they have
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (
                (middle, high) if np.prod(np.minimum(size, extent_mm * middle)) <= most_voxels else (low, middle)
            )
        size = np.maximum(np.floor(np.minimum(size, extent_mm * low)), 1)
    x, y, z = (int(n) for n in size)
    return x, y, z


def _write_half(array: VolumeArray, dims: Dims, path: Path) -> None:
    """Write the nearest voxels of a ``dims`` grid over the same extent, slice by slice."""
    x, y, z = (_nearest(n, count) for n, count in zip(array.shape, dims, strict=True))
    same = array.shape[:2] == dims[:2]
    with path.open("wb") as file:
        for k in z:
            plane = array[:, :, k] if same else array[x[:, None], y[None, :], k]
            file.write(np.clip(plane, -HALF_MAX, HALF_MAX).astype("<f2").tobytes(order="F"))


def _nearest(length: int, count: int) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Index of the voxel under the centre of each of ``count`` equal parts of an axis."""
    return ((np.arange(count) + 0.5) * length / count).astype(np.intp)


def write_labels(labels: LabelArray, path: Path) -> EncodedLabels | None:
    """Write the box that holds labels, uint8; None, and no file, where nothing is labelled."""
    if not labels.any():
        return None
    box = bounding_box(labels > 0, 1.0, (1.0, 1.0, 1.0))
    part = labels[box]
    path.write_bytes(part.tobytes(order="F"))
    sides = list(zip(box, labels.shape, strict=True))
    (ax, ay, az), (bx, by, bz) = (tuple(side.start / n for side, n in sides), tuple(side.stop / n for side, n in sides))
    x, y, z = part.shape
    present = tuple(int(label) for label in np.unique(part) if label)
    return EncodedLabels((x, y, z), (ax, ay, az), (bx, by, bz), present)


def write_surface(mesh: Trimesh, path: Path) -> None:
    """Write a surface in RAS mm as MZ3, which niivue reads.

    The format: github.com/neurolabusc/surf-ice/tree/master/mz3.
    """
    faces = np.asarray(mesh.faces, "<i4")
    vertices: Float64[np.ndarray, "v 3"] = np.asarray(mesh.vertices)
    with path.open("wb") as file:
        file.write(np.array([23117, 3], "<u2").tobytes())  # magic; faces and vertices follow
        file.write(np.array([len(faces), len(vertices), 0], "<u4").tobytes())
        file.write(faces.tobytes())
        file.write(vertices.astype("<f4").tobytes())
